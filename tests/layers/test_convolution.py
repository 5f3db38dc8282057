"""SparseConv3d against the 2D layer on images."""

from __future__ import annotations

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn import functional as F

from i2p_zoo import InvalidInputError, SparseConv3d, SparseTensor, UnsupportedError, image_to_plane
from i2p_zoo.layers.registry import find_builder
from tests.helpers import check_on_plane, random_cloud, random_images, relative_error
from tests.oracles import inflated, randomised

AXES = pytest.mark.parametrize("axis", ["z", "y", "x"])
EXTENTS = pytest.mark.parametrize("extents", [(8, 8), (7, 9), (9, 6)], ids=str)


def middle_plane(layer):
    """The view (C_out, ky, kx, C_in / groups) of the kernel's taps on the output site's own plane."""
    axis = 1 + "zyx".index(layer.axis)
    return layer.weight.select(axis, (layer.weight.shape[axis] - 1) // 2)


def laid_out(leaf, axis="z", depth=None):
    """The 3D layer of a convolution with its kernel on the output site's own plane and zeros elsewhere."""
    layer = find_builder(leaf)(leaf, axis=axis, depth=depth, inflation="center").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.zero_()
        middle_plane(layer).copy_(leaf.weight.permute(0, 2, 3, 1))
        if leaf.bias is not None:
            layer.bias.copy_(leaf.bias)
    return layer


def check_convolution(leaf, extents, axis="z", depth=None):
    """Values, input gradient and weight gradients of a 2D convolution on an image and of its 3D layer on the plane."""
    layer = laid_out(randomised(leaf.double()), axis, depth)
    images = random_images(2, leaf.in_channels, *extents)
    check_on_plane(layer, images, axis=axis, of_image=leaf)
    layer(image_to_plane(images, axis)).dense().square().sum().backward()
    leaf(images).square().sum().backward()
    found = layer.weight.grad.select(1 + "zyx".index(axis), (layer.weight.shape[1 + "zyx".index(axis)] - 1) // 2)
    assert relative_error(found, leaf.weight.grad.permute(0, 2, 3, 1)) < 1e-12
    if leaf.bias is not None:
        assert relative_error(layer.bias.grad, leaf.bias.grad) < 1e-12


CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "3x3/2": lambda: nn.Conv2d(3, 4, 3, 2, 1, bias=False),
    "3x3/3": lambda: nn.Conv2d(3, 4, 3, 3, 1),
    "3x3/4": lambda: nn.Conv2d(3, 4, 3, 4, 1),
    "3x3/(2, 1)": lambda: nn.Conv2d(3, 4, 3, (2, 1), 1),
    "5x5": lambda: nn.Conv2d(3, 4, 5, padding=2),
    "5x5/2": lambda: nn.Conv2d(3, 4, 5, 2, 2),
    "7x7/2": lambda: nn.Conv2d(3, 4, 7, 2, 3),
    "1x1": lambda: nn.Conv2d(3, 4, 1),
    "1x1/2": lambda: nn.Conv2d(3, 4, 1, 2),
    "1x1 of groups": lambda: nn.Conv2d(4, 4, 1, groups=2),
    "1x7": lambda: nn.Conv2d(3, 4, (1, 7), padding=(0, 3)),
    "7x1": lambda: nn.Conv2d(3, 4, (7, 1), padding=(3, 0)),
    "3x1/2": lambda: nn.Conv2d(3, 4, (3, 1), 2, (1, 0)),
    "3x3 dilated": lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "3x3 dilated by (1, 2)": lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), dilation=(1, 2)),
    "3x3/2 dilated": lambda: nn.Conv2d(3, 4, 3, 2, 2, dilation=2),
    "3x3 of groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "3x3 depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "5x5/2 depthwise": lambda: nn.Conv2d(4, 4, 5, 2, 2, groups=4, bias=False),
    "3x3 depthwise, multiplier 2": lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3),
    "3x3 valid": lambda: nn.Conv2d(3, 4, 3),
    "3x3 'valid'": lambda: nn.Conv2d(3, 4, 3, padding="valid"),
    "3x3/2 valid": lambda: nn.Conv2d(3, 4, 3, 2),
    "5x5 valid": lambda: nn.Conv2d(3, 4, 5),
    "5x5 half valid": lambda: nn.Conv2d(3, 4, 5, padding=1),
    "5x3 valid along height": lambda: nn.Conv2d(3, 4, (5, 3), padding=(0, 1)),
    "3x3 dilated valid": lambda: nn.Conv2d(3, 4, 3, dilation=2),
    "3x3 depthwise valid": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "2x2/2": lambda: nn.Conv2d(3, 4, 2, 2),
    "4x4/4": lambda: nn.Conv2d(3, 4, 4, 4),
    "4x4/2": lambda: nn.Conv2d(3, 4, 4, 2, 1),
    "2x2 valid": lambda: nn.Conv2d(3, 4, 2),
    "4x4 valid": lambda: nn.Conv2d(3, 4, 4),
    "2x2 dilated valid": lambda: nn.Conv2d(3, 4, 2, dilation=2),
    "4x4 'same'": lambda: nn.Conv2d(3, 4, 4, padding="same"),
    "3x3 dilated 'same'": lambda: nn.Conv2d(3, 4, 3, padding="same", dilation=2),
    "2x4 dilated 'same'": lambda: nn.Conv2d(3, 4, (2, 4), padding="same", dilation=(3, 1)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@AXES
@EXTENTS
@pytest.mark.parametrize("make", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution_of_a_plane_is_that_of_the_image(make, extents, axis):
    check_convolution(make(), extents, axis)


@AXES
@EXTENTS
@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2)], ids=str)
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, (3, 5)], ids=str)
def test_tensorflows_same_convolution_of_a_plane_is_that_of_the_image(kernel, stride, extents, axis):
    check_convolution(Conv2dSame(3, 4, kernel, stride), extents, axis)


