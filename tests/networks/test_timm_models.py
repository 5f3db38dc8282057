"""Random networks to certify: every branch alive, outputs that move with the image, rounding that does not grow."""

from __future__ import annotations

import copy
import itertools

import pytest
import timm
import torch
from torch import nn

from i2p_zoo import NotFoundError
from i2p_zoo.modules import image_size
from i2p_zoo.networks.timm_models import (
    create_random_model,
    create_timm_model,
    example_images,
    randomize_constants_,
    randomize_parameters_,
    randomize_statistics_,
    widen_weights_,
)
from tests.helpers import relative_error


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_nfnet", "test_mambaout"])
def test_no_parameter_of_a_random_network_is_a_constant(name):
    for key, parameter in create_random_model(name).named_parameters():
        assert parameter.numel() == 1 or parameter.std() > 0, key


def test_gates_that_timm_starts_at_nothing_are_alive():
    source, model = timm.create_model("test_convnext"), create_random_model("test_convnext")
    gates = [key for key, p in source.named_parameters() if key.endswith("gamma")]
    assert gates
    for key in gates:
        assert source.get_parameter(key).abs().max() < 1e-3
        assert model.get_parameter(key).abs().max() > 0.1


def test_constants_are_drawn_about_their_value_and_weights_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.GroupNorm(2, 64))
    with torch.no_grad():
        model[1].weight.fill_(-2)
    weight = model[0].weight.clone()
    randomize_constants_(model)
    assert torch.equal(model[0].weight, weight)
    scale = model[1].weight.detach()
    assert -3 <= float(scale.min()) < float(scale.max()) <= -1
    assert float(model[1].bias.detach().std()) == pytest.approx(0.3, rel=0.4)
    assert float(model[2].bias.detach().std()) == pytest.approx(0.5, rel=0.4)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet_evos", "tf_efficientnet_cc_b0_4e"])
def test_every_parameter_is_drawn_anew_whatever_it_was_and_the_image_is_still_seen(name):
    model = timm.create_model(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    images, other = torch.randn(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    randomize_parameters_(model, images)
    for key, parameter in model.named_parameters():
        assert parameter.numel() == 1 or parameter.std() > 0, key
    with torch.no_grad():
        outputs = model(images)
        assert relative_error(model(other), outputs) > 1e-2
        assert relative_error(outputs, copy.deepcopy(model).double()(images.double())) < 5e-6


def test_weights_are_drawn_about_one_and_other_vectors_about_their_mean():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)).eval()
    model.scale = nn.Parameter(torch.linspace(1, 3, 64))
    with torch.no_grad():
        model[1].weight.zero_(), model[1].bias.fill_(7.0)
    randomize_parameters_(model, torch.randn(1, 3, 8, 8))
    kernel, weight, bias, scale = (t.detach() for t in (model[0].weight, model[1].weight, model[1].bias, model.scale))
    assert 0.5 <= float(weight.min()) < float(weight.max()) <= 1.5
    assert float(bias.abs().max()) < 2
    assert 1 <= float(scale.min()) < float(scale.max()) <= 3
    assert not torch.equal(scale.sort().values, scale)
    assert float(kernel.std()) == pytest.approx((2 / 27) ** 0.5, rel=0.1)


def test_tables_are_drawn_wide_and_weights_of_layers_and_scales_of_channels_are_not_tables():
    source, model = timm.create_model("swin_tiny_patch4_window7_224"), create_random_model("swin_tiny_patch4_window7_224")
    for key, parameter in model.named_parameters():
        if "table" in key:
            assert float(source.get_parameter(key).detach().std()) < 0.03
            assert float(parameter.detach().std()) == pytest.approx(0.3, rel=0.1)
        elif parameter.ndim > 1:
            assert float(parameter.detach().std()) == pytest.approx(float(source.get_parameter(key).detach().std()), rel=0.1), (
                key
            )

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.scale = nn.LSTM(4, 4), nn.Parameter(torch.linspace(1, 2, 8).view(8, 1, 1))
            self.token = nn.Parameter(torch.linspace(0, 1e-3, 8).view(1, 1, 8))

    tables = Tokens()
    before = copy.deepcopy(tables.state_dict())
    randomize_constants_(tables)
    assert {key for key, value in tables.state_dict().items() if not torch.equal(value, before[key])} == {"token"}


