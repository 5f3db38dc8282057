"""What torch's FLOP counter says of sparse networks: against timm's 2D networks and pairs counted by torch and by Python."""

from __future__ import annotations

import copy
import functools
import itertools

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from torch.utils.flop_counter import FlopCounterMode

from i2p_zoo import image_to_plane, inflate
from i2p_zoo.layers.convolution import SparseConv3d
from i2p_zoo.sparse.sparse_convolution import sparse_convolution
from tests.helpers import force_torch_path, make_window, random_cloud, random_images, seeded, strided_sites, window_rows


def count(compute):
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def products_inside(convolution, shape):
    """How often a 2D convolution multiplies a pixel of a (B, C, H, W) image, and not a zero around it."""
    ones, kernel = torch.ones(1, 1, *shape[2:]), torch.ones(1, 1, *convolution.kernel_size)
    pairs = F.conv2d(ones, kernel, None, convolution.stride, convolution.padding, convolution.dilation).sum()
    return shape[0] * int(pairs) * convolution.weight.numel() // kernel.numel()


def count_inside(model, images):
    """The FLOPs of a 2D network's convolutions and linear layers on images, without those on zeros around them."""
    products = []

    def hook(module, inputs):
        x = inputs[0]
        is_linear = isinstance(module, nn.Linear)
        products.append(x[..., 0].numel() * module.weight.numel() if is_linear else products_inside(module, x.shape))

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    model(images)
    for handle in handles:
        handle.remove()
    return 2 * sum(products)


NETWORKS = ["test_resnet", "test_efficientnet", "test_convnext", "test_byobnet"]


@pytest.mark.parametrize("inflation", ["center", "average"])
@pytest.mark.parametrize("name", NETWORKS)
def test_image_costs_what_it_costs_in_2d_without_the_zeros_around_it(name, inflation):
    source = timm.create_model(name).eval()
    model, images = inflate(source, inflation), random_images(2, 3, 64, 64).float()
    expected = count_inside(source, images)
    with torch.no_grad():
        assert count(lambda: model(image_to_plane(images))) == expected
    assert 0.7 * count(lambda: source(images)) < expected < count(lambda: source(images))


def unpadded(groups=1):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 16, 3, groups=groups),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1, bias=False),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 16, (1, 3), groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_image_costs_what_it_costs_in_2d_where_no_zeros_are_around_it(groups):
    source, images = unpadded(groups), random_images(2, 3, 20, 24).float()
    model = inflate(source)
    assert count(lambda: model(image_to_plane(images))) == count(lambda: source(images))
    if groups == 1:  # torch counts the weight's gradient of groups as if there were none
        step = count(lambda: model(image_to_plane(images)).sum().backward())
        assert step == count(lambda: source(images).sum().backward())


def test_pool_is_no_product():
    pool = inflate(nn.Sequential(nn.AvgPool2d(3, 2, 1), nn.MaxPool2d(2)))
    assert count(lambda: pool(random_cloud(4))) == 0


GROUPS = {"dense": 1, "groups": 2, "depthwise": 4}


def check_counts_pairs(x, groups, weight, stride=(1, 1, 1)):
    """Asserts that each pair counts, once forward and once for each gradient that is asked for."""
    window = make_window((3, 3, 3), stride)
    read = window_rows(x.coords, torch.tensor(strided_sites(x.coords, stride)), window)
    flops = 2 * sum(row >= 0 for rows in read for row in rows) * weight.shape[0] * weight.shape[4]
    for asked in itertools.product((False, True), repeat=2):
        features, taps = (t.clone().requires_grad_(flag) for t, flag in zip((x.features, weight), asked, strict=True))
        with FlopCounterMode(display=False) as counter:
            out = sparse_convolution(x.derive(features), taps, None, window, groups)
        assert counter.get_total_flops() == flops
        if any(asked):
            assert count(out.features.sum().backward) == sum(asked) * flops


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
def test_each_pair_counts_whichever_engine_multiplies_it(monkeypatch, groups, stride, engine):
    if engine == "torch":
        force_torch_path(monkeypatch)
    weight = torch.randn(8, 3, 3, 3, 4 // groups, generator=seeded(), dtype=torch.float64)
    check_counts_pairs(random_cloud(4), groups, weight, stride)


def test_kernel_that_repeats_counts_all_of_its_taps():
    plane = torch.randn(16, 1, 3, 3, 4, generator=seeded(), dtype=torch.float64)
    check_counts_pairs(random_cloud(4, voxels=200), 1, plane.expand(-1, 3, -1, -1, -1).contiguous())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_as_much(dtype):
    layer, x = SparseConv3d(4, 6, 3), random_cloud(4, dtype=torch.float32)
    assert count(lambda: copy.deepcopy(layer).to(dtype)(x.to(dtype))) == count(lambda: layer(x)) > 0


def test_table_has_the_layers_by_name():
    model = inflate(timm.create_model("test_resnet").eval())
    with FlopCounterMode(display=False) as counter:
        model(random_cloud(3, dtype=torch.float32))
    rows = counter.get_flop_counts()
    convolution = torch.ops.i2p_zoo.convolution
    assert rows["PointCloudResNet.layer1.0.conv1"][convolution] > 0
    assert sum(sum(row.values()) for name, row in rows.items() if name.count(".") == 1) == counter.get_total_flops()


def test_counter_changes_no_result():
    model, x = inflate(unpadded()), random_cloud(3, dtype=torch.float32)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    found = []
    count(lambda: found.extend(torch.autograd.grad(model(x).square().sum(), list(model.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_error_inside_an_engine_is_raised_as_it_is(monkeypatch):
    monkeypatch.setattr("i2p_zoo.sparse.engines.numba_engine.NumbaConvolution.forward", lambda *_: 1 / 0)
    with FlopCounterMode(display=False), pytest.raises(ZeroDivisionError):
        SparseConv3d(3, 4, 3)(random_cloud(3, dtype=torch.float32))


def test_what_a_checkpoint_computes_again_counts_again():
    layer, x = SparseConv3d(3, 4, 3), random_cloud(3, dtype=torch.float32)
    x.requires_grad_()
    once = count(lambda: layer(x).features.sum().backward())
    again = count(lambda: checkpoint(lambda f: layer(x.derive(f)).features, x.features, use_reentrant=False).sum().backward())
    assert again == once * 4 // 3


@pytest.mark.parametrize("saved", [False, True], ids=["computed again", "saved"])
def test_selective_checkpoint_may_save_what_convolutions_give(saved):
    policy = CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE
    contexts = functools.partial(create_selective_checkpoint_contexts, lambda *_, **__: policy)
    layer, x = SparseConv3d(3, 4, 3), random_cloud(3, dtype=torch.float32).requires_grad_()

    def convolve(features):
        return layer(x.derive(features)).features.sin()

    (expected,) = torch.autograd.grad(convolve(x.features).sum(), x.features)
    with FlopCounterMode(display=False) as counter:
        out = checkpoint(convolve, x.features, use_reentrant=False, context_fn=contexts)
        (gradient,) = torch.autograd.grad(out.sum(), x.features)
    assert torch.equal(gradient, expected)
    assert counter.get_flop_counts()["Global"][torch.ops.i2p_zoo.convolution] == count(lambda: layer(x)) * (1 if saved else 2)
