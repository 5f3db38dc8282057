"""Scores against scikit-learn's, with classes that do not occur and points that are ignored."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score

from i2p_zoo import InvalidInputError
from i2p_zoo.data.scenes import IGNORED
from i2p_zoo.segmentation.metrics import ConfusionCounter

CLASSES = ("floor", "wall", "door", "chair", "table")


def count(predictions, labels, classes=CLASSES):
    counter = ConfusionCounter(classes)
    counter.add(np.array(predictions), np.array(labels))
    return counter.scores()


CASES = {
    "all classes": (range(5), range(5)),
    "one absent from both": ((0, 1, 2, 3), (0, 1, 2, 3)),
    "two absent from both": ((1, 4, 3), (1, 3, 4)),
    "one predicted alone": ((0, 1, 2), (0, 1)),
    "one true alone": ((0, 1), (0, 1, 2)),
    "nothing in common": ((0, 1), (2, 3)),
    "one class": ((3,), (3,)),
}


@pytest.mark.parametrize(("predicted", "true"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_scikit_learn(predicted, true, seed):
    random = np.random.default_rng(seed)
    labels = random.choice([*true, IGNORED], 300)
    predictions = np.where(np.isin(labels, predicted) & (random.random(300) < 0.6), labels, random.choice(predicted, 300))
    scores = count(predictions, labels)
    kept = labels != IGNORED
    labels, predictions = labels[kept], predictions[kept]
    present, occurring = np.union1d(labels, predictions), np.unique(labels)
    ious = jaccard_score(labels, predictions, labels=present, average=None, zero_division=0.0)
    assert scores.per_class == {
        name: pytest.approx(ious[present.tolist().index(number)]) if number in present else None
        for number, name in enumerate(CLASSES)
    }
    assert scores.miou == pytest.approx(ious.mean())
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predictions))
    recall = recall_score(labels, predictions, labels=occurring, average="macro", zero_division=0.0)
    assert scores.mean_accuracy == pytest.approx(recall)
    assert np.array_equal(scores.confusion, confusion_matrix(labels, predictions, labels=range(5)))
    assert scores.confusion.dtype == np.int64


def test_a_class_that_is_predicted_and_does_not_occur_counts_as_nothing():
    scores = count([0, 0, 1, 2], [0, 0, 1, 1])
    assert scores.per_class == {"floor": 1.0, "wall": 0.5, "door": 0.0, "chair": None, "table": None}
    assert scores.miou == 0.5
    assert (scores.accuracy, scores.mean_accuracy) == (0.75, 0.75)


def test_predictions_at_ignored_points_do_not_count():
    assert count([0, 4], [0, IGNORED]).per_class["table"] is None


def test_batches_of_any_shape_add_up_to_the_whole():
    random = np.random.default_rng(0)
    predictions, labels = random.integers(0, 5, (6, 10)), random.integers(-1, 5, (6, 10))
    counter = ConfusionCounter(CLASSES)
    counter.add(predictions[:2], labels[:2])
    counter.add(predictions[2:2], labels[2:2])
    before = counter.scores()
    counter.add(predictions[2:].ravel(), labels[2:].ravel())
    assert np.array_equal(counter.confusion, count(predictions, labels).confusion)
    assert before.confusion.sum() == (labels[:2] != IGNORED).sum(), "scores stay as they were"


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, torch.int32, torch.int64])
def test_any_integers_count(kind):
    labels = [16, 3, 0, 16]
    values = torch.tensor(labels, dtype=kind) if isinstance(kind, torch.dtype) else np.array(labels, kind)
    counter = ConfusionCounter([str(number) for number in range(17)])  # 16 * 17 is beyond a byte
    counter.add(values, values)
    assert counter.scores().accuracy == 1
    assert counter.confusion[16, 16] == 2


MALFORMED = {
    "a prediction beyond": ([0, 5], [0, 1], "Predictions must be from 0 to 4, by 5 classes; got 0 to 5"),
    "no prediction": ([0, IGNORED], [0, 1], "Predictions must be from 0.*got -1 to 0"),
    "a prediction beyond at an ignored point": ([0, 9], [0, IGNORED], "got 0 to 9"),
    "a label beyond": ([0, 1], [0, 5], "Labels must be from -1 to 4, by 5 classes; got 0 to 5"),
    "another ignored label": ([0, 1], [0, 255], "got 0 to 255"),
    "a label below": ([0, 1], [0, -2], "got -2 to 0"),
    "a vast label": ([0, 1], np.array([0, 2**64 - 1], np.uint64), "got 0 to 18446744073709551615"),
    "fractions": ([0.0, 1.0], [0, 1], "`predictions` must be integers; got float64"),
    "booleans": ([0, 1], [True, False], "`labels` must be integers; got bool"),
    "fewer labels": ([0, 1], [0], r"one shape; got \(2,\) and \(1,\)"),
    "a column": ([[0], [1]], [0, 1], r"got \(2, 1\) and \(2,\)"),
}


@pytest.mark.parametrize(("predictions", "labels", "message"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_class_is_refused_and_nothing_counted(predictions, labels, message):
    counter = ConfusionCounter(CLASSES)
    with pytest.raises(InvalidInputError, match=message):
        counter.add(np.array(predictions), np.array(labels))
    assert not counter.confusion.any()


@pytest.mark.parametrize("name", ["predictions", "labels"])
def test_masked_classes_are_refused_not_unmasked(name):
    counter = ConfusionCounter(CLASSES)
    arrays = {"predictions": np.array([0, 1]), "labels": np.array([0, 1])}
    arrays[name] = np.ma.array(arrays[name], mask=[True, False])
    with pytest.raises(InvalidInputError, match=f"`{name}` has 1 masked values"):
        counter.add(**arrays)
    assert not counter.confusion.any()


def test_scores_of_no_point_are_refused():
    counter = ConfusionCounter(CLASSES)
    counter.add(np.array([1, 2]), np.array([IGNORED, IGNORED]))
    with pytest.raises(InvalidInputError, match="No point that has a class was counted"):
        counter.scores()


@pytest.mark.parametrize("classes", [(), ("wall", "floor", "wall")])
def test_classes_need_different_names(classes):
    with pytest.raises(InvalidInputError, match="different names"):
        ConfusionCounter(classes)


def test_scores_can_be_written_as_json():
    scores = count([0, 0, 1, 2], [0, 0, 1, 1], CLASSES[:4])
    assert json.loads(json.dumps(scores.to_dict())) == {
        "miou": 0.5,
        "accuracy": 0.75,
        "mean_accuracy": 0.75,
        "per_class": {"floor": 1.0, "wall": 0.5, "door": 0.0, "chair": None},
        "confusion": [[2, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    }


def test_scores_are_printed_without_their_table():
    counter = ConfusionCounter(("floor", "wall"))
    counter.add(np.array([0, 1]), np.array([0, 1]))
    assert "confusion" not in repr(counter.scores())
    assert "\n" not in repr(counter.scores())
