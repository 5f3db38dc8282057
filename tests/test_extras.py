"""Optional dependencies: what is there is imported, what is not names the extra that brings it."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from i2p_zoo import I2PError, MissingExtraError, pictures
from i2p_zoo._extras import require
from i2p_zoo.cli import deployment, display, main
from i2p_zoo.experiments import photographs

BROUGHT = {
    extra: [line for line in metadata.requires("i2p-zoo") if f"extra == '{extra}'" in line] for extra in ("demo", "finetune")
}


@pytest.mark.parametrize("module", ["json", "os.path", "matplotlib.figure"])
def test_a_module_that_is_there_is_returned(module):
    assert require(module, extra="demo") is sys.modules[module]


@pytest.mark.parametrize("module", ["no_such_module_of_anybody", "json.no_such_part", "no_such_module_of_anybody.part"])
def test_a_missing_module_names_the_extra_and_the_command(module):
    with pytest.raises(MissingExtraError, match=r'pip install "i2p-zoo\[data\]"') as caught:
        require(module, extra="data")
    assert f"`{module}`" in str(caught.value)
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, I2PError)


def test_a_module_whose_own_import_fails_says_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import lacking_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"`half_installed` .*lacking_dependency.*i2p-zoo\[spconv\]"):
        require("half_installed", extra="spconv")


def test_other_errors_of_an_import_are_not_taken_for_a_missing_module(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        require("broken_module", extra="demo")


USERS = {
    "matplotlib.figure": lambda: pictures.draw_curves(Path("unused.png"), {"run": [[1.0]]}),
    "matplotlib.backends.backend_agg": lambda: pictures.draw_curves(Path("unused.png"), {"run": [[1.0]]}),
    "skimage.data": photographs.load_photographs,
    "sklearn.datasets": photographs.load_photographs,
    "PIL.Image": photographs.load_photographs,
}


@pytest.mark.parametrize(("module", "use"), USERS.items(), ids=USERS.keys())
def test_pictures_and_photographs_name_an_extra_that_exists(module, use, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    extra = "finetune" if module.startswith("matplotlib") else "demo"
    with pytest.raises(MissingExtraError, match=rf"i2p-zoo\[{extra}\]") as caught:
        use()
    assert f"`{module}`" in str(caught.value)
    package = module.split(".")[0]
    distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn", "PIL": "pillow"}.get(package, package)
    assert any(requirement.startswith(distribution) for requirement in BROUGHT[extra])


BEFORE_LOADING = {
    "view": (["view", "cloud.npy", "--model", "none"], "plotly.io", "view"),
    "app": (["app", "none"], "gradio", "app"),
    "export": (["export", "none", "--out", "none.onnx"], "onnxscript", "onnx"),
}


@pytest.mark.parametrize(("command", "module", "extra"), BEFORE_LOADING.values(), ids=BEFORE_LOADING.keys())
def test_a_command_names_its_extra_before_it_loads_a_network(command, module, extra, monkeypatch):
    """Loading one, and looking for it on the Hub, may take a minute."""
    monkeypatch.setitem(sys.modules, module, None)
    for commands in (display, deployment):
        monkeypatch.setattr(commands, "load_network", lambda *arguments: pytest.fail("a network was loaded"))
    result = CliRunner().invoke(main, command)
    assert f'pip install "i2p-zoo[{extra}]"' in result.stderr
