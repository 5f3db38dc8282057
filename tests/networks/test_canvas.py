"""Clouds in networks that look at an image's places: what they are on the canvas, alone, in batches and in any order."""

from __future__ import annotations

import gc
import json
import math
import threading
from importlib.resources import files

import numpy as np
import pytest
import timm
import torch
from torch import nn

from conversion.cutting import create_cut_model
from i2p_zoo import InvalidInputError, SparseTensor, UnsupportedError, create_model, inflate, voxelize
from i2p_zoo.modules import image_channels, image_size
from i2p_zoo.networks.canvas import find_canvas
from i2p_zoo.networks.timm_models import example_images, randomize_parameters_
from i2p_zoo.sparse.tokens.token_tensor import TokenTensor
from tests.helpers import seeded

SMALL = {
    "absolute positions": ("test_vit", {}),
    "relative positions": ("test_vit_relpos", {}),
    "rotations": (
        "vit_tiny_patch16_dinov3_qkvb",
        {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2},
    ),
    "windows that shift": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)},
    ),
    "windows and grids": ("test_maxvit", {}),
    "convolutions and attention": ("test_coatnet", {}),
    "one window's queries for all": ("gcvit_xxtiny", {"embed_dim": 16}),
    "mixed places": ("mixer_s32_224", {"img_size": 64}),
    "patches of patches": (
        "tnt_s_patch16_224",
        {"embed_dim": 48, "inner_dim": 8, "depth": 2, "num_heads_inner": 2, "num_heads_outer": 2},
    ),
    "unfolded patches": ("mobilevit_xxs", {}),
}


def image_network(name, options):
    model = timm.create_model(name, num_classes=7, **options).double().eval()
    if "img_size" in options:
        side = options["img_size"]
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, side, side)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        randomize_parameters_(model, example_images(model).double())
    return model


def cloud(seed, count, extents, low=0):
    """Voxels on a bent surface, as those of a scan are."""
    random = seeded(seed)
    u, v = torch.rand(2, 4 * count, generator=random, dtype=torch.float64)
    height = (torch.sin(5 * u) + torch.cos(7 * v) + 2) / 4
    coords = (torch.stack([height, u, v], 1) * torch.tensor(extents)).floor().int().unique(dim=0)
    coords = coords[torch.randperm(len(coords), generator=random)[:count]]
    return coords + low, torch.randn(len(coords), 3, generator=random, dtype=torch.float64)


def batch(clouds):
    coords = torch.cat([nn.functional.pad(coords, (1, 0), value=number) for number, (coords, _) in enumerate(clouds)])
    return SparseTensor(torch.cat([features for _, features in clouds]), coords, batch_size=len(clouds))


