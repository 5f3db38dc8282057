"""A Space's folder as the Hub reads it: the card's front matter by its own client, the program by running it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

import i2p_zoo
from conversion.recipes import read_toml
from i2p_zoo import CheckpointError, InvalidInputError
from i2p_zoo.viewing.spaces import write_space

pytest.importorskip("gradio")
ROOT = Path(__file__).parents[2]


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_checkpoint_and_examples_are_copied_and_the_program_builds_the_page(built):
    folder, pages = built
    assert names(folder) == [
        "README.md", "app.py", "examples/led.npy", "model/README.md", "model/config.json", "model/model.safetensors",
        "requirements.txt",
    ]  # fmt: skip
    assert not list(folder.parent.glob(".space*"))
    assert "one of 3 classes" in str(pages["space"]["components"])
    assert "led.npy" in str(pages["space"]["components"])


def test_the_card_is_one_of_a_space(tmp_path):
    folder = write_space(tmp_path / "mine", "someone/i2p-resnet18")
    card = SpaceCard.load(folder / "README.md").data
    assert (card.sdk, card.app_file) == ("gradio", "app.py")
    assert card.sdk_version == metadata.version("gradio")
    assert card.title == "i2p-zoo"
    assert card.models == ["someone/i2p-resnet18"]
    assert (card.colorFrom, card.colorTo) == ("indigo", "green")
    assert card.emoji
    assert 'build_app(model="someone/i2p-resnet18", image_network=' in (folder / "app.py").read_text()


def test_requirements_bring_this_version_with_the_app(tmp_path):
    (line,) = (write_space(tmp_path / "mine") / "requirements.txt").read_text().splitlines()
    requirement = Requirement(line)
    assert requirement.name == "i2p-zoo"
    assert requirement.extras == {"app", "data", "demo"}
    assert i2p_zoo.__version__ in requirement.specifier
    assert requirement.extras <= set(read_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"])


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="not empty"):
        write_space(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "app.py" in names(write_space(tmp_path / "empty"))


def test_a_folder_without_a_checkpoint_leaves_nothing(tmp_path):
    (tmp_path / "network").mkdir()
    with pytest.raises(CheckpointError, match="not found"):
        write_space(tmp_path / "mine", str(tmp_path / "network"))
    assert [path.name for path in tmp_path.iterdir()] == ["network"]
