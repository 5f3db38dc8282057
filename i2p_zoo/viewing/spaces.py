"""The app as a folder that a Hugging Face Space runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub

from i2p_zoo._extras import require
from i2p_zoo._version import __version__
from i2p_zoo.checkpoints.config import read_config
from i2p_zoo.checkpoints.folder_files import CARD, CONFIG
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.staging import locate
from i2p_zoo.viewing.app import find_examples
from i2p_zoo.viewing.image_views import IMAGE_NETWORK

_PROGRAM = '''"""The page of `i2p-zoo app`, as a Space of the Hugging Face Hub."""

from i2p_zoo.viewing.app import build_app, launch_app

if __name__ == "__main__":
    launch_app(build_app({arguments}))
'''
_CARD = """---
{front_matter}
---

# {title}

Image networks of timm on point clouds: drop a mesh or a cloud, or an image. Made by `i2p-zoo app --space` of i2p-zoo {version}.
"""
_TITLE = "i2p-zoo"
_PYTHON = "3.12"


def write_space(
    folder: str | os.PathLike[str],
    model: str | None = None,
    *,
    image_network: str = IMAGE_NETWORK,
    examples: str | os.PathLike[str] | None = None,
    extent: Any = None,
) -> Path:
    """Writes a folder to upload as a Space: app.py, requirements.txt, README.md, and copies of a checkpoint and of examples.

    Args:
        folder: to make; if it exists it must be empty.
        model: a checkpoint's folder, which is copied, or the name of one on the Hub; None for no classes of clouds.
        image_network, examples, extent: as `i2p_zoo.viewing.app.build_app`.

    Returns:
        The folder.

    Raises:
        InvalidInputError: the folder has something in it, or the examples none that is read.
        CheckpointError: the config of a checkpoint's folder is damaged or foreign.
        MissingExtraError: gradio is not installed, whose version the Space names.
        OSError: it cannot be written.
    """
    target = Path(folder)
    if target.exists() and any(target.iterdir()):
        raise InvalidInputError(f"{target} is not empty; a Space is written into a new folder.")
    require("gradio", extra="app")
    target.parent.mkdir(parents=True, exist_ok=True)
    arguments: dict[str, Any] = {"image_network": image_network}
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".space-") as place:
        stage = Path(place) / "space"
        stage.mkdir()
        if model is not None:
            arguments["model"] = _copy_checkpoint(Path(model), stage / "model") if Path(model).is_dir() else model
        if examples is not None:
            (stage / "examples").mkdir()
            for path in find_examples(stage, examples):
                shutil.copyfile(path, stage / "examples" / path.name)
            arguments["examples"] = "examples"
        if extent is not None:
            arguments["extent"] = extent
        text = ", ".join(f"{name}={value!r}" for name, value in sorted(arguments.items(), key=lambda pair: pair[0] != "model"))
        (stage / "app.py").write_text(_PROGRAM.format(arguments=text.replace("'", '"')), encoding="utf-8", newline="\n")
        (stage / "requirements.txt").write_text(f"i2p-zoo[app,data,demo]=={__version__}\n", encoding="utf-8", newline="\n")
        (stage / "README.md").write_text(_format_card(model), encoding="utf-8", newline="\n")
        if target.exists():
            target.rmdir()
        stage.rename(target)
    return target


def _copy_checkpoint(source: Path, target: Path) -> str:
    """Copies the files of a checkpoint, wherever a writer that was killed left them; returns the copy's name in the Space."""
    config = read_config(locate(source, CONFIG))
    target.mkdir()
    for name in (CONFIG, CARD, *config["i2p"]["weights"]):
        if name != CARD or locate(source, name).is_file():
            shutil.copyfile(locate(source, name), target / name)
    return target.name


def _format_card(model: str | None) -> str:
    on_hub = [model] if model is not None and not Path(model).is_dir() and "/" in model else None
    data = huggingface_hub.SpaceCardData(
        title=_TITLE,
        emoji="🧊",
        colorFrom="indigo",
        colorTo="green",
        sdk="gradio",
        sdk_version=metadata.version("gradio"),
        python_version=_PYTHON,
        app_file="app.py",
        pinned=False,
        models=on_hub,
    )
    return _CARD.format(front_matter=data.to_yaml(), title=_TITLE, version=__version__)
