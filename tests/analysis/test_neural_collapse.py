"""Neural collapse by the paper's formulas, 0 where it is complete; and features that are what the classifier reads."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import i2p_zoo
from i2p_zoo import InvalidInputError, voxelize
from i2p_zoo.analysis import (
    NeuralCollapse,
    draw_collapse,
    image_features,
    measure_collapse,
    neural_collapse,
    penultimate_features,
)
from i2p_zoo.data import CloudSet
from i2p_zoo.errors import MissingExtraError
from i2p_zoo.finetune import find_classifier
from tests.helpers import property_test, seeded

FIELDS = [field.name for field in dataclasses.fields(NeuralCollapse)]
OF_CLASSIFIER = ["nc2_norms_classifier", "nc2_angles_classifier", "nc3", "nc4"]


def close(found, expected, tolerance=1e-9):
    found, expected = (np.array([getattr(metrics, name) for name in FIELDS], float) for metrics in (found, expected))
    return np.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


# The paper's formulas, one sum at a time.


def oracle(features, labels, weight, bias):
    """The metrics by plain loops and a pseudo-inverse of Sigma_B; each class counts the same."""
    classes = sorted(set(labels.tolist()))
    count, channels = len(classes), features.shape[1]
    means = {c: sum(h for h, label in zip(features, labels, strict=True) if label == c) / (labels == c).sum() for c in classes}
    middle = sum(means.values()) / count
    within, between = np.zeros((channels, channels)), np.zeros((channels, channels))
    for h, label in zip(features, labels, strict=True):
        within += np.outer(h - means[label], h - means[label]) / (labels == label).sum() / count
    for c in classes:
        between += np.outer(means[c] - middle, means[c] - middle) / count
    rows = {c: weight[c] for c in classes}
    centred = {c: means[c] - middle for c in classes}

    def variation(vectors):
        lengths = [np.sqrt((v * v).sum()) for v in vectors.values()]
        mean = sum(lengths) / count
        return np.sqrt(sum((length - mean) ** 2 for length in lengths) / count) / mean

    def angles(vectors):
        total = 0.0
        for a in classes:
            for b in classes:
                if a != b:
                    cosine = vectors[a] @ vectors[b] / np.sqrt((vectors[a] ** 2).sum() * (vectors[b] ** 2).sum())
                    total += abs(cosine + 1 / (count - 1))
        return total / (count * (count - 1))

    def scaled(vectors):
        matrix = np.stack([vectors[c] for c in classes])
        return matrix / np.sqrt((matrix**2).sum())

    wrong = 0
    for h in features:
        answer = max(classes, key=lambda c: rows[c] @ h + bias[c])
        wrong += answer != min(classes, key=lambda c: ((h - means[c]) ** 2).sum())
    return NeuralCollapse(
        nc1=np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / count,
        nc2_norms_means=variation(centred),
        nc2_norms_classifier=variation(rows),
        nc2_angles_means=angles(centred),
        nc2_angles_classifier=angles(rows),
        nc3=((scaled(rows) - scaled(centred)) ** 2).sum(),
        nc4=wrong / len(features),
    )


def random_case(seed, count=4, channels=6, most=7):
    """Features, labels, weight and bias: classes of unequal sizes in any order, means of any place, noise between them."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, most + 1, count)
    labels = random.permutation(np.repeat(np.arange(count), sizes))
    means = random.normal(size=(count, channels)) + random.normal(size=channels)
    features = means[labels] + random.uniform(0.1, 1.5) * random.normal(size=(len(labels), channels))
    return features, labels, random.normal(size=(count, channels)), random.normal(size=count)


@property_test
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(2, 8), st.integers(1, 8))
def test_every_metric_is_the_papers(seed, count, channels, most):
    case = random_case(seed, count, channels, most)
    assert close(neural_collapse(*case), oracle(*case), tolerance=1e-7)


