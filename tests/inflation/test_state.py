"""The tensors of an inflated network: a pure function of state and structure, and from one mode to another."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import i2p_zoo
from i2p_zoo import CheckpointError, InvalidInputError, inflate, inflate_weight
from i2p_zoo.choices import INFLATIONS
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.state import find_differences, inflate_state, named_tensors, reinflate_
from i2p_zoo.inflation.structure import inflate_structure
from tests.helpers import randomise_norms_, small_net


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "densenet121", "dla34"])
def test_state_dict_has_the_keys_of_the_2d_one_in_their_order(name):
    model = timm.create_model(name)
    assert list(inflate(model).state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("inflation", INFLATIONS)
def test_all_but_convolution_weights_are_copied_bit_for_bit(inflation):
    model = randomise_norms_(timm.create_model("ecaresnet26t"))  # its channel attention holds 1D convolutions
    kinds = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    state = inflate(model, inflation).state_dict()
    for key, source in model.state_dict().items():
        if key in kinds:
            assert torch.equal(state[key], inflate_weight(source, inflation)), key
        else:
            assert torch.equal(state[key], source), key
            assert state[key].dtype == source.dtype, key
        assert state[key].untyped_storage().data_ptr() != source.untyped_storage().data_ptr(), key


def test_each_parameter_keeps_its_requires_grad():
    model = timm.create_model("test_resnet")
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    expected = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in inflate(model).named_parameters()} == expected


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_tied_parameters_stay_tied(kind):
    make = (lambda: nn.Conv2d(4, 4, 3, padding=1)) if kind == "convolution" else (lambda: nn.Linear(4, 4))
    first, second = make(), make()
    second.weight = first.weight
    between = nn.ReLU() if kind == "convolution" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(first, between, second) if kind == "convolution" else nn.Sequential(between, first, second)
    net = inflate(model)
    tied = [name for name, p in net.named_parameters(remove_duplicate=False) if name.endswith("weight")]
    assert len(tied) == 2
    assert net.get_parameter(tied[0]) is net.get_parameter(tied[1])
    assert len(list(net.parameters())) == 3


def test_state_is_a_pure_function_of_state_and_structure():
    model = small_net()
    structure = inflate_structure(model, Settings("average", "y", 3))
    source = model.state_dict()
    kept = {key: value.clone() for key, value in source.items()}
    state, _ = inflate_state(source, structure)
    for value in state.values():
        value.fill_(0)
    again, _ = inflate_state(source, structure)
    assert all(torch.equal(value, kept[key]) for key, value in source.items())
    assert {p.device.type for p in structure.parameters()} == {"meta"}
    assert torch.equal(again["0.weight"], inflate_weight(kept["0.weight"], "average", "y", 3))


def test_state_that_does_not_fit_is_refused_with_every_key_named():
    structure = inflate_structure(small_net(), Settings())
    state = dict(small_net().state_dict())
    del state["9.bias"]
    state["extra"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(6, 4, 5, 5)
    state["1.running_var"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as caught:
        inflate_state(state, structure)
    message = str(caught.value)
    assert "4 problems" in message
    for part in (
        "missing 9.bias",
        "unexpected extra",
        "0.weight: 2D shape (6, 4, 5, 5) does not inflate to (6, 5, 5, 5, 3)",
        "1.running_var: 2D shape (7,) does not inflate to (6,)",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("name", "axis"),
    [("test_resnet", "z"), ("test_resnet", "x"), ("mobilenetv3_small_050", "z"), ("tf_efficientnet_cc_b0_4e", "x")],
)
def test_network_inflated_anew_is_the_one_inflated_so_from_the_start(name, axis):
    source = timm.create_model(name)
    expected = {mode: i2p_zoo.inflate(source, inflation=mode, axis=axis) for mode in INFLATIONS}
    model = i2p_zoo.inflate(source, inflation="center", axis=axis)
    exact = [("copy", 0), ("center", 0), ("average", 0)]
    for mode, rounding in [*exact, ("copy", 2e-7), ("triangle", 4e-7), ("average", 4e-7), ("copy", 6e-7)]:
        reinflate_(model, mode)
        assert model.settings == expected[mode].settings
        for key, tensor in expected[mode].state_dict().items():
            assert torch.allclose(model.state_dict()[key], tensor, rtol=rounding, atol=0), (mode, key)


def test_trained_kernel_is_not_inflated_anew_and_nothing_changes():
    model = i2p_zoo.create_model("test_resnet")
    with torch.no_grad():
        model.layer3[0].conv2.weight[0, 0, 0, 0, 0] += 1
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        InvalidInputError, match=r"layer3\.0\.conv2\.weight is no longer a pure inflation by 'center'.*by 'copy'"
    ):
        reinflate_(model, "copy")
    assert model.settings.inflation == "center"
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    reinflate_(model, "center")


@pytest.mark.parametrize("inflation", INFLATIONS)
@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_cc_b0_4e"])
def test_inflated_network_differs_nowhere_from_the_rule_and_a_changed_element_is_found(name, inflation):
    source = timm.create_model(name)
    net = i2p_zoo.inflate(source, inflation, axis="y")
    state = named_tensors(source)
    assert find_differences(state, net) == {}
    assert find_differences({key: t.double() if t.is_floating_point() else t for key, t in state.items()}, net.half()) != {}
    net = i2p_zoo.inflate(source, inflation, axis="y")
    for key, tensor in net.state_dict().items():
        flat = tensor.view(-1)
        last = flat[-1].clone()
        flat[-1] = -last if last != 0 and last.is_floating_point() else last + 1
        (changed,) = find_differences(state, net).items()
        flat[-1] = last
        assert changed[0] == key
        assert changed[1].shape == tensor.shape
        assert changed[1].flatten().nonzero().tolist() == ([[len(flat) - 1]] if tensor.ndim else [[0]])
        if len(changed[0]) > 30:
            break  # each kind of tensor came before


def test_negative_zero_off_the_plane_is_a_difference():
    net = inflate(nn.Conv2d(1, 1, 3))
    with torch.no_grad():
        net.weight[0, 0, 0, 0, 0] = -0.0
    (mask,) = find_differences(named_tensors(nn.Conv2d(1, 1, 3)) | {"bias": net.bias.detach()}, net).values()
    assert mask[0, 0, 0, 0, 0]


def test_wider_copy_of_the_same_values_is_no_difference():
    source = timm.create_model("test_resnet")
    assert find_differences(named_tensors(source), i2p_zoo.inflate(source, "average").double()) == {}
    assert find_differences(named_tensors(copy.deepcopy(source).double()), i2p_zoo.inflate(source)) == {}


def test_tensors_of_one_network_alone_and_of_other_shapes_have_no_mask():
    net = inflate(small_net())
    state = named_tensors(small_net())
    del state["9.bias"]
    state |= {"extra": torch.zeros(1), "1.running_var": torch.zeros(7)}
    assert find_differences(state, net) == {"1.running_var": None, "9.bias": None, "extra": None}