@EXTENTS
def test_dilated_and_depthwise_tensorflow_convolutions_too(extents):
    check_convolution(Conv2dSame(3, 4, 3, dilation=2), extents)
    check_convolution(Conv2dSame(4, 4, 5, 2, groups=4, bias=False), extents)


@AXES
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 99])
def test_a_kernel_of_any_depth_has_its_middle_on_the_plane(depth, axis):
    check_convolution(nn.Conv2d(3, 4, 5, padding=2), (7, 6), axis, depth)
    check_convolution(nn.Conv2d(3, 4, 5, 2, 2), (7, 6), axis, depth)


STACKS = {
    "Inception's stem": lambda: [
        nn.Conv2d(3, 4, 3, 2),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(True),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(5, 4, 1),
        nn.Conv2d(4, 3, 3),
    ],
    "valid layers of odd sizes": lambda: [
        nn.Conv2d(3, 4, 5),
        nn.Conv2d(4, 4, (1, 3)),
        nn.Conv2d(4, 4, 3, 2),
        nn.Conv2d(4, 2, 2),
    ],
    "averages between": lambda: [nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(4, 4, 3, 3)],
    "TensorFlow's border": lambda: [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, padding=1)],
    "a border all around": lambda: [nn.ZeroPad2d(2), nn.Conv2d(3, 4, 5), nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3, 2)],
    "strides after a shift": lambda: [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2, 2)],
    "a dilated tail": lambda: [nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, 1, 4, dilation=4)],
}


@AXES
@pytest.mark.parametrize("extents", [(23, 21), (24, 19)], ids=str)
@pytest.mark.parametrize("make", STACKS.values(), ids=STACKS.keys())
def test_a_stack_of_layers_on_a_plane_is_that_on_the_image(make, extents, axis):
    leaves = nn.Sequential(*make()).double()
    layers = nn.Sequential(*[laid_out(randomised(leaf), axis) if isinstance(leaf, nn.Conv2d) else leaf for leaf in leaves])
    check_on_plane(layers, random_images(2, 3, *extents), axis=axis, of_image=leaves, tolerance=1e-11)


@AXES
def test_valid_branches_meet_on_the_same_sites(axis):
    leaves = [randomised(nn.Conv2d(3, 4, 3).double()), randomised(nn.Conv2d(4, 4, 3, 2).double())]
    layers = [laid_out(leaf, axis) for leaf in leaves]

    def network(convolutions):
        def forward(x):
            x = convolutions[0](x)
            return torch.cat([F.max_pool2d(x, 3, 2), convolutions[1](x), F.avg_pool2d(x, 3, 2)], 1)

        return forward

    check_on_plane(network(layers), random_images(2, 3, 17, 14), axis=axis, of_image=network(leaves))