def test_narrow_weights_are_widened_and_others_left():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16 * 36, 8)).eval()
    with torch.no_grad():
        model[0].weight.normal_(0, 2), model[3].weight.normal_(0, 0.001)
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, 8, 8)
    state = torch.get_rng_state()
    widen_weights_(model, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert float(model[3].weight.detach().std()) == pytest.approx((16 * 36) ** -0.5, rel=0.02)
    torch.testing.assert_close(model[3].weight / model[3].weight[0, 0], before["3.weight"] / before["3.weight"][0, 0])
    statistics = model[1].running_var.clone()
    assert not torch.equal(statistics, before["1.running_var"])
    widen_weights_(model, images)
    assert torch.equal(model[1].running_var, statistics)


def test_statistics_are_about_the_power_of_what_each_norm_reads():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32)).eval()
    with torch.no_grad():
        model[2].weight.mul_(100)
    images = torch.randn(2, 3, 16, 16)
    randomize_statistics_(model, images)
    for last in (1, 3):
        with torch.no_grad():
            power = float(model[:last](images).square().mean())
        assert 0.4 * power < float(model[last].running_var.min()) < float(model[last].running_var.max()) < 1.6 * power
        assert float(model[last].running_mean.std()) == pytest.approx(0.1 * power**0.5, rel=0.5)


def test_centred_statistics_leave_out_what_all_images_have_in_common():
    torch.manual_seed(0)
    layers = ((nn.Conv2d(32 if i else 3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()) for i in range(20))
    model = nn.Sequential(*itertools.chain.from_iterable(layers))
    images = torch.randn(2, 3, 64, 64)

    def difference() -> float:
        with torch.no_grad():
            first, second = model(images).mean((2, 3))
        return float((first - second).abs().max() / first.abs().max())

    randomize_statistics_(model.eval(), images)
    forgets = difference()
    randomize_statistics_(model, images, centred=True)
    assert difference() > 20 * forgets


def test_no_hook_stays_and_norms_without_statistics_are_passed_over():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4)).eval()
    randomize_statistics_(model, torch.randn(1, 3, 8, 8))
    assert model[1].running_mean is None
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(RuntimeError):
        randomize_statistics_(model, torch.randn(1, 4, 8, 8))
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["seresnet152d", "tf_efficientnet_lite4", "mobilenetv2_120d", "resnest101e"])
def test_deep_network_neither_amplifies_rounding_nor_forgets_the_image(name):
    """These amplified rounding to 1e-3 with statistics drawn about one."""
    model = create_random_model(name)
    images = example_images(model)[:, :, :128, :128]
    other = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = model(images)
        exact = copy.deepcopy(model).double()(images.double())
        assert relative_error(outputs, exact) < 2e-6
        assert relative_error(model(other), outputs) > 1e-3


def test_the_same_network_is_drawn_each_time_and_the_callers_generator_is_left_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = create_random_model("i2p-test_resnet"), create_random_model("test_resnet")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    with pytest.raises(NotFoundError):
        create_random_model("no_such_network")


def test_example_images_are_of_the_size_and_channels_of_the_network():
    assert example_images(timm.create_model("inception_v3")).shape == (1, 3, 299, 299)
    assert example_images(timm.create_model("test_resnet", in_chans=5)).shape[1] == 5
    assert example_images(nn.Sequential(nn.Conv2d(2, 4, 3))).shape == (1, 2, 64, 64)


@pytest.mark.parametrize("name", ["vitamin_xlarge_336", "vitamin_xlarge_336.datacomp1b_clip", "vitamin_xlarge_256", "test_vit"])
def test_configuration_is_the_architecture_s_own(name):
    model = create_timm_model(name, structure=True)
    expected = timm.get_pretrained_cfg(name)
    assert model.pretrained_cfg["architecture"] == name.partition(".")[0]
    assert model.pretrained_cfg["input_size"] == expected.input_size
    assert model.default_cfg is model.pretrained_cfg
    assert image_size(model) == expected.input_size[1:]
