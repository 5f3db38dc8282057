"""The program of docs/deployment.md does what `i2p-zoo predict` does with the same file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import i2p_zoo
from i2p_zoo.experiments.classification import classify, normalize
from tests.export.conftest import sphere

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"


def test_the_program_of_the_page_prints_the_networks_classes(tmp_path, monkeypatch, capsys):
    program = next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S) if "onnxruntime" in code)
    assert len(program.splitlines()) <= 35
    network = i2p_zoo.create_model("test_resnet", num_classes=5, stem="point").eval()
    network.provenance = network.provenance.with_settings(normalization="unit_sphere")
    network.pretrained_cfg["label_names"] = ("bed", "chair", "desk", "lamp", "sofa")
    monkeypatch.chdir(tmp_path)
    i2p_zoo.export_onnx(network, "model.onnx")
    np.savetxt("chair.xyz", sphere(400) * [3, 2, 1] + 7)
    exec(compile(program, str(PAGE), "exec"), {})
    shares = classify(network, normalize({"points": np.loadtxt("chair.xyz")}))
    assert capsys.readouterr().out.splitlines() == [f"{label}: {100 * share:.1f} %" for label, share in shares.items()]
