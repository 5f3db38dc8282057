"""Which tensors move the outputs: against outputs measured again with each element changed, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from i2p_zoo.networks.timm_models import create_random_model
from i2p_zoo.zoo.sensitivity import measure_sensitivity
from tests.helpers import random_images, randomise_norms_, seeded


class Residual(nn.Module):
    """A branch whose gate is zero in half of the channels, beside a layer that nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = (
            nn.Conv2d(4, 4, 3, padding=1),
            randomise_norms_(nn.BatchNorm2d(4)),
            nn.ReLU(inplace=True),
        )
        self.gate = nn.Parameter(torch.tensor([1.0, 0.0, 0.5, 0.0]).view(4, 1, 1))
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return x + self.act(self.norm(self.conv(x))) * self.gate


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double().eval()


IMAGES = random_images(2, 4, 5, 5)


@torch.no_grad()
def moved(model, key, change):
    """How far a change of a tensor moves the outputs."""
    twin = copy.deepcopy(model)
    tensor = twin.state_dict()[key]
    tensor += change
    return (twin(IMAGES) - model(IMAGES)).abs()


def test_elements_that_move_the_outputs_are_those_with_a_gradient(model):
    sensitivity = measure_sensitivity(model, IMAGES)
    floating = {key: tensor for key, tensor in model.state_dict().items() if tensor.is_floating_point()}
    assert sensitivity.keys() == floating.keys()
    for key, tensor in floating.items():
        moves = torch.zeros(tensor.numel(), dtype=torch.bool)
        for element in range(tensor.numel()):
            change = torch.zeros(tensor.numel(), dtype=torch.float64)
            change[element] = 1e-4
            moves[element] = bool((moved(model, key, change.view(tensor.shape)) > 0).any())
        assert torch.equal(sensitivity[key] != 0, moves.view(tensor.shape)), key
    assert not sensitivity["0.unused.weight"].any()
    assert not sensitivity["0.norm.running_var"][[1, 3]].any()
    assert sensitivity["0.norm.running_var"][[0, 2]].all()


def test_norm_is_how_far_noise_of_the_tensors_size_moves_the_outputs(model):
    largest = model(IMAGES).detach().abs().amax(1, keepdim=True)
    for key, moves in measure_sensitivity(model, IMAGES).items():
        tensor, size = model.state_dict()[key], 1e-5
        noise = torch.randn((20, *tensor.shape), generator=seeded(), dtype=torch.float64) * tensor.square().mean().sqrt()
        changes = [(moved(model, key, change * size) / size / largest).square().mean(1).sum().sqrt() for change in noise]
        mean = float(torch.stack(changes).square().mean().sqrt())
        assert mean == 0 if "unused" in key else 0.2 < float(moves.norm()) / mean < 5, key


def test_tensors_of_zeros_count_as_of_size_one_and_zero_outputs_as_themselves():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    nn.init.zeros_(model[1].weight), nn.init.zeros_(model[1].bias)
    sensitivity = measure_sensitivity(model, torch.ones(1, 4, 1, 1))
    assert all(moves.abs().min() > 0 for moves in sensitivity.values())


def test_tied_tensors_have_each_others_and_frozen_ones_their_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 4)).eval().requires_grad_(False)
    model[2].weight = model[1].weight
    sensitivity = measure_sensitivity(model, torch.ones(1, 4, 1, 1))
    assert torch.equal(sensitivity["1.weight"], sensitivity["2.weight"])
    assert all(moves.norm() > 0 for moves in sensitivity.values())
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("detached", [False, True])
def test_several_outputs_count_together_and_what_has_no_gradient_as_unseen(detached):
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            first = self.first(x)
            second = self.second(first)
            return [first.detach(), second.detach()] if detached else [first, second]

    sensitivity = measure_sensitivity(Pyramid().eval(), torch.randn(1, 3, 4, 4, generator=seeded()))
    assert {bool(moves.any()) for moves in sensitivity.values()} == {not detached}


def test_training_mode_and_precision_of_the_network_make_no_difference(model):
    expected = measure_sensitivity(model, IMAGES)
    other = copy.deepcopy(model).train()
    moves = measure_sensitivity(other, IMAGES)
    assert all(torch.equal(moves[key], expected[key]) for key in expected)
    assert other.training
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in other.state_dict().items())
    single = measure_sensitivity(model, IMAGES.float())
    assert all(torch.allclose(single[key].double(), expected[key], rtol=1e-3, atol=1e-6) for key in expected)


def test_what_a_network_caches_for_evaluation_hides_no_tensor():
    """LeViT keeps its biases of pairs by device."""
    model = create_random_model("levit_128s")
    images = torch.randn(1, 3, 224, 224, generator=seeded())
    with torch.no_grad():
        model(images)
    biases = {key: moves for key, moves in measure_sensitivity(model, images).items() if key.endswith("attention_biases")}
    assert biases
    assert all(moves.any() for moves in biases.values())


def test_a_gradient_that_two_tensors_share_is_scaled_for_each():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.full((2,), 3.0)), nn.Parameter(torch.full((2,), 5.0))

        def forward(self, x):
            return x.flatten(1) + (self.first + self.second)

    sensitivity = measure_sensitivity(Sum().eval(), torch.ones(2, 2, 1, 1))
    torch.testing.assert_close(sensitivity["first"] / 3, sensitivity["second"] / 5)