def test_hand_counted_metrics():
    features = np.array([[1.0, 0], [3, 0], [-1, 0], [-3, 0], [0, 1], [0, 1]])
    weight = np.array([[2.0, 0], [-2, 0], [0, 1]])
    found = neural_collapse(features, np.array([0, 0, 1, 1, 2, 2]), weight, np.array([0.0, 0.0, 2.5]))
    # Centred means (2, -1/3), (-2, -1/3), (0, 2/3); their squares sum to 8 + 2/3; only x varies within, by 2/3 on average.
    long, short = np.sqrt(4 + 1 / 9), 2 / 3
    lengths = np.array([long, long, short])
    assert found.nc1 == pytest.approx(2 / 3 / 8)
    assert found.nc2_norms_means == pytest.approx(lengths.std() / lengths.mean())
    assert found.nc2_norms_classifier == pytest.approx(np.sqrt(2 / 9) / (5 / 3))
    cosines = np.array([(-4 + 1 / 9) / long**2, -1 / 3 / long, -1 / 3 / long])
    assert found.nc2_angles_means == pytest.approx(np.abs(cosines + 1 / 2).mean())
    assert found.nc2_angles_classifier == pytest.approx(1 / 2)
    assert found.nc3 == pytest.approx(2 - 2 * (8 + 2 / 3) / np.sqrt(9 * (8 + 2 / 3)))
    assert found.nc4 == pytest.approx(2 / 6), "the bias makes the third class of the samples at x = 1 and -1"


def simplex(count, channels, seed=0):
    """The vertices of a simplex ETF, (count, channels) of length 1, turned at random."""
    vertices = np.sqrt(count / (count - 1)) * (np.eye(count) - 1 / count)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(channels, count)))[0]
    return vertices @ basis.T


@pytest.mark.parametrize(("count", "channels"), [(2, 2), (3, 3), (10, 64), (40, 1024)])
@pytest.mark.parametrize("sizes", ["equal", "unequal"])
def test_all_metrics_of_an_exact_collapse_are_zero(count, channels, sizes):
    vertices = simplex(count, channels)
    labels = np.repeat(np.arange(count), 4 if sizes == "equal" else np.arange(count) % 5 + 1)
    found = neural_collapse(3 * vertices[labels] + 7, labels, 0.2 * vertices, -0.2 * 7 * vertices.sum(1))
    assert all(0 <= value <= 1e-9 for value in found.to_dict().values()), found


@pytest.mark.parametrize("metric", FIELDS)
def test_each_metric_sees_what_it_is_about(metric):
    """A collapse that is disturbed in one way leaves 0 in the metrics of that way."""
    vertices = simplex(3, 5)
    labels = np.repeat(np.arange(3), 2)
    features, weight, bias = vertices[labels], vertices.copy(), np.zeros(3)
    if metric == "nc1":
        features += 0.1 * np.array([1, -1] * 3)[:, None] * vertices[labels]
    elif metric in ("nc2_norms_means", "nc2_angles_means"):
        features[labels == 0] *= 2
    elif metric == "nc2_norms_classifier":
        weight[0] *= 2
    elif metric == "nc2_angles_classifier":
        weight[0] += 0.5 * weight[1]
    elif metric == "nc3":
        weight = -weight
    else:
        bias[0] = 100
    found = neural_collapse(features, labels, weight, bias).to_dict()
    assert found[metric] > 1e-3
    assert (found["nc1"] > 1e-9) == (metric == "nc1")
    assert (found["nc2_norms_classifier"] > 1e-9) == (metric in ("nc2_norms_classifier", "nc2_angles_classifier"))
    assert (found["nc2_norms_means"] > 1e-9) == (metric in ("nc2_norms_means", "nc2_angles_means"))


def turned(features, labels, weight, bias):
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(features.shape[1],) * 2))[0]
    return features @ turn, labels, weight @ turn, bias


