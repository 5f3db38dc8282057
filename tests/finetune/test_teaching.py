"""A teacher's labels: its softened probabilities, or the classes it is sure of; true labels are not looked at."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import i2p_zoo
from i2p_zoo import InvalidInputError
from i2p_zoo.finetune import label_by_teacher
from i2p_zoo.finetune.evaluation import predict_logits
from tests.finetune.conftest import shapes
from tests.helpers import randomise_norms_


def make_teacher(num_classes=3, names=None):
    teacher = randomise_norms_(i2p_zoo.create_model("test_resnet", num_classes=num_classes, voxel_size=0.2)).eval()
    teacher.pretrained_cfg = {**teacher.pretrained_cfg, "label_names": names}
    return teacher


def softmax(logits, temperature):
    powers = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_are_the_teachers_probabilities_at_a_temperature(temperature):
    teacher, clouds = make_teacher(), shapes(9)
    expected = softmax(predict_logits(teacher, clouds).double().numpy(), temperature)
    found = label_by_teacher(teacher, clouds, temperature=temperature, batch_size=2)
    assert found.labels.dtype == np.float32
    assert np.allclose(found.labels, expected, atol=1e-6)
    blind = dataclasses.replace(clouds, labels=np.zeros(9, np.int64))
    assert np.array_equal(label_by_teacher(teacher, blind, temperature=temperature, batch_size=2).labels, found.labels)


def test_hard_labels_are_of_the_clouds_that_the_teacher_is_sure_of():
    teacher, clouds = make_teacher(), shapes(12)
    shares = softmax(predict_logits(teacher, clouds).double().numpy(), 1.0)
    threshold = float(np.median(shares.max(1)))
    found = label_by_teacher(teacher, clouds, threshold=threshold)
    sure = shares.max(1) >= threshold
    assert 0 < sure.sum() < 12
    assert np.array_equal(found.labels, shares.argmax(1)[sure])
    assert np.array_equal(found.points, clouds.points[sure])


REFUSED = {
    "another number of classes": ({"num_classes": 4}, {}, "knows 4 classes, without names; the clouds have 3"),
    "other names": (
        {"names": ["ball", "rod x", "rod z"]},
        {},
        "knows 3 classes, ball, rod x, rod z; the clouds have 3, rod x, rod z, ball",
    ),
    "no temperature": ({}, {"temperature": 0}, r"temperature \(=0\)"),
    "a threshold beyond 1": ({}, {"threshold": 1.5}, r"threshold \(=1.5\)"),
    "sure of nothing": ({}, {"threshold": 1.0}, "sure of no cloud"),
}


@pytest.mark.parametrize(("teacher", "arguments", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_teacher_cannot_label_is_refused(teacher, arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        label_by_teacher(make_teacher(**teacher), shapes(6), **arguments)


def test_names_in_the_clouds_order_are_the_teachers():
    assert len(label_by_teacher(make_teacher(names=list(shapes().classes)), shapes(6))) == 6
