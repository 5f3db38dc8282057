"""create_model, list_models and timm's habits, on clouds."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

from i2p_zoo import (
    InvalidInputError,
    PointCloudModel,
    SparseConv3d,
    SparseTensor,
    create_model,
    from_pretrained,
    inflate,
    list_models,
)
from i2p_zoo.modules import class_names, set_class_names_
from i2p_zoo.networks.models import Adaptation, adapt_
from i2p_zoo.networks.timm_models import create_timm_model
from tests.helpers import random_cloud, randomise_norms_, relative_error, strided_sites

SMALL = ["test_resnet", "test_efficientnet"]
NAMES = [*SMALL, "mobilenetv3_small_050", "resnet10t", "ghostnet_050"]


def cloud(in_chans=3, **options):
    return random_cloud(in_chans, **{"voxels": 300, "extent": 70, "dtype": torch.float32, **options})


def network(name, **options):
    # timm starts the last norm of a residual branch at zero, which would hide whatever is behind it.
    torch.manual_seed(0)
    return randomise_norms_(create_model(name, **{"num_classes": 5, **options}))


# Forward and backward.


def check_gradients(model, x):
    logits = model(x)
    assert logits.shape == (2, 5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 3])).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    assert [name for name, gradient in gradients.items() if not gradient.count_nonzero()] == []


@pytest.mark.parametrize("skip", [0, 1, 2, 5])
@pytest.mark.parametrize("in_chans", [1, 3, 4, 6])
@pytest.mark.parametrize("stem", ["image", "point"])
def test_every_parameter_gets_a_finite_gradient(stem, in_chans, skip):
    model = network("test_resnet", stem=stem, in_chans=in_chans, skip_downsamples=skip)
    check_gradients(model, cloud(in_chans))


@pytest.mark.parametrize(
    ("stem", "in_chans", "skip"), [("image", 3, 0), ("image", 6, 2), ("point", 4, 0), ("point", 1, 3)], ids=str
)
@pytest.mark.parametrize("name", ["test_efficientnet", "mobilenetv3_small_050", "resnet10t", "ghostnet_050"])
def test_every_parameter_of_other_networks_gets_a_finite_gradient(name, stem, in_chans, skip):
    check_gradients(network(name, stem=stem, in_chans=in_chans, skip_downsamples=skip), cloud(in_chans))


@pytest.mark.parametrize("inflation", ["center", "average", "copy"])
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_every_inflation_and_axis_trains(inflation, axis):
    model = network("test_resnet", inflation=inflation, axis=axis, depth=3)
    assert (model.settings.inflation, model.settings.axis, model.settings.depth) == (inflation, axis, 3)
    check_gradients(model, cloud())


def test_a_few_steps_fit_a_batch():
    model = network("test_resnet", stem="point")
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    x, target = cloud(batch_size=4), torch.arange(4)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {"drop_rate": 0.5}),
        ("test_efficientnet", {"drop_rate": 0.5}),
        ("test_resnet", {"drop_path_rate": 0.5}),
        ("mobilenetv3_small_050", {"drop_path_rate": 0.5}),
    ],
    ids=str,
)
def test_dropout_and_drop_path_act_in_training_mode_alone(name, options):
    plain, model = network(name), network(name, **options)
    x = cloud()
    torch.manual_seed(3)
    noisy = [model(x) for _ in range(4)]
    assert all(logits.isfinite().all() for logits in noisy)
    assert any(not torch.equal(logits, noisy[0]) for logits in noisy[1:])
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("name", [*SMALL, "mobilenetv3_small_050", "resnet10t"])
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(name):
    def run(checkpointing):
        model = network(name)
        model.set_grad_checkpointing(checkpointing)
        loss = model(cloud()).square().sum()
        loss.backward()
        return loss, [parameter.grad for parameter in model.parameters()]

    (plain, gradients), (saving, regained) = run(False), run(True)
    assert relative_error(saving, plain) < 1e-6
    assert all(relative_error(found, expected) < 1e-5 for found, expected in zip(regained, gradients, strict=True))


# timm's habits.


@pytest.mark.parametrize("name", NAMES)
def test_number_of_classes_is_that_of_the_logits(name):
    model = network(name, num_classes=7).eval()
    assert isinstance(model, PointCloudModel)
    assert isinstance(model, type(timm.create_model(name)))
    assert (model(cloud()).shape, model.num_classes) == ((2, 7), 7)


@pytest.mark.parametrize("name", NAMES)
def test_zero_classes_give_the_features_of_the_pooled_head(name):
    model, headless = network(name).eval(), network(name, num_classes=0).eval()
    headless.load_state_dict({k: v for k, v in model.state_dict().items() if k in headless.state_dict()})
    x = cloud()
    features = headless(x)
    assert features.shape == (2, model.head_hidden_size)
    assert torch.equal(features, model.forward_head(model.forward_features(x), pre_logits=True))


@pytest.mark.parametrize("stem", ["image", "point"])
@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_features_and_then_the_head(name, stem):
    model = network(name, stem=stem).eval()
    x = cloud()
    features = model.forward_features(x)
    assert isinstance(features, SparseTensor)
    assert features.features.shape[1] == model.num_features
    assert torch.equal(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    assert torch.equal(model.get_classifier()(pooled), model(x))


def test_default_number_of_classes_is_timms_own():
    assert create_model("test_resnet").num_classes == timm.create_model("test_resnet").num_classes == 1000


@pytest.mark.parametrize("name", [*SMALL, "mobilenetv3_small_050", "dla34"])
@pytest.mark.parametrize("stem", ["image", "point"])
def test_classifier_is_reset(name, stem):
    model = network(name, stem=stem)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    x = cloud()
    for classes in (15, 2):
        model.reset_classifier(classes)
        assert model.num_classes == classes
        assert model.eval()(x).shape == (2, classes)
        head = {f"{model.pretrained_cfg['classifier']}.{tensor}" for tensor in ("weight", "bias")}
        state = model.state_dict()
        assert state.keys() == kept.keys()
        assert all(torch.equal(value, kept[key]) for key, value in state.items() if key not in head)
        model.train()(x).sum().backward()
        assert all(p.device.type == "cpu" and p.grad is not None for p in model.get_classifier().parameters())
        model.load_state_dict(kept | {key: state[key] for key in head})
        model.zero_grad()
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model.eval()(x).shape == (2, model.head_hidden_size if hasattr(model, "head_hidden_size") else model.num_features)


@pytest.mark.parametrize("stem", ["image", "point"])
def test_classifier_that_is_a_convolution_is_a_sparse_one_with_new_weights(stem):
    model = network("dla34", stem=stem)
    assert isinstance(model.get_classifier(), SparseConv3d)
    model.reset_classifier(4)
    layer = model.get_classifier()
    assert isinstance(layer, SparseConv3d)
    assert layer.weight.shape == (4, 1, 1, 1, 512)
    assert 0 < layer.weight.std() < 1


def test_new_classifier_is_of_the_models_dtype():
    for name in ("test_resnet", "dla34"):
        model = network(name).double()
        model.reset_classifier(4)
        assert model.eval()(cloud(dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_classifier_and_feature_numbers_are_timms(name):
    source, model = timm.create_model(name, num_classes=5), network(name)
    assert model.num_features == source.num_features
    assert model.head_hidden_size == source.head_hidden_size
    assert type(model.get_classifier()) is type(source.get_classifier())
    assert model.get_classifier().out_features == 5


@pytest.mark.parametrize("indices", [(0, 2, 4), (1,), (-1,), None], ids=str)
@pytest.mark.parametrize("name", [*SMALL, "mobilenetv3_small_050"])
def test_features_only_gives_the_maps_that_timm_states(name, indices):
    chosen = {} if indices is None else {"out_indices": indices}
    source = timm.create_model(name, features_only=True, **chosen)
    model = create_model(name, features_only=True, **chosen).eval()
    x = cloud()
    maps = model(x)
    assert [m.stride for m in maps] == source.feature_info.reduction() == model.feature_info.reduction()
    assert [m.features.shape[1] for m in maps] == source.feature_info.channels() == model.feature_info.channels()
    for m in maps:
        assert sorted(map(tuple, m.coords.tolist())) == strided_sites(x.coords, (m.stride,) * 3)


@pytest.mark.parametrize("location", ["bottleneck", "expansion"])
def test_feature_maps_are_the_networks_own(location):
    model = network("test_efficientnet").eval()
    extractor = create_model("test_efficientnet", features_only=True, feature_location=location).eval()
    extractor.load_state_dict({k: v for k, v in model.state_dict().items() if k in extractor.state_dict()})
    seen = []
    for module in model.modules():
        module.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    x = cloud()
    model(x)
    seen = [value.features for value in seen if isinstance(value, SparseTensor)]
    maps = extractor(x)
    assert len(maps) == 5
    for found in maps:
        alike = [value for value in seen if value.shape == found.features.shape]
        assert any(relative_error(found.features, value) < 1e-6 for value in alike)


def test_intermediates_are_those_of_the_stages():
    model = network("test_resnet").eval()
    x = cloud()
    final, intermediates = model.forward_intermediates(x)
    assert [m.stride for m in intermediates] == [2, 4, 8, 16, 32]
    assert torch.equal(final.features, model.forward_features(x).features)
    assert torch.equal(final.features, intermediates[-1].features)


@pytest.mark.parametrize("name", ["test_resnet", "i2p-test_resnet", "i2p-test_resnet.r160_in1k"])
def test_names_with_and_without_prefix_and_tag_make_the_same_network(name):
    model = create_model(name, in_chans=4, stem="point", voxel_size=0.1, features="xyz,ones", skip_downsamples=3)
    assert model.architecture == "test_resnet"
    assert model.settings.to_dict() == {
        "inflation": "center",
        "axis": "z",
        "depth": None,
        "stem": "point",
        "skip_downsamples": 3,
        "voxel_size": 0.1,
        "features": "xyz,ones",
        "preset": "",
        "rgb_mean": None,
        "rgb_std": None,
        "normalization": "",
        "canvas": None,
    }
    assert (model.in_chans, model.model_args) == (4, {})


def test_other_arguments_go_to_timm_and_are_noted():
    model = create_model("test_resnet", num_classes=3, drop_rate=0.25, global_pool="max")
    assert (model.drop_rate, model.global_pool.pool_type) == (0.25, "max")
    assert model.model_args == {"drop_rate": 0.25, "global_pool": "max"}


@pytest.mark.parametrize("options", [{}, {"stem": "point", "in_chans": 4}], ids=str)
def test_seed_decides_every_weight(options):
    def made(seed):
        torch.manual_seed(seed)
        model = create_model("test_efficientnet", **options)
        model.reset_classifier(3) if not options else None
        return model.state_dict()

    first, again, other = made(0), made(0), made(1)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["conv_stem.weight"], other["conv_stem.weight"])


def test_random_weights_are_those_that_timm_draws():
    torch.manual_seed(0)
    expected = inflate(timm.create_model("test_resnet", num_classes=5), "copy").state_dict()
    torch.manual_seed(0)
    found = create_model("test_resnet", num_classes=5, inflation="copy").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


# Adapting a network in hand.


def test_adapting_changes_what_is_asked_and_keeps_the_rest():
    source = timm.create_model("test_resnet", num_classes=5)
    model = randomise_norms_(inflate(source))
    model.in_chans = 3
    before = copy.deepcopy(model)
    assert adapt_(model, Adaptation(), lambda: source) is model
    assert model.settings == before.settings
    adapt_(model, Adaptation(num_classes=9, skip_downsamples=1, voxel_size=0.2, features="rgb"), lambda: source)
    assert (model.num_classes, model.in_chans) == (9, 3)
    assert model.settings == before.settings.changed(skip_downsamples=1, voxel_size=0.2, features="rgb")
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in before.state_dict().items() if not key.startswith("fc."))


def test_adapting_to_the_classes_there_keeps_the_classifier():
    source = timm.create_model("test_resnet", num_classes=5)
    model = inflate(source)
    model.in_chans = 3
    adapt_(model, Adaptation(num_classes=5, in_chans=3, stem="image", skip_downsamples=0), lambda: source)
    assert torch.equal(model.fc.weight, source.fc.weight)


# Names.


def test_list_is_the_ledgers_names_with_prefix_sorted(monkeypatch):
    monkeypatch.setattr("i2p_zoo.zoo.ledger.certified_models", lambda: ["vgg11", "resnet18", "resnet10t", "densenet121"])
    assert list_models() == ["i2p-densenet121", "i2p-resnet10t", "i2p-resnet18", "i2p-vgg11"]
    assert list_models("*") == list_models()
    for pattern, expected in {
        "resnet*": ["i2p-resnet10t", "i2p-resnet18"],
        "i2p-resnet*": ["i2p-resnet10t", "i2p-resnet18"],
        "resnet1?": ["i2p-resnet18"],
        "*[!t]": ["i2p-densenet121", "i2p-resnet18", "i2p-vgg11"],
        "*net*": ["i2p-densenet121", "i2p-resnet10t", "i2p-resnet18"],
        "resnet18": ["i2p-resnet18"],
        "swin*": [],
    }.items():
        assert list_models(pattern) == expected


def test_listed_names_are_architectures_of_timm():
    assert all(timm.is_model(name.removeprefix("i2p-")) for name in list_models())


# Refusals.


@pytest.mark.parametrize("call", [create_model, create_timm_model])
def test_pretrained_weights_are_asked_for_elsewhere(call):
    with pytest.raises(InvalidInputError, match=r"`i2p_zoo\.from_pretrained`"):
        call("test_resnet", pretrained=True)


def test_transformer_is_made_with_every_tensor_of_the_2d_network():
    model, source = create_model("test_vit"), timm.create_model("test_vit")
    shapes = {name: tuple(tensor.shape) for name, tensor in source.state_dict().items() if name != "patch_embed.proj.weight"}
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name in shapes} == shapes
    assert len(model.state_dict()) == len(shapes) + 1


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        *(("stem", bad) for bad in ("cloud", "", "Image", 3)),
        *(("skip_downsamples", bad) for bad in (-1, 1.5, "2", True)),
        *(("num_classes", bad) for bad in (-1, 2.0, "2", True)),
        *(("dtype", bad) for bad in ("half", torch.int32)),
        ("device", "teapot"),
        *(("voxel_size", bad) for bad in (0, -0.05, float("nan"), float("inf"), "0.1")),
        *(("features", bad) for bad in ("colour", ["xyz", "ones"])),
        *(("in_chans", bad) for bad in (0, -3, 2.0, "3", None, True)),
        *(("inflation", bad) for bad in ("centre", None)),
        *(("axis", bad) for bad in ("w", 0)),
        ("depth", 0),
    ],
    ids=lambda value: repr(value),
)
def test_bad_argument_is_quoted(option, bad):
    with pytest.raises(InvalidInputError) as caught:
        create_model("test_resnet", **{option: bad})
    assert f"`{option}`" in str(caught.value)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"skip_downsamples": 6}, "is 6, and PointCloudResNet halves 5 times"),
        ({"features_only": True, "num_classes": 2}, "num_classes=2.*no classifier"),
        ({"preset": "image2point", "inflation": "average"}, "inflation='average'"),
    ],
    ids=str,
)
def test_argument_that_would_do_nothing_is_refused(options, words):
    with pytest.raises(InvalidInputError, match=words):
        create_model("resnet18" if "preset" in options else "test_resnet", **options)


# timm's `feature_info` states the reduction of the last map; a halving is a doubling of it.
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "vgg11", "dla46_c", "hrnet_w18_small"])
@pytest.mark.parametrize("stem", ["image", "point"])
def test_every_halving_can_be_skipped_and_no_more(name, stem):
    feature_info = timm.create_model(name, features_only=True).feature_info
    halvings = round(math.log2(max(feature_info.reduction())))
    size = {"mlp_ratio": 0.01} if name == "vgg11" else {}  # its classifier, inflated, has 2.9 GB
    model = create_model(name, stem=stem, skip_downsamples=halvings, num_classes=2, **size)
    with torch.no_grad():
        assert model.eval().forward_features(cloud(3)).stride == 1
    with pytest.raises(InvalidInputError, match=f"halves {halvings} times"):
        create_model(name, stem=stem, skip_downsamples=halvings + 1, num_classes=2, **size)


def test_created_network_stands_where_it_is_asked_to_in_the_dtype_asked_for():
    model = create_model("test_resnet", device="cpu", dtype=torch.float64, num_classes=2)
    assert {(t.device.type, t.dtype) for t in model.parameters()} == {("cpu", torch.float64)}
    assert model.model_args == {}


@pytest.mark.parametrize("bad", [-1, True, 2.0])
def test_classifier_of_no_number_of_classes_is_refused_and_the_network_stays(bad):
    model = create_model("test_resnet", num_classes=4)
    with pytest.raises(InvalidInputError, match=f"`num_classes` must be .*{bad!r}"):
        model.reset_classifier(bad)
    assert model.fc.out_features == 4


@pytest.mark.parametrize(
    ("features", "in_chans", "wanted"), [("xyz,rgb", 3, 6), ("ones", 3, 1), ("rgb, normals,ones", 6, 7), ("xyz,rgb", 4, 6)]
)
def test_features_of_another_number_of_channels_are_refused(features, in_chans, wanted):
    with pytest.raises(
        InvalidInputError, match=rf"'{features}' are {wanted} channels?.*reads {in_chans}: give in_chans={wanted}"
    ):
        create_model("test_resnet", in_chans=in_chans, features=features)
    create_model("test_resnet", in_chans=wanted, features=features)
    create_model("test_resnet", in_chans=5, features="xyz,extra")


@pytest.mark.parametrize("function", [create_model, from_pretrained])
def test_name_that_is_no_string_is_refused(function):
    with pytest.raises(InvalidInputError, match=r"i2p-resnet50.*got NoneType"):
        function(None)


def test_numbers_of_numpy_are_sizes():
    for size in (np.float32(0.5), np.int64(1)):
        assert type(create_model("test_resnet", voxel_size=size).settings.voxel_size) is float


def test_file_is_no_checkpoints_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"model\.safetensors is a file; give the checkpoint's folder"):
        from_pretrained(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "options", [{"bogus": 1}, {"global_pool": "bogus"}, {"out_indices": (9,), "features_only": True}], ids=str
)
def test_argument_that_timm_does_not_take_is_quoted(options):
    with pytest.raises(InvalidInputError) as caught:
        create_model("test_resnet", **options)
    assert "timm cannot create 'test_resnet'" in str(caught.value)
    assert repr(next(iter(options.values()))) in str(caught.value)


def test_a_new_classifier_has_not_the_names_of_the_old_one():
    for classes in (3, 2, 0):
        model = create_model("test_resnet", num_classes=3)
        set_class_names_(model, ("lamp", "chair", "table"))
        model.reset_classifier(classes)
        assert class_names(model) == ()
        assert "label_names" not in model.to_config()["pretrained_cfg"]
