"""Pairing two implementations of a network by the order that their layers run in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from i2p_zoo.errors import CheckpointError
from i2p_zoo.zoo.execution_order import rename, run_layers

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block; `shortcut_first` runs the shortcut before the branch."""

    def __init__(self, shortcut_first: bool, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.first = shortcut_first
        self.a, self.norm_a = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.act = activation()

    def forward(self, x):
        if self.first:
            shortcut = self.norm_b(self.b(x))
            return self.act(self.norm_a(self.a(x)) + shortcut)
        branch = self.norm_a(self.a(x))
        return self.act(branch + self.norm_b(self.b(x)))


def network(shortcut_first: bool = False, flat: bool = False, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """A stem, a block and a head, which is a convolution over all of its input or a linear layer."""
    head = [nn.Flatten(), nn.Linear(4 * 64, 5)] if flat else [nn.Conv2d(4, 5, 8), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(True), Block(shortcut_first, activation), *head).eval()


class WithAuxiliary(nn.Module):
    """The same network with a layer that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.auxiliary = network(), nn.Linear(2, 2)

    def forward(self, x):
        return self.main(x)


def live(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("shortcut_first", [False, True])
def test_layers_pair_up_whatever_their_names_and_the_order_of_branches(shortcut_first, flat):
    source, target = live(network()), network(shortcut_first, flat)
    state = rename(source.state_dict(), source, target, IMAGES)
    assert list(state.keys() ^ target.state_dict().keys()) == []
    torch.testing.assert_close(target(IMAGES), source(IMAGES))


def test_networks_that_differ_in_something_that_is_no_weight_are_refused():
    source = live(network())
    with pytest.raises(CheckpointError, match="compute different outputs: relative error"):
        rename(source.state_dict(), source, network(activation=nn.Hardtanh), IMAGES)


class Branches(nn.Module):
    """Two branches of one signature, of which one is rectified; `swapped` runs them in the other order."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        self.swapped = swapped
        self.a, self.norm_a = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.b, self.norm_b = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        branches = {"a": lambda: self.norm_a(self.a(x)).relu(), "b": lambda: self.norm_b(self.b(x))}
        return sum(branches[name]() for name in ("ba" if self.swapped else "ab"))


def test_layers_paired_wrongly_are_refused_though_the_weights_switch_them_off():
    source = live(Branches(swapped=False))
    for norm in (source.norm_a, source.norm_b):
        nn.init.zeros_(norm.weight), nn.init.ones_(norm.bias)
    rename(source.state_dict(), source, Branches(swapped=False), IMAGES)
    with pytest.raises(CheckpointError, match="compute different outputs: relative error"):
        rename(source.state_dict(), source, Branches(swapped=True), IMAGES)


def test_layers_left_over_are_named():
    source, target = network(), nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 5))
    with pytest.raises(CheckpointError, match=r"'2\.a'.*of the source, \[\] of the target"):
        rename(source.state_dict(), source, target, IMAGES)


def test_layers_of_the_target_that_do_not_run_are_named():
    source, target = network(), WithAuxiliary()
    with pytest.raises(CheckpointError, match=r"'auxiliary\.bias', 'auxiliary\.weight'"):
        rename(source.state_dict(), source, target, IMAGES)


def test_layers_are_listed_in_the_order_that_they_run_in():
    names = [layer.name for layer in run_layers(network(shortcut_first=True), IMAGES)]
    assert names == ["0", "2.b", "2.norm_b", "2.a", "2.norm_a", "3"]


def test_neither_network_runs_on_real_memory_when_listed():
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    run_layers(model, IMAGES)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
