"""Networks to look at clouds with, and whether the libraries that draw are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import i2p_zoo
from i2p_zoo.modules import set_class_names_
from i2p_zoo.segmentation import create_unet
from i2p_zoo.viewing.spaces import write_space


@pytest.fixture(scope="session")
def classifier():
    """Of three classes, one of which has a name that is markup; not to be changed."""
    model = i2p_zoo.create_model("test_resnet", num_classes=3, stem="point", voxel_size=0.1).eval()
    set_class_names_(model, ("chair", "<b>table</b>", "sofa"))
    return model


@pytest.fixture(scope="session")
def unet():
    """Of two classes of points; not to be changed."""
    model = create_unet("test_resnet", num_classes=2, pretrained=False, stem="point", voxel_size=0.25).eval()
    set_class_names_(model, ("ground", "tree"))
    return model


_BUILD = """
import json, os, runpy
from i2p_zoo.viewing import app
pages = {"classifier": app.build_app("classifier"), "unet": app.build_app("unet", extent=2.0), "none": app.build_app()}
os.chdir("space")
app.launch_app = lambda page: pages.update(space=page)
runpy.run_path("app.py", run_name="__main__")
print(json.dumps({name: page.get_config_file() for name, page in pages.items()}, default=str))
"""


@pytest.fixture(scope="session")
def built(classifier, unet, tmp_path_factory):
    """A folder with the Space of a network, and the configs of pages, that of the Space's program too.

    They are built in a process of their own: gradio leaves event loops open, which other tests would be told of.
    """
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("pages")
    classifier.save_pretrained(folder / "classifier")
    unet.save_pretrained(folder / "unet")
    (folder / "parts").mkdir()
    np.save(folder / "parts" / "led.npy", np.eye(3))
    write_space(folder / "space", str(folder / "classifier"), examples=folder / "parts")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", _BUILD], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder / "space", json.loads(done.stdout.splitlines()[-1])
