"""The program of docs/deployment.md does what `i2p-zoo predict` does with the same file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import i2p_zoo
from benchmarks.deployment import main
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


@pytest.mark.long
def test_the_page_s_tables_are_written_by_the_commands_that_it_names(tmp_path):
    folder, page = tmp_path / "model", tmp_path / "page.md"
    i2p_zoo.create_model("test_resnet", num_classes=10, voxel_size=0.07).save_pretrained(folder)
    text = PAGE.read_text("utf-8")
    page.write_text(text, "utf-8")
    done = CliRunner().invoke(main, ["exported", str(folder), "--clouds", "3", "--page", str(page)], catch_exceptions=False)
    assert done.exit_code == 0
    begin, end = text.index("<!-- exported -->"), text.index("<!-- end of exported -->")
    written = page.read_text("utf-8")
    assert written.startswith(text[:begin])
    assert written.endswith(text[end:])
    assert "| onnxruntime |" in written
    assert "| 3 of 3 |" in written