def odd_clouds(side):
    """Of unlike sizes; of one voxel; ten times larger than the canvas; with a voxel far away."""
    stray = cloud(4, 150, (side // 2,) * 3)
    far = torch.tensor([[5000, -4000, 3000]], dtype=torch.int32)
    return [
        cloud(1, 200, (side // 2, side, side)),
        cloud(2, 90, (side // 3, side // 2, side // 2), low=-70),
        (torch.tensor([[-7, 3, -100]], dtype=torch.int32), torch.ones(1, 3, dtype=torch.float64)),
        cloud(3, 300, (10 * side,) * 3),
        (torch.cat([stray[0], far]), torch.cat([stray[1], stray[1][:1]])),
    ]


def check_clouds(model):
    """A cloud's output is its own: in any batch, order and place; and every axis matters."""
    network = inflate(model, inflation="average")
    clouds = odd_clouds(network.settings.canvas[0])

    def run(clouds):
        with torch.no_grad():
            out = network(batch(clouds))
            out = out[-1] if isinstance(out, list | tuple) else out
            if isinstance(out, TokenTensor):  # of an encoder
                out = out.mean(tuple(range(1, out.ndim - 1)))
            return out.mean((2, 3)) if isinstance(out, SparseTensor) else out.flatten(1)

    together = run(clouds)
    assert together.isfinite().all()
    scale = together.abs().amax(1, keepdim=True)

    def difference(out, rows=slice(None)):
        return float(((out - together[rows]).abs() / scale[rows]).max())

    assert difference(torch.cat([run([one]) for one in clouds])) < 1e-9
    assert difference(run(clouds[::-1]).flip(0)) < 1e-9
    orders = [torch.randperm(len(coords), generator=seeded(5)) for coords, _ in clouds]
    assert difference(run([(c[order], f[order]) for (c, f), order in zip(clouds, orders, strict=True)])) < 1e-9
    assert difference(run([(c + torch.tensor([9, -64, 35], dtype=torch.int32), f) for c, f in clouds])) < 1e-9
    for axis in range(3):
        coords, features = clouds[1]
        coords = coords.clone()
        coords[: len(coords) // 2, axis] += network.settings.canvas[0]
        assert difference(run([(coords, features)]), slice(1, 2)) > 1e-6


@pytest.mark.parametrize(("name", "options"), SMALL.values(), ids=SMALL.keys())
def test_a_cloud_is_the_same_alone_in_a_batch_in_any_order_and_anywhere(name, options):
    check_clouds(image_network(name, options))


@pytest.mark.parametrize(("name", "options"), SMALL.values(), ids=SMALL.keys())
def test_no_tensor_waits_for_the_garbage_collector(name, options):
    network = inflate(image_network(name, options))
    side = network.settings.canvas[0]

    def step():
        network(batch([cloud(0, 40, (side, side, side)), cloud(1, 9, (side, side, side))])).sum().backward()

    step()  # what is kept from the first time on
    gc.collect()
    before = list(gc.garbage)
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        step()
        gc.collect()
        left = [tuple(x.shape) for x in gc.garbage if isinstance(x, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.enable()
        gc.garbage[:] = before
    assert not left, "tensors in reference cycles outlive the step"


PLANES = ["absolute positions", "relative positions", "rotations", "windows that shift", "windows and grids", "mixed places"]


@pytest.mark.parametrize("kind", PLANES)
def test_a_plane_as_large_as_the_image_gives_what_the_image_gives(kind):
    model = image_network(*SMALL[kind])
    images = example_images(model).double()
    height, width = images.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    coords = torch.stack([torch.zeros_like(rows), torch.zeros_like(rows) + 5, rows - 9, columns + 4], -1).reshape(-1, 4).int()
    x = SparseTensor(images[0].permute(1, 2, 0).reshape(-1, images.shape[1]), coords)
    with torch.no_grad():
        assert torch.allclose(inflate(model)(x), model(images), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shift", [0, 3])
def test_a_shift_by_whole_windows_moves_the_outputs_of_windowed_attention(shift):
    model = image_network(*SMALL["windows that shift"])
    network = inflate(model)
    block = next(b for b in network.modules() if hasattr(b, "shift_size") and max(b.shift_size) == shift)
    coords, features = cloud(6, 300, (20, 30, 30))
    features = torch.randn(len(coords), block.norm1.weight.numel(), generator=seeded(7), dtype=torch.float64)

    def run(moved):
        x = SparseTensor(features, nn.functional.pad(moved, (1, 0))).derive(features, canvas=(14, 14))
        return block(x.permute(0, 2, 3, 1)).features

    with torch.no_grad():
        expected = run(coords)
        assert torch.allclose(run(coords + torch.tensor([7, -14, 21], dtype=torch.int32)), expected, rtol=0, atol=1e-12)
        assert not torch.allclose(run(coords + torch.tensor([0, 1, 0], dtype=torch.int32)), expected, atol=1e-3)


def class_token_alone(model):
    return model.norm(model.blocks(model.cls_token + model.pos_embed[:, :1]))


def empty_mean(model):
    return torch.zeros(1, 1, 1, model.num_features, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "features"), [("absolute positions", class_token_alone), ("windows that shift", empty_mean)])
def test_a_sample_without_voxels_is_its_class_token_alone_or_the_mean_of_nothing(kind, features):
    model = image_network(*SMALL[kind])
    network = inflate(model)
    coords, values = cloud(1, 60, (20, 30, 30))
    leaf = values.requires_grad_()
    out = network(SparseTensor(leaf, nn.functional.pad(coords, (1, 0), value=1), batch_size=3))
    assert torch.allclose(out[1:2], network(batch([(coords, values)])), rtol=0, atol=1e-12)
    assert torch.allclose(out[::2], model.forward_head(features(model)).expand(2, -1), rtol=0, atol=1e-12)
    out.sum().backward()
    assert leaf.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def smallest_of_each_class():
    smallest = {}
    for name, entry in json.loads(files("i2p_zoo.zoo").joinpath("ledger.json").read_text())["models"].items():
        smallest[entry["class"]] = min(smallest.get(entry["class"], (math.inf, "")), (entry["parameters"], name))
    return {name: parameters for parameters, name in smallest.values()}


SMALLEST = smallest_of_each_class()


@pytest.mark.long
@pytest.mark.parametrize(("name", "parameters"), SMALLEST.items(), ids=SMALLEST)
def test_every_class_of_networks_that_has_a_canvas_takes_clouds(name, parameters):
    # some count their blocks and join the class token at one of them, which a cut one would never reach
    model = (image_network(name, {}) if parameters < 6e6 else create_cut_model(name)).double()
    if inflate(model).settings.canvas is None:
        pytest.skip("It is convolutional.")
    check_clouds(model)


class Attention(nn.Module):
    """A user's own network, of which timm notes nothing."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 2)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        return self.head(x.mean(1))


def test_a_network_of_unknown_size_asks_for_its_canvas():
    x = batch([cloud(1, 50, (8, 8, 8))])
    with pytest.raises(UnsupportedError, match=r"inflate\(\.\.\., canvas=\(height, width\)\)"):
        inflate(Attention().double())(x)
    network = inflate(Attention().double(), canvas=(8, 8))
    assert network.settings.canvas == (8, 8)
    assert network(x).shape == (1, 2)
    with pytest.raises(InvalidInputError, match="canvas"):
        inflate(Attention(), canvas=(8, 0))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_byobnet"])
def test_convolutional_networks_have_no_canvas(name):
    assert create_model(name).settings.canvas is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_vit", {"img_size": 64}),
        ("levit_128s", {"img_size": 112}),
        ("test_vit", {"img_size": (64, 96)}),
        ("test_vit", {"img_size": 64, "stem": "point"}),
        ("pit_ti_224", {"img_size": 64, "stem": "point"}),
    ],
)
def test_the_canvas_is_of_the_image_size_that_a_network_is_made_with(name, options):
    model = create_model(name, voxel_size=0.1, **options).eval()
    size = options["img_size"]
    assert model.settings.canvas == ((size, size) if isinstance(size, int) else size)
    assert model([np.random.default_rng(0).uniform(-1, 1, (60, 3))]).isfinite().all()


def test_extractors_have_the_canvas_of_their_network():
    assert create_model("test_vit", features_only=True).settings.canvas == image_size(timm.create_model("test_vit"))


def test_looking_for_a_canvas_leaves_no_trace():
    source = timm.create_model("test_coatnet")
    calls = []
    for module in source.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
        module.register_forward_pre_hook(lambda *_: calls.append(1))
    source.train()
    source.stages[0].eval()
    modes = {name: module.training for name, module in source.named_modules()}
    before = torch.get_rng_state()
    network = inflate(source)
    assert network.settings.canvas == (160, 160)
    assert not calls
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: network.get_submodule(name).training for name in modes} == modes
    for name, value in source.named_buffers():
        assert torch.equal(network.get_buffer(name), value)
    network(batch([cloud(1, 20, (9, 9, 9))]))
    assert calls


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_canvas_is_there_in_any_precision(dtype):
    assert inflate(timm.create_model("test_vit").to(dtype)).settings.canvas == (160, 160)


def test_networks_are_inflated_in_several_threads_at_once():
    source, canvases = timm.create_model("test_vit"), []
    threads = [threading.Thread(target=lambda: canvases.append(inflate(source).settings.canvas)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert canvases == [(160, 160)] * 4


def test_a_network_without_weights_has_a_canvas_from_its_config():
    model = create_model("test_vit", img_size=64)
    assert type(model).from_config(model.to_config()).settings.canvas == (64, 64)
    assert find_canvas(model.to("meta")) is None


@pytest.mark.parametrize("stem", ["image", "point"])
def test_clouds_voxels_and_tensors_of_spconv_give_the_same(stem):
    model = create_model("test_vit", num_classes=5, voxel_size=0.1, stem=stem).eval()
    clouds = [np.random.default_rng(seed).uniform(-1, 1, (80 * seed, 3)).astype("float32") for seed in (1, 2)]
    voxels = voxelize(clouds, 0.1)

    class SpconvTensor:
        features, indices, batch_size = voxels.features, voxels.coords, 2

    with torch.no_grad():
        expected = model(clouds)
        for x in (voxels, SpconvTensor(), model.prepare(clouds), model.prepare(model.prepare(clouds))):
            assert torch.equal(model(x), expected)
        assert torch.equal(model.forward_head(model.forward_features(voxels)), expected)


def test_image_channels_and_size_are_what_timm_says():
    for name in ("test_vit", "test_resnet", "swin_tiny_patch4_window7_224"):
        with torch.device("meta"):
            model = timm.create_model(name)
        assert (image_channels(model), *image_size(model)) == tuple(model.pretrained_cfg["input_size"])
    assert image_size(nn.Conv2d(3, 4, 1)) is None


@pytest.mark.parametrize(("name", "options"), [SMALL["absolute positions"], SMALL["windows that shift"]])
def test_prediction_is_the_forward_and_tells_clouds_of_another_scale(name, options):
    model = create_model(name, num_classes=5, voxel_size=0.05, stem="point", **options).train()
    model.settings = model.settings.changed(normalization="unit_sphere")
    clouds = [np.random.default_rng(seed).uniform(-1, 1, (60 * seed, 3)) for seed in (1, 2)]
    clouds = [(cloud - cloud.mean(0)) / np.linalg.norm(cloud - cloud.mean(0), axis=1).max() for cloud in clouds]
    predicted = model.predict(clouds)
    assert model.training
    with torch.no_grad():
        assert torch.equal(model.eval()(clouds), predicted)
    with pytest.warns(UserWarning, match="within the unit sphere"):
        model.predict([100 * cloud for cloud in clouds])


@pytest.mark.long
@pytest.mark.parametrize("name", ["pvt_v2_b0", "twins_pcpvt_small", "edgenext_xx_small", "convnext_atto"])
def test_gradients_behind_strides_are_finite_and_small_where_kernels_read_all_planes(name):
    largest = {}
    for inflation in ("center", "average"):
        torch.manual_seed(0)
        model = create_model(name, num_classes=2, stem="point", voxel_size=0.1, inflation=inflation).train()
        coords, _ = cloud(3, 120, (20, 20, 20))
        features = torch.randn(len(coords), model.in_chans, generator=seeded(1))
        model(SparseTensor(features, nn.functional.pad(coords, (1, 0)))).square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        largest[inflation] = max(float(gradient.abs().max()) for gradient in gradients)
    assert largest["average"] < 100 < largest["center"]  # what docs/transformers.md says of zeros before a LayerNorm
