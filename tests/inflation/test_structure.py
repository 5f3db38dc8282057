"""Inflation: the weights' rule against sums over the new axis, and what a network keeps when it is turned into 3D."""

from __future__ import annotations

import copy
import re

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import BlurPool2d
from torch import nn

import i2p_zoo
from i2p_zoo import (
    CheckpointError,
    InvalidInputError,
    PointCloudModel,
    SparseConv3d,
    SparseTensor,
    UnsupportedError,
    image_to_plane,
    inflate,
    inflate_weight,
)
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.state import inflate_state, reinflate_
from i2p_zoo.inflation.structure import inflate_structure, replace_leaves
from tests.helpers import plane_values, property_test, random_cloud, randomise_norms_, relative_error, seeded

INFLATIONS = ["center", "average", "copy"]
AXES = {"z": 1, "y": 2, "x": 3}  # where the new axis stands in (C_out, kz, ky, kx, C_in)
KERNELS = [(1, 1), (2, 2), (3, 3), (4, 4), (7, 7), (1, 7), (7, 1)]
DEPTHS = [None, 1, 3, 5]
BY_INFLATION = pytest.mark.parametrize("inflation", INFLATIONS)
BY_AXIS = pytest.mark.parametrize("axis", AXES)


def random_weight(*shape, dtype=torch.float64, seed=5):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def small_net():
    """One of every kind of leaf that a 2D network usually has, in the order of a classifier."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.PReLU(6),
        nn.Conv2d(6, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return randomise_norms_(net)


# The rule of one weight.


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@BY_AXIS
@BY_INFLATION
def test_sum_over_the_new_axis_is_the_2d_kernel_or_length_times_it(inflation, axis, kernel, depth):
    weight = random_weight(4, 3, *kernel)
    length = depth or max(kernel)
    out = inflate_weight(weight, inflation, axis, depth)
    plane = weight.movedim(1, -1)  # (C_out, ky, kx, C_in)
    assert out.shape == (*plane.shape[: AXES[axis]], length, *plane.shape[AXES[axis] :])
    assert out.is_contiguous()
    times = length if inflation == "copy" else 1
    assert torch.allclose(out.sum(AXES[axis]), times * plane, rtol=1e-12, atol=0)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@BY_AXIS
def test_center_fills_the_one_plane_at_the_middle_tap_bit_for_bit(axis, kernel, depth):
    weight = random_weight(4, 3, *kernel)
    out = inflate_weight(weight, "center", axis, depth)
    planes = out.movedim(AXES[axis], 0)
    length = depth or max(kernel)
    filled = [number for number, plane in enumerate(planes) if plane.count_nonzero()]
    assert filled == [(length - 1) // 2]
    assert torch.equal(planes[filled[0]], weight.movedim(1, -1))


@pytest.mark.parametrize("inflation", ["average", "copy"])
@BY_AXIS
def test_average_and_copy_fill_every_plane_alike(inflation, axis):
    weight = random_weight(4, 3, 3, 3)
    planes = inflate_weight(weight, inflation, axis, 5).movedim(AXES[axis], 0)
    share = weight.movedim(1, -1) / (5 if inflation == "average" else 1)
    assert all(torch.equal(plane, share) for plane in planes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@BY_INFLATION
def test_weight_keeps_its_dtype(inflation, dtype):
    assert inflate_weight(random_weight(4, 3, 3, 3, dtype=dtype), inflation).dtype == dtype


@BY_INFLATION
def test_weight_keeps_its_device(inflation):
    out = inflate_weight(torch.empty(4, 3, 3, 3, device="meta"), inflation)
    assert (out.device.type, out.shape) == ("meta", (4, 3, 3, 3, 3))


@BY_INFLATION
def test_inflated_weight_shares_no_memory_with_the_2d_one(inflation):
    weight = random_weight(2, 3, 1, 1)
    kept = weight.clone()
    inflate_weight(weight, inflation).fill_(7.0)
    assert torch.equal(weight, kept)


@given(
    outputs=st.integers(1, 5),
    inputs=st.integers(1, 5),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    depth=st.one_of(st.none(), st.integers(1, 8)),
    axis=st.sampled_from("zyx"),
    inflation=st.sampled_from(INFLATIONS),
)
@property_test
def test_every_entry_of_any_inflated_weight_is_its_2d_entry_by_the_rule(outputs, inputs, kernel, depth, axis, inflation):
    weight = random_weight(outputs, inputs, *kernel)
    length = depth or max(kernel)
    out = inflate_weight(weight, inflation, axis, depth)
    for tap in range(length):
        scale = {"center": float(tap == (length - 1) // 2), "average": 1 / length, "copy": 1.0}[inflation]
        for row in range(kernel[0]):
            for column in range(kernel[1]):
                index = {"z": (tap, row, column), "y": (row, tap, column), "x": (row, column, tap)}[axis]
                found = out[(slice(None), *index)]
                assert torch.allclose(found, scale * weight[:, :, row, column], rtol=1e-12, atol=0)
    assert out.numel() == weight.numel() * length


@pytest.mark.parametrize("bad", ["centre", "", "Copy", None])
def test_unknown_inflation_is_quoted_with_the_known_ones(bad):
    for call in (lambda: inflate_weight(random_weight(2, 2, 3, 3), bad), lambda: inflate(small_net(), bad)):
        with pytest.raises(InvalidInputError, match=rf"center, average, copy; got {bad!r}"):
            call()


@pytest.mark.parametrize("bad", ["w", "", "zy", 0, None])
def test_unknown_axis_is_quoted_with_the_known_ones(bad):
    for call in (lambda: inflate_weight(random_weight(2, 2, 3, 3), "copy", bad), lambda: inflate(small_net(), axis=bad)):
        with pytest.raises(InvalidInputError, match=rf"'z', 'y' or 'x'; got {bad!r}"):
            call()


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3"])
@BY_INFLATION
def test_bad_depth_of_a_weight_is_quoted(inflation, bad):
    with pytest.raises(InvalidInputError, match=rf"depth.*{bad}"):
        inflate_weight(random_weight(2, 2, 3, 3), inflation, depth=bad)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3"])
def test_bad_depth_of_a_network_is_quoted(bad):
    with pytest.raises(InvalidInputError, match=rf"depth.*{bad}"):
        inflate(small_net(), depth=bad)


# What a network computes.


@BY_AXIS
def test_center_network_computes_the_2d_network_on_each_slice_of_a_volume(axis):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 5, padding=2))
    net = randomise_norms_(net).double().eval()
    volume = random_weight(2, 3, 6, 7, 8)
    out = inflate(net, "center", axis)(SparseTensor.from_dense(volume, keep_zeros=True).with_plan(axis="zyx".index(axis)))
    dim = 2 + "zyx".index(axis)
    expected = torch.stack([net(image) for image in volume.unbind(dim)], dim)
    assert relative_error(out.dense(), expected) < 1e-12


@BY_AXIS
def test_average_network_computes_the_2d_network_on_a_volume_constant_along_the_new_axis(axis):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double()
    dim = 2 + "zyx".index(axis)
    image = random_weight(2, 3, 6, 7)
    volume = torch.stack([image] * 9, dim)
    out = inflate(net, "average", axis)(SparseTensor.from_dense(volume).with_plan(axis="zyx".index(axis))).dense()
    # Two kernels of length 3 look two slices far, so only the slices nearer than that to the border see zeros.
    for inner in range(2, 7):
        assert relative_error(out.select(dim, inner), net(image)) < 1e-12


def test_copy_convolution_is_its_length_times_the_average_one():
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=False).double()
    x = random_cloud(3, voxels=60)
    copied, averaged = inflate(layer, "copy")(x), inflate(layer, "average")(x)
    assert relative_error(copied.features, 3 * averaged.features.detach()) < 1e-12


# What a network keeps.


def test_given_model_is_left_untouched():
    model = randomise_norms_(timm.create_model("test_resnet"))
    model.train()
    model.layer2.eval()
    model.conv1[0].weight.requires_grad_(False)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(name, module, type(module), module.training) for name, module in model.named_modules()]
    parameters = [(id(p), p.requires_grad) for p in model.parameters()]
    net = inflate(model)
    x = random_cloud(3, voxels=300, extent=60, dtype=torch.float32)
    net(x).sum().backward()  # in training mode: the twin's statistics move, the model's must not
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(3.0)
    assert modules == [(name, module, type(module), module.training) for name, module in model.named_modules()]
    assert parameters == [(id(p), p.requires_grad) for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "densenet121", "dla34"])
def test_state_dict_has_the_keys_of_the_2d_one_in_their_order(name):
    model = timm.create_model(name)
    assert list(inflate(model).state_dict()) == list(model.state_dict())


@BY_INFLATION
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


@BY_AXIS
def test_kernel_length_is_its_larger_side_or_the_depth_where_that_is_less(axis):
    model = nn.Sequential(nn.Conv2d(3, 2, 7), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, (1, 5)), nn.Conv2d(2, 2, 1))
    for depth, lengths in ((None, (7, 3, 5, 1)), (5, (5, 3, 5, 1)), (3, (3, 3, 3, 1)), (1, (1, 1, 1, 1))):
        net = inflate(model, axis=axis, depth=depth)
        assert tuple(layer.weight.shape[AXES[axis]] for layer in net) == lengths
        assert (net.settings.axis, net.settings.depth) == (axis, depth)


@BY_INFLATION
def test_network_is_of_the_2d_class_and_notes_its_settings(inflation):
    model = timm.create_model("test_efficientnet")
    net = inflate(model, inflation)
    assert isinstance(net, type(model))
    assert isinstance(net, PointCloudModel)
    assert net.settings.inflation == inflation
    assert not isinstance(model, PointCloudModel)


def test_sequential_runs_on_a_plane_as_on_the_image():
    model = small_net().double().eval()
    images = random_weight(2, 3, 21, 18)
    assert relative_error(inflate(model)(image_to_plane(images)), model(images)) < 1e-12


@pytest.mark.parametrize("kernel", [1, 3, (1, 5)], ids=str)
def test_single_convolution_as_root_runs_on_a_plane_as_on_the_image(kernel):
    model = nn.Conv2d(3, 4, kernel, stride=2, padding=kernel // 2 if isinstance(kernel, int) else (0, 2)).double()
    net = inflate(model)
    assert isinstance(net, SparseConv3d)
    assert isinstance(net, PointCloudModel)
    images = random_weight(2, 3, 9, 10)
    assert relative_error(plane_values(net(image_to_plane(images))), model(images)) < 1e-12


def test_each_module_keeps_its_training_mode():
    model = timm.create_model("test_resnet").train()
    for name in ("conv1", "bn1", "layer3"):
        model.get_submodule(name).eval()
    model.layer1[0].conv1.eval()
    expected = {name: module.training for name, module in model.named_modules()}
    assert {name: module.training for name, module in inflate(model).named_modules()} == expected
    assert not any(module.training for module in inflate(model.eval()).modules())


def test_each_parameter_keeps_its_requires_grad():
    model = timm.create_model("test_resnet")
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    expected = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in inflate(model).named_parameters()} == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_network_keeps_its_dtype(dtype):
    net = inflate(small_net().to(dtype))
    assert {t.dtype for t in net.state_dict().values() if t.is_floating_point()} == {dtype}


def test_hooks_of_leaves_and_containers_run_on_the_3d_network():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)), nn.ReLU()).eval()
    calls = []
    model[0][0].register_forward_pre_hook(lambda module, inputs: calls.append(("before", module, inputs[0])))
    model[0][0].register_forward_hook(lambda module, inputs, output: calls.append(("after", module, output)))
    model[0][0].register_forward_hook(lambda module, inputs, kwargs, output: output.derive(-output.features), with_kwargs=True)
    model[0].register_forward_hook(lambda module, inputs, output: calls.append(("container", module, output)))
    net = inflate(model)
    x = random_cloud(3, dtype=torch.float32)
    net(x)
    assert [(word, module) for word, module, _ in calls] == [
        ("before", net[0][0]),
        ("after", net[0][0]),
        ("container", net[0]),
    ]
    assert torch.equal(calls[0][2].features, x.features)
    expected = net[0][1](calls[1][2].derive(-calls[1][2].features))  # the third hook's answer went on
    assert torch.equal(calls[2][2].features, expected.features)


def test_hook_that_must_always_run_does_so_when_the_layer_fails():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append("called"), always_call=True)
    with pytest.raises(InvalidInputError, match="takes 3 channels"):
        inflate(model)(random_cloud(5, dtype=torch.float32))
    assert calls == ["called"]


def test_non_persistent_buffers_come_along_without_a_key():
    pool = BlurPool2d(4)
    net = inflate(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), pool))
    buffers = dict(net.named_buffers())
    assert torch.equal(buffers["1.filt"], pool.filt)
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


NORM_OPTIONS = [{"affine": False}, {"track_running_stats": False}, {"affine": False, "momentum": None}]


@pytest.mark.parametrize("options", NORM_OPTIONS, ids=str)
def test_batch_norm_without_some_of_its_tensors_is_kept(options):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, **options)).double()
    images = random_weight(2, 3, 6, 5)
    assert relative_error(plane_values(inflate(model)(image_to_plane(images))), model(images)) < 1e-12


def test_module_used_twice_stays_one_module():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(layer, nn.ReLU(), layer).double()
    net = inflate(model)
    assert net[0] is net[2]
    assert list(net.state_dict()) == list(model.state_dict())
    assert len(list(net.parameters())) == 2
    images = random_weight(1, 4, 6, 5)
    assert relative_error(plane_values(net(image_to_plane(images))), model(images)) < 1e-12


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


# Refusals.


def named_in(message):
    """Name and owned tensors of each module that a refusal lists."""
    lines = re.findall(r"^  (.+?): \S+ owns \[(.*)\]$", message, re.MULTILINE)
    return {name: [part.strip("' ") for part in owned.split(",")] for name, owned in lines}


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "test_coatnet"])
def test_transformers_are_refused_with_every_offending_module_and_its_tensors_named(name):
    model = timm.create_model(name)
    known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    expected = {}
    for qualified, module in model.named_modules():
        own = [
            n.rpartition(".")[2]
            for n, _ in (*module.named_parameters(qualified), *module.named_buffers(qualified))
            if n.rpartition(".")[0] == qualified
        ]
        tensors = [module.get_parameter(n) if n in dict(module.named_parameters()) else module.get_buffer(n) for n in own]
        if not isinstance(module, known) and any(t.numel() > max(t.shape, default=1) for t in tensors):
            expected[qualified or "(the model itself)"] = own
    assert expected
    with pytest.raises(UnsupportedError) as caught:
        inflate(model)
    message = str(caught.value)
    assert named_in(message) == expected
    assert f"{type(model).__name__} has {len(expected)} modules" in message
    assert "torch.nn.modules.conv.Conv2d" in message
    assert "@i2p_zoo.replaces(type)" in message


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_is_not_zeros_is_refused_by_name(mode):
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 4, 3), "deep": nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode))})
    with pytest.raises(UnsupportedError, match=rf"has 1 modules.*\n  deep\.0: Conv2d with padding_mode='{mode}'"):
        inflate(model)


def test_subclass_of_a_known_leaf_is_refused_since_it_may_compute_something_else():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(UnsupportedError, match=r"1: .*Doubled owns \['weight', 'bias'\]"):
        inflate(nn.Sequential(nn.Conv2d(3, 4, 1), Doubled(4, 4, 1)))


def test_refusal_names_the_root_where_that_is_the_offender():
    with pytest.raises(UnsupportedError, match=r"\(the model itself\): torch.*Embedding owns \['weight'\]"):
        inflate(nn.Embedding(4, 4))


@pytest.mark.parametrize(("bad", "kind"), [("resnet18", "str"), ({"weight": torch.zeros(1)}, "dict"), (None, "NoneType")])
def test_what_is_no_network_is_named(bad, kind):
    with pytest.raises(InvalidInputError, match=rf"timm\.create_model.*got {kind}"):
        inflate(bad)


def test_network_that_is_3d_already_is_refused():
    # Its kernels are 3D and its settings are those of its making; a second call could keep neither axis nor inflation.
    with pytest.raises(InvalidInputError, match="already"):
        inflate(inflate(small_net(), "average", axis="x"))


def test_refused_network_has_nothing_replaced():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.Embedding(4, 4))
    before = copy.deepcopy(dict(model.named_modules()))
    for attempt in (inflate, lambda net: replace_leaves(net, Settings(inflation="center"))):
        with pytest.raises(UnsupportedError, match="has 2 modules"):
            attempt(model)
        assert {n: type(m) for n, m in model.named_modules()} == {n: type(m) for n, m in before.items()}
        assert {p.device.type for p in model.parameters()} == {"cpu"}


# Structure and weights as two steps.


def test_structure_is_built_without_weights():
    net = inflate_structure(timm.create_model("test_resnet"), Settings())
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert net.provenance.report is None


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


# --- Inflating anew ---

MODES = ["center", "average", "copy"]


@pytest.mark.parametrize("axis", ["z", "x"])
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "tf_efficientnet_cc_b0_4e"])
def test_network_inflated_anew_is_the_one_inflated_so_from_the_start(name, axis):
    source = timm.create_model(name)
    expected = {mode: i2p_zoo.inflate(source, inflation=mode, axis=axis) for mode in MODES}
    model = i2p_zoo.inflate(source, inflation="center", axis=axis)
    for mode, rounding in (("copy", 0), ("center", 0), ("average", 0), ("copy", 2e-7), ("average", 2e-7)):
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
