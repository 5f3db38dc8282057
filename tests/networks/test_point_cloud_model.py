"""What a network on point clouds takes, how it is copied, and that it follows the cloud: shifts, orders and batches."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import timm
import torch
from torch import nn

from i2p_zoo import InvalidInputError, PointCloudModel, SparseTensor, create_model, image_to_plane, inflate, voxelize
from i2p_zoo._extras import require
from i2p_zoo.inflation.settings import Settings
from i2p_zoo.inflation.structure import inflate_structure, materialize_
from i2p_zoo.networks.point_cloud_model import point_cloud_class
from tests.helpers import random_cloud, randomise_norms_, relative_error, seeded

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
    with pytest.raises(InvalidInputError, match="takes 3 channels"):
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
    with pytest.raises(InvalidInputError, match=r"torch\.float32.*torch\.float64"):
        double(x)


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


# Settings and the structure's weights.


def test_settings_are_changed_in_a_copy():
    settings = Settings()
    changed = settings.changed(stem="point", voxel_size=0.1)
    assert (settings.stem, settings.voxel_size) == ("image", 0.05)
    assert changed.to_dict() == {
        "inflation": "center",
        "axis": "z",
        "depth": None,
        "stem": "point",
        "skip_downsamples": 0,
        "voxel_size": 0.1,
        "features": "xyz",
        "preset": "",
    }


def test_only_convolutions_on_the_meta_device_are_given_weights():
    torch.manual_seed(0)
    net = create_model("dla34", num_classes=2)
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    fresh = inflate_structure(nn.Sequential(nn.Conv2d(512, 9, 3)), Settings())[0]
    net.fc = fresh
    materialize_(net)
    assert net.fc is fresh
    assert net.fc.weight.device.type == "cpu"
    assert net.fc.weight.std().item() == pytest.approx((2 / (27 * 9)) ** 0.5, rel=0.05)
    assert net.fc.bias.count_nonzero() == 0
    others = {key: value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    assert others
    assert all(torch.equal(value, kept[key]) for key, value in others.items())


def test_save_pretrained_of_the_model_writes_a_checkpoint(tmp_path, model):
    folder = model.save_pretrained(tmp_path / "net")
    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors"}