def moved(features, labels, weight, bias):
    return features + 30, labels, weight, bias - weight @ np.full(features.shape[1], 30)


def enlarged(features, labels, weight, bias):
    return 1000 * features, labels, weight, 1000 * bias


def renamed(features, labels, weight, bias):
    order = np.array([2, 0, 3, 1])
    return features, order[labels], weight[np.argsort(order)], bias[np.argsort(order)]


def shuffled(features, labels, weight, bias):
    order = np.random.default_rng(2).permutation(len(labels))
    return features[order], labels[order], weight, bias


def widened(features, labels, weight, bias):
    return np.pad(features, ((0, 0), (0, 9))), labels, np.pad(weight, ((0, 0), (0, 9))), bias


@pytest.mark.parametrize("change", [turned, moved, enlarged, renamed, shuffled, widened])
@pytest.mark.parametrize("seed", range(3))
def test_what_changes_no_geometry_changes_no_metric(change, seed):
    case = random_case(seed)
    before = neural_collapse(*case)
    assert before.nc4 > 0
    assert close(neural_collapse(*change(*case)), before)


def test_each_class_counts_the_same_however_many_samples_it_has():
    features, labels, weight, bias = random_case(0)
    again = np.concatenate([np.arange(len(labels)), *[np.flatnonzero(labels == 1)] * 5])
    before, after = (neural_collapse(features[rows], labels[rows], weight, bias) for rows in (slice(None), again))
    assert close(dataclasses.replace(after, nc4=before.nc4), before)


def test_more_classes_than_channels_are_measured():
    case = random_case(0, count=9, channels=2)
    assert close(neural_collapse(*case), oracle(*case), tolerance=1e-7)


def test_a_class_that_does_not_occur_is_left_out_of_everything():
    features, labels, weight, bias = random_case(0)
    places = np.array([1, 2, 5, 7])
    more_weight, more_bias = np.full((9, weight.shape[1]), 1e3), np.full(9, 1e6)
    more_weight[places], more_bias[places] = weight, bias
    assert neural_collapse(features, places[labels], more_weight, more_bias) == neural_collapse(features, labels, weight, bias)


def test_without_a_classifier_its_metrics_are_none():
    features, labels, weight, bias = random_case(0)
    whole, found = neural_collapse(features, labels, weight, bias), neural_collapse(features, labels - 5)
    assert found == dataclasses.replace(whole, **dict.fromkeys(OF_CLASSIFIER))
    assert list(found.to_dict()) == FIELDS
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_no_bias_is_a_bias_of_zeros():
    features, labels, weight, bias = random_case(0)
    without = neural_collapse(features, labels, weight)
    assert without == neural_collapse(features, labels, weight, 0 * bias)
    assert without.nc4 != neural_collapse(features, labels, weight, 100 * bias).nc4


