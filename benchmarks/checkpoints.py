"""Loading and converting i2p-resnet50 against the least that either can do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import i2p_zoo
from benchmarks.timing import Result, compare, take_turns
from i2p_zoo.networks.timm_models import create_random_model
from i2p_zoo.zoo.conversion import convert_network


def loading(quick: bool = False) -> Iterator[Result]:
    """`from_pretrained` of a folder, against reading its file and building timm's network on the meta device."""
    name = "resnet18" if quick else "resnet50"
    source = create_random_model(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        model, _ = convert_network(source, {}, name, {})
        model.save_pretrained(folder)
        state = model.state_dict()

        def ours() -> nn.Module:
            loaded: nn.Module = i2p_zoo.from_pretrained(folder)
            return loaded

        def least() -> dict[str, Tensor]:
            with torch.device("meta"):
                timm.create_model(name)
            return load_file(folder / "model.safetensors")

        def usual() -> nn.Module:
            network: nn.Module = timm.create_model(name)
            network.load_state_dict(plane)
            return network

        plane = source.state_dict()
        if any(not torch.equal(value, state[key]) for key, value in ours().state_dict().items()):
            raise RuntimeError("What was loaded is not what was saved: not timed.")
        times = take_turns({"ours": ours, "load_file + meta": least, "timm, 2D": usual})
        yield compare("loading", "i2p-" + name, times, "ours", "load_file + meta", -1.3)
        yield compare("loading", "i2p-" + name, times, "ours", "timm, 2D")


def converting(quick: bool = False) -> Iterator[Result]:
    """Inflating a network in hand and saving it, against constructing timm's and writing a file of the same size."""
    name = "resnet18" if quick else "resnet50"
    with tempfile.TemporaryDirectory() as temporary:
        source = create_random_model(name)
        state = {key: value.clone() for key, value in i2p_zoo.inflate(source).state_dict().items()}

        def ours() -> None:
            model = i2p_zoo.inflate(timm.create_model(name))
            i2p_zoo.save_pretrained(model, Path(temporary) / "ours")

        def least() -> None:
            timm.create_model(name)
            save_file(state, Path(temporary) / "least.safetensors")

        times = take_turns({"ours": ours, "timm + save_file": least})
        yield compare("converting", "i2p-" + name, times, "ours", "timm + save_file", -1.5)
