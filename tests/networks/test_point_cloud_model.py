"""What a network on point clouds takes, how it is copied, and that it follows the cloud: shifts, orders and batches."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import timm
import torch
import torchinfo
from torch import nn

from i2p_zoo import (
    InvalidInputError,
    PointCloudModel,
    SparseConv3d,
    SparseTensor,
    create_model,
    image_to_plane,
    inflate,
    voxelize,
)
from i2p_zoo._extras import require
from i2p_zoo.choices import AXES, INFLATIONS
from i2p_zoo.networks.point_cloud_model import point_cloud_class
from tests.helpers import plane_values, random_cloud, random_images, randomise_norms_, relative_error, seeded, small_net

NAMES = ["test_resnet", "test_efficientnet", "mobilenetv3_small_050", "test_byobnet"]
# How a model is made, and by how many voxels it shrinks a cloud in all.
VARIANTS = {
    "image stem": ({}, 32),
    "two skipped": ({"skip_downsamples": 2}, 8),
    "point stem": ({"stem": "point"}, 8),
}


def network(name="test_resnet", **options):
    torch.manual_seed(0)
    return randomise_norms_(create_model(name, num_classes=6, **options)).eval()


def cloud(**options):
    return random_cloud(3, **{"voxels": 300, "extent": 70, "dtype": torch.float32, **options})


def clouds(*counts, seed=0, columns=3):
    random = np.random.default_rng(seed)
    return [random.uniform(-1.5, 1.5, (count, columns)).astype(np.float32) for count in counts]


@pytest.fixture(scope="module")
def model():
    return network()


# What a network takes.


def test_sparse_tensor_list_of_arrays_and_of_tensors_give_the_same(model):
    points = clouds(200, 150)
    expected = model(voxelize(points, 0.05))
    assert expected.shape == (2, 6)
    assert torch.equal(model(points), expected)
    assert torch.equal(model([torch.from_numpy(cloud) for cloud in points]), expected)
    assert torch.equal(model([{"points": cloud} for cloud in points]), expected)


def test_one_array_is_one_cloud_and_a_stack_of_arrays_a_batch(model):
    points = clouds(200, 200)
    expected = model(points)
    assert torch.equal(model(np.stack(points)), expected)
    assert torch.equal(model(torch.from_numpy(np.stack(points))), expected)
    assert relative_error(model(points[1]), expected[1:]) < 1e-5


def test_clouds_are_cast_to_the_dtype_of_the_network(model):
    points = clouds(200, 150)
    double = copy.deepcopy(model).double()
    found = double(points)
    assert found.dtype == torch.float64
    assert relative_error(found, model(points)) < 1e-5
    assert model([cloud.astype(np.float64) for cloud in points]).dtype == torch.float32


@pytest.mark.parametrize("size", [0.02, 0.05, 0.2])
def test_voxel_size_of_the_settings_is_that_of_the_clouds(size):
    model = network(voxel_size=size)
    points = clouds(300)
    assert torch.equal(model(points), model(voxelize(points, size)))


def test_features_of_the_settings_are_those_of_the_voxels():
    model = network(in_chans=6, features="xyz,normals")
    (points,), (normals,) = clouds(200), clouds(200, seed=1)
    given = [{"points": points, "normals": normals}]
    assert torch.equal(model(given), model(voxelize(given, 0.05, "xyz,normals")))
    with pytest.raises(InvalidInputError, match="Feature 'normals' of cloud 0"):
        model([points])


@pytest.mark.filterwarnings("ignore:'locale.getdefaultlocale':DeprecationWarning")
def test_spconv_tensor_gives_what_the_sparse_tensor_gives(model):
    spconv = require("spconv.pytorch", extra="spconv")
    x = cloud(low=0)
    given = spconv.SparseConvTensor(x.features, x.coords, [128, 128, 128], x.batch_size)
    assert torch.equal(model(given), model(x))


@pytest.mark.parametrize("make", [torch.zeros, np.zeros])
def test_batch_of_images_is_refused_with_a_hint(model, make):
    with pytest.raises(InvalidInputError, match=r"\(2, 3, 32, 32\).*`i2p_zoo\.image_to_plane`"):
        model(make((2, 3, 32, 32)))


@pytest.mark.parametrize("bad", [None, 5, "cloud", [], {"xyz": 1}, np.zeros(3)], ids=repr)
def test_anything_else_is_refused(model, bad):
    with pytest.raises(InvalidInputError):
        model(bad)


def test_wrong_number_of_channels_is_quoted(model):
    with pytest.raises(InvalidInputError, match=r"reads 3 channels a voxel, and the input has 4.*'xyz'"):
        model(SparseTensor(torch.ones(5, 4), torch.arange(20).view(5, 4).int() * torch.tensor([0, 1, 1, 1]).int()))


def test_network_of_another_axis_reads_a_tensor_along_its_own():
    model = timm.create_model("test_efficientnet").double().eval()
    image = torch.randn(1, 3, 40, 50, generator=seeded(), dtype=torch.float64)
    net = inflate(model, axis="x")
    plain = image_to_plane(image, "x")
    made_elsewhere = SparseTensor(plain.features, plain.coords, spatial_shape=plain.spatial_shape)  # knows no axis
    assert relative_error(net(made_elsewhere), model(image)) < 1e-9


def test_sparse_tensor_given_is_not_changed(model):
    x = cloud()
    features, coords = x.features.clone(), x.coords.clone()
    skipping = network(skip_downsamples=2)
    expected = model(x)
    skipping(x)
    assert torch.equal(x.features, features)
    assert torch.equal(x.coords, coords)
    assert x.plan.skip_downsamples == 0
    assert torch.equal(model(x), expected)


def test_voxels_get_gradients():
    # A strided "center" kernel reads every other slice alone, so only the other inflations reach every voxel.
    x = cloud()
    leaf = x.features.clone().requires_grad_()
    network(inflation="average", stem="point")(x.derive(leaf)).square().sum().backward()
    assert leaf.grad.isfinite().all()
    assert (leaf.grad.abs().sum(1) > 0).double().mean() > 0.95


# A network follows the cloud.


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_shift_by_the_total_stride_leaves_the_logits(name, variant):
    options, stride = VARIANTS[variant]
    model = network(name, **options).double()
    if options.get("stem") == "point" and name != "test_resnet":
        stride *= 2  # their stems have no pool to drop
    x = cloud(dtype=torch.float64)
    expected = model(x)
    for shift in ((1, 0, 0), (0, -1, 0), (-3, 2, 40)):
        moved = x.coords + torch.tensor([0, *shift], dtype=torch.int32) * stride
        assert relative_error(model(SparseTensor(x.features, moved, batch_size=2)), expected) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_order_of_voxels_does_not_matter(name):
    model = network(name).double()
    x = cloud(dtype=torch.float64)
    order = torch.randperm(len(x.coords), generator=seeded(4))
    shuffled = SparseTensor(x.features[order], x.coords[order], batch_size=2)
    assert relative_error(model(shuffled), model(x)) < 1e-12


def test_order_of_points_does_not_matter(model):
    double = copy.deepcopy(model).double()
    points = [cloud.astype(np.float64) for cloud in clouds(400, 300)]
    random = np.random.default_rng(5)
    assert relative_error(double([random.permutation(cloud) for cloud in points]), double(points)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_batch_orders_the_logits_and_samples_do_not_mix(name):
    model = network(name).double()
    points = [cloud.astype(np.float64) for cloud in clouds(400, 30, 150)]
    together = model(points)
    assert relative_error(model([points[n] for n in (2, 0, 1)]), together[[2, 0, 1]]) < 1e-12
    alone = torch.cat([model([cloud]) for cloud in points])
    assert relative_error(alone, together) < 1e-12
    assert not torch.allclose(together[0], together[2]), "the samples differ at all"


def test_sample_without_voxels_is_finite_and_leaves_the_others(model):
    x = cloud(dtype=torch.float64)
    double = copy.deepcopy(model).double()
    apart = x.coords * torch.tensor([2, 1, 1, 1], dtype=torch.int32)  # samples 0 and 2 of three
    found = double(SparseTensor(x.features, apart, batch_size=3))
    assert relative_error(found[[0, 2]], double(x)) < 1e-12
    assert found.isfinite().all()


def test_single_voxel_is_enough_in_eval_mode(model):
    assert model(SparseTensor(torch.ones(1, 3), torch.tensor([[0, 5, -7, 9]]))).isfinite().all()


# Copies.


@pytest.mark.parametrize("name", NAMES)
def test_deep_copy_and_pickle_give_the_same_bits(name):
    model = network(name, stem="point", skip_downsamples=2)
    x = cloud()
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        assert isinstance(twin, PointCloudModel)
        assert torch.equal(twin(x), expected)
        assert twin.settings == model.settings
        assert twin.report == model.report
        assert (twin.architecture, twin.in_chans, twin.num_classes) == (name, 3, 6)
        with torch.no_grad():
            next(twin.parameters()).zero_()
        assert torch.equal(model(x), expected), "the copy has weights of its own"


def test_inflated_module_without_a_name_is_copied_and_pickled():
    net = inflate(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())).eval()
    x = cloud()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x).features, net(x).features)


def test_model_moved_to_float64_computes_in_it(model):
    double = copy.deepcopy(model).to(torch.float64)
    x = cloud()
    found = double(x.double())
    assert found.dtype == torch.float64
    assert 0 < relative_error(found, model(x)) < 1e-5
    assert relative_error(double(x), found) < 1e-6, "what is given in single precision is cast"


def test_state_dict_round_trip_gives_the_same_bits(model):
    other = create_model("test_resnet", num_classes=6).eval()
    other.load_state_dict(model.state_dict())
    x = cloud()
    assert torch.equal(other(x), model(x))


def test_class_is_made_once_and_named_after_its_own():
    first, second = create_model("test_resnet"), create_model("resnet10t")
    kind = type(timm.create_model("test_resnet"))
    assert type(first) is type(second) is point_cloud_class(kind)
    assert (type(first).__name__, type(first).__module__) == ("PointCloudResNet", kind.__module__)


def test_save_pretrained_of_the_model_writes_a_checkpoint(tmp_path, model):
    folder = model.save_pretrained(tmp_path / "net")
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors"}


@pytest.mark.parametrize("bad", [0, -1, 2.5, "3"])
def test_bad_depth_of_a_network_is_quoted(bad):
    with pytest.raises(InvalidInputError, match=rf"depth.*{bad}"):
        inflate(small_net(), depth=bad)


# What an inflated network computes.


@pytest.mark.parametrize("axis", AXES)
def test_center_network_computes_the_2d_network_on_each_slice_of_a_volume(axis):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 5, padding=2))
    net = randomise_norms_(net).double().eval()
    volume = random_images(2, 3, 6, 7, 8)
    out = inflate(net, "center", axis)(SparseTensor.from_dense(volume, keep_zeros=True).with_plan(axis="zyx".index(axis)))
    dim = 2 + "zyx".index(axis)
    expected = torch.stack([net(image) for image in volume.unbind(dim)], dim)
    assert relative_error(out.dense(), expected) < 1e-12


@pytest.mark.parametrize("axis", AXES)
def test_average_network_computes_the_2d_network_on_a_volume_constant_along_the_new_axis(axis):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double()
    dim = 2 + "zyx".index(axis)
    image = random_images(2, 3, 6, 7)
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


# What `inflate` keeps.


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


@pytest.mark.parametrize("inflation", INFLATIONS)
def test_network_is_of_the_2d_class_and_notes_its_settings(inflation):
    model = timm.create_model("test_efficientnet")
    net = inflate(model, inflation)
    assert isinstance(net, type(model))
    assert isinstance(net, PointCloudModel)
    assert net.settings.inflation == inflation
    assert not isinstance(model, PointCloudModel)


def test_sequential_runs_on_a_plane_as_on_the_image():
    model = small_net().double().eval()
    images = random_images(2, 3, 21, 18)
    assert relative_error(inflate(model)(image_to_plane(images)), model(images)) < 1e-12


@pytest.mark.parametrize("kernel", [1, 3, (1, 5)], ids=str)
def test_single_convolution_as_root_runs_on_a_plane_as_on_the_image(kernel):
    model = nn.Conv2d(3, 4, kernel, stride=2, padding=kernel // 2 if isinstance(kernel, int) else (0, 2)).double()
    net = inflate(model)
    assert isinstance(net, SparseConv3d)
    assert isinstance(net, PointCloudModel)
    images = random_images(2, 3, 9, 10)
    assert relative_error(plane_values(net(image_to_plane(images))), model(images)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_network_keeps_its_dtype(dtype):
    net = inflate(small_net().to(dtype))
    assert {t.dtype for t in net.state_dict().values() if t.is_floating_point()} == {dtype}


def test_torchinfo_lists_parameters_and_says_why_it_takes_no_input():
    source = timm.create_model("test_resnet")
    model = inflate(source)
    expected = sum(t.numel() * (t.shape[-1] if t.ndim == 4 else 1) for t in source.parameters())  # as deep as wide
    assert torchinfo.summary(model, verbose=0).total_params == expected
    with pytest.raises(RuntimeError, match="Failed to run torchinfo") as raised:
        torchinfo.summary(model, input_data=[random_cloud(3)], verbose=0)
    assert "unsupported input or output type: SparseTensor" in str(raised.value.__cause__)
