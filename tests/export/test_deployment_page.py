"""The program of docs/deployment.md does what `i2p-zoo predict` does with the same file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from i2p_zoo.experiments.classification import classify, normalize
from tests.export.conftest import sphere

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"


def test_the_program_of_the_page_prints_the_networks_classes(network, path, monkeypatch, capsys):
    program = next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S) if "onnxruntime" in code)
    assert len(program.splitlines()) <= 35
    monkeypatch.chdir(path.parent)
    np.savetxt("chair.xyz", sphere(400) * [3, 2, 1] + 7)
    exec(compile(program, str(PAGE), "exec"), {})
    shares = classify(network, normalize({"points": np.loadtxt("chair.xyz")}))
    assert capsys.readouterr().out.splitlines() == [f"{label}: {100 * share:.1f} %" for label, share in shares.items()]