KINDS = {
    "float16": lambda a: torch.from_numpy(a).half(),
    "bfloat16": lambda a: torch.from_numpy(a).bfloat16(),
    "float32": lambda a: torch.from_numpy(a).float(),
    "a parameter": lambda a: nn.Parameter(torch.from_numpy(a)),
    "numpy float32": lambda a: a.astype(np.float32),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_any_floats_are_measured_in_float64(kind):
    features, labels, weight, bias = random_case(0)
    arrays = [kind(array) for array in (features, weight, bias)]
    exact = [torch.as_tensor(array).detach().double().numpy() for array in arrays]
    assert neural_collapse(arrays[0], torch.from_numpy(labels).int(), *arrays[1:]) == neural_collapse(
        exact[0], labels, *exact[1:]
    )


def test_features_far_from_the_origin_keep_their_digits():
    features, labels = np.random.default_rng(0).integers(-9, 10, (7, 4)).astype(float), np.array([0, 0, 0, 1, 1, 2, 2])
    assert close(neural_collapse(features + 2.0**45, labels), neural_collapse(features, labels))


def test_means_on_a_line_vary_only_along_it():
    """Sigma_B has rank 1; rounding gives it another eigenvalue that is not 0."""
    along, across = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    features = np.concatenate([mean * along + (side * along + side * across) for mean in (-1, 0, 1) for side in (-0.1, 0.1)])
    found = neural_collapse(features.reshape(6, 2), np.repeat(np.arange(3), 2))
    assert found.nc1 == pytest.approx(0.1**2 / 2)


def test_rounding_under_a_large_variability_is_no_direction_between_classes():
    random = np.random.default_rng(0)
    means, within = random.normal(size=(3, 4)), 1e7 * random.normal(size=4)
    features = np.concatenate([means + within, means - within])
    case = features, np.arange(6) % 3, means, np.zeros(3)
    assert neural_collapse(*case).nc1 == pytest.approx(oracle(*case).nc1, rel=1e-5)


def test_a_class_in_the_middle_has_no_direction():
    found = neural_collapse(np.array([[-1.0], [0.0], [1.0]]), np.arange(3))
    assert found.nc2_angles_means == pytest.approx((0.5 + 0.5 + 0.5) / 3)  # cosines -1, 0 and 0


GOOD = dict(zip(("features", "labels", "weight", "bias"), random_case(0), strict=True))


def with_value(name, value):
    changed = GOOD[name].copy()
    changed.flat[1] = value
    return {name: changed}


SPREAD = np.random.default_rng(0).normal(size=(30, 6))  # the mean of its rows depends, in the last digit, on their order

ERRORS = {
    "one class": ({"labels": 0 * GOOD["labels"]}, "two classes or more; the labels have 1"),
    "no samples": ({"features": np.zeros((0, 6)), "labels": np.zeros(0, int)}, "the labels have 0"),
    "NaN": (with_value("features", np.nan), "`features` has values that are NaN"),
    "infinite": (with_value("features", np.inf), "`features` has values that are NaN or infinite"),
    "NaN weight": (with_value("weight", np.nan), "`weight` has values that are NaN"),
    "NaN bias": (with_value("bias", np.nan), "`bias` has values that are NaN"),
    "integers": ({"features": GOOD["features"].astype(int)}, "`features` must be floats"),
    "integer tensor": ({"features": torch.ones(3, 4, dtype=torch.int32)}, "`features` must be floats"),
    "features of four dimensions": ({"features": GOOD["features"][..., None, None]}, "`features` must be floats of 2 dim"),
    "fewer labels": ({"labels": GOOD["labels"][1:]}, "`labels` must be"),
    "float labels": ({"labels": GOOD["labels"].astype(float)}, "`labels` must be"),
    "soft labels": ({"labels": np.eye(4)[GOOD["labels"]]}, "`labels` must be"),
    "narrow weight": ({"weight": GOOD["weight"][:, 1:]}, r"`weight` must be \(K, 6\)"),
    "weight of a convolution": ({"weight": GOOD["weight"][..., None]}, "`weight` must be floats of 2 dim"),
    "too few rows": ({"weight": GOOD["weight"][:3], "bias": None}, "from 0 to 3 and `weight` has 3 rows"),
    "negative label": ({"labels": GOOD["labels"] - 1}, "from -1 to 2"),
    "zero weight": ({"weight": 0 * GOOD["weight"]}, "rows are all zero"),
    "long bias": ({"bias": np.zeros(5)}, r"`bias` must be \(4,\)"),
    "bias alone": ({"weight": None}, "`bias` was given without `weight`"),
    "equal features": ({"features": np.full((len(GOOD["labels"]), 6), 0.1)}, "All classes have the same mean"),
    "no channels": ({"features": np.zeros((len(GOOD["labels"]), 0))}, "All classes have the same mean"),
    "equal means": (
        {"features": np.concatenate([SPREAD, np.sort(SPREAD, axis=0)]), "labels": np.repeat([0, 1], len(SPREAD))},
        "All classes have the same mean",
    ),
}


@pytest.mark.parametrize(("changes", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_arguments_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InvalidInputError, match=message):
        neural_collapse(**{**GOOD, **changes})


# Features of networks. Architecture: what its classifier is; mobilenetv3 has a convolution between pooling and classifier.
NETWORKS = {"test_resnet": 2, "mobilenetv3_small_050": 2, "test_efficientnet": 2, "dla46_c": 4}


@pytest.fixture(scope="module")
def clouds():
    random = np.random.default_rng(0)
    points = [random.uniform(-0.4, 0.4, (random.integers(30, 80), 3)).astype(np.float32) for _ in range(7)]
    return CloudSet(points, np.array([0, 3, 1, 1, 0, 3, 3]), ("a", "b", "c", "d"))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """A network in double precision, with a bias that is not zero and dropout that would show."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = i2p_zoo.create_model(request.param, num_classes=4, drop_rate=0.5).double()
        find_classifier(model).bias.normal_(generator=seeded())
    return model


def logits_of(model, features):
    classifier = find_classifier(model)
    return (features @ classifier.weight.flatten(1).T + classifier.bias).detach()


def eval_logits(model, x):
    model.eval()
    with torch.no_grad():
        return model(x)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 32])
def test_the_classifier_makes_the_logits_of_a_networks_features(network, clouds, batch_size):
    x = voxelize([clouds.cloud(number) for number in range(len(clouds))], network.settings.voxel_size).to(dtype=torch.float64)
    expected = eval_logits(network, x)
    network.train()
    features = penultimate_features(network, clouds, batch_size)
    assert features.shape == (7, find_classifier(network).weight.flatten(1).shape[1])
    assert (features.dtype, features.device.type, features.requires_grad) == (torch.float64, "cpu", False)
    assert expected.std(0).min() > 1e-6, "clouds differ"
    assert torch.allclose(logits_of(network, features), expected, rtol=1e-9, atol=1e-9)


def test_norm_on_the_logits_is_part_of_the_classifier(clouds):
    model = i2p_zoo.create_model("resnet18", preset="image2point", num_classes=4).double()
    norm = model.fc.norm
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 2, generator=seeded())
    features = penultimate_features(model, clouds)
    with torch.no_grad():  # the affine function itself, read off at zero and at the unit vectors
        bias = model.eval().fc(torch.zeros(1, 512, dtype=torch.float64))[0]
        weight = (model.fc(torch.eye(512, dtype=torch.float64)) - bias).T
    expected = neural_collapse(features, clouds.labels, weight, bias)
    assert close(measure_collapse(model, clouds), expected, tolerance=1e-6)
    assert not close(neural_collapse(features, clouds.labels, model.fc.weight.detach(), model.fc.bias.detach()), expected, 1e-3)


@pytest.mark.parametrize("names", [None, ["b", "a", "c", "d"]], ids=["more outputs", "other names"])
def test_a_classifier_of_other_classes_is_not_measured(clouds, names):
    model = i2p_zoo.create_model("test_resnet", num_classes=5 if names is None else 4)
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": names}
    found = measure_collapse(model, clouds)
    assert all(getattr(found, name) is None for name in OF_CLASSIFIER)
    assert found.nc1 > 0


def test_collapse_of_a_network_is_that_of_its_features_and_classifier(network, clouds):
    classifier = find_classifier(network)
    features = penultimate_features(network, clouds).numpy()
    weight, bias = classifier.weight.detach().flatten(1).numpy(), classifier.bias.detach().numpy()
    assert close(measure_collapse(network, clouds, 2), oracle(features, clouds.labels, weight, bias), tolerance=1e-6)
    soft = CloudSet(clouds.points, (0.1 + 0.6 * np.eye(4)[clouds.labels]).astype(np.float32), clouds.classes)
    assert close(measure_collapse(network, soft, 2), measure_collapse(network, clouds, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_classifier_makes_the_logits_of_image_features(name):
    kind = NETWORKS[name]
    model = timm.create_model(name, num_classes=4, drop_rate=0.5).double()
    assert find_classifier(model).weight.ndim == kind
    images = torch.rand(5, 3, 64, 64, generator=seeded())
    expected = eval_logits(model, images.double())
    model.train()
    features = image_features(model, iter(images.split(2)))
    assert features.shape == (5, find_classifier(model).weight.shape[1])
    assert not features.requires_grad
    assert torch.allclose(logits_of(model, features), expected, rtol=1e-9, atol=1e-9)


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


@pytest.fixture
def small():
    """A small 3D network with modules in either mode."""
    model = i2p_zoo.create_model("test_resnet", num_classes=4).train()
    for module in list(model.modules())[::3]:
        module.training = False
    return model


def test_a_network_is_left_as_it_was(small, clouds):
    before = modes(small)
    state = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    measure_collapse(small, clouds)
    assert len(set(before.values())) == 2
    assert modes(small) == before
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.state_dict().items())
    assert not find_classifier(small)._forward_pre_hooks


def test_a_network_is_left_as_it_was_by_an_error(small):
    before = modes(small)
    with pytest.raises(InvalidInputError, match="image_to_plane"):
        image_features(small, [torch.rand(1, 3, 32, 32)])
    assert modes(small) == before
    assert not find_classifier(small)._forward_pre_hooks


def test_clouds_that_cannot_be_measured_are_refused(small, clouds):
    with pytest.raises(InvalidInputError, match="got 0 clouds"):
        penultimate_features(small, clouds.subset([]))
    with pytest.raises(InvalidInputError, match="batch_size"):
        measure_collapse(small, clouds, 0)
    with pytest.raises(InvalidInputError, match="two classes or more"):
        measure_collapse(small, clouds.subset([0, 4]))


def test_a_network_without_a_classifier_is_refused(clouds):
    with pytest.raises(InvalidInputError, match="no classifier"):
        penultimate_features(i2p_zoo.create_model("test_resnet", num_classes=0), clouds)


BATCHES = {
    "none": ([], "no batches"),
    "labelled": ([(torch.rand(1, 3, 32, 32), torch.zeros(1))], "must be a .* got tuple"),
    "one image": ([torch.rand(3, 32, 32)], r"got \(3, 32, 32\)"),
}


@pytest.mark.parametrize(("batches", "message"), BATCHES.values(), ids=BATCHES.keys())
def test_batches_that_are_no_images_are_refused(batches, message):
    with pytest.raises(InvalidInputError, match=message):
        image_features(timm.create_model("test_resnet"), batches)


class Head(nn.Module):
    """A network that is its classifier, run on what `read` makes of the images."""

    def __init__(self, classifier, read):
        super().__init__()
        self.classifier, self.read = classifier, read

    def get_classifier(self):
        return self.classifier

    def forward(self, x):
        return self.read(self.classifier, x)


HEADS = {
    "a map": (nn.Conv2d(3, 4, 1), lambda classifier, x: classifier(x), r"one vector a sample; it reads \(2, 3, 8, 8\)"),
    "not run": (nn.Linear(3, 4), lambda classifier, x: x, "0 times"),
    "run twice": (nn.Linear(3, 4), lambda classifier, x: classifier(x.mean((2, 3))) + classifier(x.amax((2, 3))), "2 times"),
}


@pytest.mark.parametrize(("classifier", "read", "message"), HEADS.values(), ids=HEADS.keys())
def test_a_classifier_that_does_not_read_one_vector_an_image_is_refused(classifier, read, message):
    with pytest.raises(InvalidInputError, match=message):
        image_features(Head(classifier, read), [torch.rand(2, 3, 8, 8)])


def test_a_classifier_without_a_weight_of_its_own_is_refused(small, clouds):
    small.fc = nn.Sequential(nn.Linear(96, 4))
    assert penultimate_features(small, clouds).shape == (7, 96)
    with pytest.raises(InvalidInputError, match="got Sequential"):
        measure_collapse(small, clouds)


def test_a_classifier_without_a_bias_is_measured(small, clouds):
    small.fc = nn.Linear(96, 4, bias=False)
    expected = neural_collapse(penultimate_features(small, clouds), clouds.labels, small.fc.weight)
    assert close(measure_collapse(small, clouds), expected)


# The picture.

MEASURED = {
    "2D image weights": NeuralCollapse(20.0, 0.1, None, 0.2, None, None, None),
    "3D before": NeuralCollapse(5.0, 0.3, 0.4, 0.25, 0.35, 1.5, 0.75),
    "3D after finetuning": NeuralCollapse(0.01, 0.05, 0.06, 0.07, 0.08, 0.5, 0.125),
}


def bars_of(axis):
    """(network, what the bar stands over, height) of every bar, left to right."""
    groups = [label.get_text() for label in axis.get_xticklabels()]
    found = [(bars.get_label(), bar) for bars in axis.containers for bar in bars]
    middles = [bar.get_x() + bar.get_width() / 2 for _, bar in found]
    assert len({round(middle, 6) for middle in middles}) == len(middles), "no bar hides another"
    return [(name, groups[round(middle)], bar.get_height()) for middle, (name, bar) in zip(middles, found, strict=True)]


def test_the_picture_shows_every_metric_of_every_network(tmp_path, figures):
    draw_collapse(tmp_path / "collapse.png", MEASURED)
    with Image.open(tmp_path / "collapse.png") as image:
        assert image.format == "PNG"
        assert 300 < min(image.size) <= max(image.size) < 3000
        assert len(image.convert("RGB").getcolors(2**24)) > 20
    (figure,) = figures
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(MEASURED)
    expected = [
        {"features": "nc1"},
        {"class means": "nc2_norms_means", "classifier": "nc2_norms_classifier"},
        {"class means": "nc2_angles_means", "classifier": "nc2_angles_classifier"},
        {"both": "nc3"},
        {"answers": "nc4"},
    ]
    assert [axis.get_title()[:3] for axis in figure.axes] == ["NC1", "NC2", "NC2", "NC3", "NC4"]
    assert [axis.get_yscale() for axis in figure.axes] == ["log", *["linear"] * 4]
    for axis, fields in zip(figure.axes, expected, strict=True):
        drawn = {
            (name, group, getattr(found, field))
            for name, found in MEASURED.items()
            for group, field in fields.items()
            if getattr(found, field) is not None
        }
        assert set(bars_of(axis)) == drawn
        assert len({bars[0].get_facecolor() for bars in axis.containers if len(bars)}) == sum(map(bool, axis.containers))


NOTHING = NeuralCollapse(0.0, 0.0, None, 0.0, None, None, None)


DRAWN = {
    "zeros alone": {"zeros": NOTHING},
    "zeros among others": {"zeros": NOTHING, **MEASURED},
    "more than colors": {f"network {number}": MEASURED["3D before"] for number in range(6)},
}


@pytest.mark.parametrize("measured", DRAWN.values(), ids=DRAWN.keys())
def test_any_networks_are_drawn(tmp_path, figures, measured):
    draw_collapse(tmp_path / "collapse.png", measured)
    assert (tmp_path / "collapse.png").stat().st_size > 1000
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == list(measured)
    assert len(bars_of(figures[0].axes[0])) == len(measured)


def test_a_picture_of_nothing_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="no networks"):
        draw_collapse(tmp_path / "collapse.png", {})


def test_without_matplotlib_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="finetune"):
        draw_collapse(tmp_path / "collapse.png", MEASURED)