def test_a_skipped_stride_computes_the_layer_at_stride_one():
    leaf = randomised(nn.Conv2d(3, 4, 3, 2, 1).double())
    images = random_images(2, 3, 8, 6)
    out = laid_out(leaf)(image_to_plane(images).with_plan(skip_downsamples=1))
    assert relative_error(out.dense()[:, :, 0], F.conv2d(images, leaf.weight, leaf.bias, padding=1)) < 1e-12
    assert (out.stride, out.plan.level, laid_out(nn.Conv2d(4, 4, 3, 2, 1).double())(out).stride) == (1, 1, 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_axes_of_space_are_alike(stride):
    turned = [1, 0, 2]  # z and y change places
    x = random_cloud(3, voxels=80)
    y = SparseTensor(x.features, x.coords[:, [0, *(1 + axis for axis in turned)]], batch_size=2)
    along_z = randomised(SparseConv3d(3, 4, 3, stride, axis="z", dtype=torch.float64))
    along_y = SparseConv3d(3, 4, 3, stride, axis="y", dtype=torch.float64)
    with torch.no_grad():
        along_y.weight.copy_(along_z.weight.transpose(1, 2))
        along_y.bias.copy_(along_z.bias)
    by_site = {tuple(site): row for site, row in zip(along_z(x).coords.tolist(), along_z(x).features, strict=True)}
    out = along_y(y)
    assert len(out.coords) == len(by_site)
    for (b, *site), row in zip(out.coords.tolist(), out.features, strict=True):
        assert torch.allclose(row, by_site[(b, *(site[axis] for axis in turned))], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("leaf_type", [nn.Conv2d, Conv2dSame])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_pooled_gate_runs_through_a_one_by_one_layer(leaf_type, groups):
    leaf = randomised(leaf_type(4, 6, 1, groups=groups).double())
    gate = random_images(3, 4, 1, 1)
    assert relative_error(laid_out(leaf)(gate), leaf(gate)) < 1e-12


@pytest.mark.parametrize(
    ("kernel", "padding", "shape"), [(3, "same", (2, 4, 5, 5)), (1, (0, 0), (2, 4)), ((1, 3), "same", (2, 4, 1, 1))], ids=str
)
def test_a_dense_tensor_that_is_no_image_or_is_padded_by_its_size_is_refused_with_its_shape(kernel, padding, shape):
    layer = SparseConv3d(4, 4, kernel, padding=padding if padding == "same" else (padding, padding))
    with pytest.raises(
        UnsupportedError, match=r"\(\d, \d\) convolution with padding=.* got a dense tensor of shape \(2, 4"
    ) as error:
        layer(torch.zeros(shape))
    assert str(shape) in str(error.value)


DENSE = {
    "pooled, 3x3": (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 1, 1)),
    "pooled, 1x3": (nn.Conv2d(4, 6, (1, 3), padding=(0, 1)), (2, 4, 1, 1)),
    "a table, 1x1": (nn.Conv2d(4, 6, 1), (2, 4, 5, 5)),
    "a table, depthwise, strided": (nn.Conv2d(4, 8, 3, 2, 1, groups=4, bias=False), (2, 4, 5, 7)),
}


@pytest.mark.parametrize("axis", ["z", "y", "x"])
@pytest.mark.parametrize(("leaf", "shape"), DENSE.values(), ids=DENSE.keys())
def test_a_dense_image_meets_the_kernels_middle_plane(leaf, shape, axis):
    leaf = randomised(leaf.double())
    images = random_images(*shape)
    assert relative_error(inflated(leaf, axis)(images), leaf(images)) < 1e-12


@pytest.mark.parametrize(("axis", "shape"), [("z", (6, 3, 5, 7, 2)), ("y", (6, 5, 3, 7, 2)), ("x", (6, 5, 7, 3, 2))])
def test_weights_have_the_layout_krsc_and_the_names_and_dtype_of_the_leaf(axis, shape):
    leaf = nn.Conv2d(4, 6, (5, 7), groups=2, dtype=torch.float64)
    layer = find_builder(leaf)(leaf, axis=axis, depth=3, inflation="center")
    assert tuple(layer.weight.shape) == shape
    assert list(layer.state_dict()) == list(leaf.state_dict())
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert {p.device.type for p in layer.parameters()} == {"meta"}
    assert find_builder(leaf)(nn.Conv2d(4, 6, 3, bias=False), axis=axis, depth=None, inflation="center").bias is None


@pytest.mark.parametrize(("depth", "length"), [(None, 5), (1, 1), (3, 3), (99, 5)])
def test_a_kernel_is_as_deep_as_its_longer_side_or_as_told(depth, length):
    leaf = nn.Conv2d(2, 2, (3, 5))
    assert tuple(find_builder(leaf)(leaf, axis="z", depth=depth, inflation="center").weight.shape) == (2, length, 3, 5, 2)


def test_initial_weights_are_scaled_by_fan_out():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = SparseConv3d(64, 128, 3, groups=2)
    fan_out = 27 * 128 / 2
    assert abs(float(layer.weight.detach().std()) / (2 / fan_out) ** 0.5 - 1) < 0.02
    assert layer.bias.abs().max() == 0


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((3, 4, 3), {"groups": 2}, r"`in_channels` \(=3\) and `out_channels` \(=4\).*`groups` \(=2\)"),
        ((4, 3, 3), {"groups": 2}, r"\(=4\).*\(=3\).*\(=2\)"),
        ((4, 4, 3), {"padding": "reflect"}, "got 'reflect'"),
        ((4, 4, 3), {"axis": "w"}, "`axis` must be 'z', 'y' or 'x'; got 'w'"),
        ((4, 4, (3, 3, 3)), {}, r"got \(3, 3, 3\)"),
    ],
)
def test_bad_arguments_are_quoted(arguments, keywords, message):
    with pytest.raises(InvalidInputError, match=message):
        SparseConv3d(*arguments, **keywords)


def test_a_layer_prints_its_geometry():
    text = repr(SparseConv3d(4, 6, (3, 5), 2, "same", groups=2, bias=False))
    for part in ("4, 6", "kernel=5x3x5", "stride=(2, 2)", "padding=same", "groups=2", "bias=False"):
        assert part in text


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "padding_mode='reflect'"),
    ],
)
def test_borders_that_have_no_sparse_counterpart_are_refused(leaf, message):
    with pytest.raises(UnsupportedError, match=message):
        find_builder(leaf)(leaf, axis="z", depth=None, inflation="center")
