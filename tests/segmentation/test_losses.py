"""Losses of point classes: Lovasz-softmax against its definition, and points of no class left out."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from i2p_zoo import InvalidInputError
from i2p_zoo.choices import LOSSES
from i2p_zoo.data.scenes import IGNORED
from i2p_zoo.segmentation.losses import lovasz_softmax, segmentation_loss
from tests.helpers import seeded


def random_case(points=7, classes=3, seed=0):
    random = seeded(seed)
    logits = torch.randn(points, classes, generator=random, dtype=torch.float64)
    return logits, torch.randint(0, classes, (points,), generator=random)


def jaccard_loss(mistaken, truth):
    """1 - IoU of a class where the points of a set are mistaken (equation 6 of the paper)."""
    wrong = set(mistaken)
    mine = {point for point, value in enumerate(truth) if value}
    union = mine | wrong
    return len(wrong) / len(union) if union else 0.0


def lovasz_extension(errors, truth):
    """By definition 1 of the paper: the errors, sorted, times the growth of the set function."""
    order = sorted(range(len(errors)), key=lambda point: -errors[point])
    total = 0.0
    for rank, point in enumerate(order):
        growth = jaccard_loss(order[: rank + 1], truth) - jaccard_loss(order[:rank], truth)
        total += errors[point] * growth
    return total


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_softmax_is_the_extension_of_the_jaccard_loss(seed):
    logits, labels = random_case(seed=seed)
    probabilities = logits.softmax(1)
    expected = []
    for label in labels.unique().tolist():
        truth = (labels == label).tolist()
        errors = [1 - float(p[label]) if t else float(p[label]) for p, t in zip(probabilities, truth, strict=True)]
        expected.append(lovasz_extension(errors, truth))
    assert float(lovasz_softmax(probabilities, labels)) == pytest.approx(sum(expected) / len(expected), rel=1e-12)


def test_hard_predictions_give_one_minus_the_mean_iou():
    for guess in itertools.product((0, 1), repeat=4):
        labels, predicted = torch.tensor([0, 1, 1, 0]), torch.tensor(guess)
        ious = [((labels == k) & (predicted == k)).sum() / ((labels == k) | (predicted == k)).sum() for k in (0, 1)]
        loss = lovasz_softmax(F.one_hot(predicted, 2).double(), labels)
        assert float(loss) == pytest.approx(1 - float(sum(ious)) / 2)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_right_and_points_of_no_class_have_none(loss):
    logits, labels = random_case()
    labels[2] = IGNORED
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, labels, loss), logits)
    (gradient,) = torch.autograd.grad(segmentation_loss(logits, labels, loss), logits)
    assert torch.equal(gradient[2], torch.zeros(3, dtype=torch.float64))
    known = [row for row in range(7) if row != 2]
    whole, alone = segmentation_loss(logits, labels, loss), segmentation_loss(logits[known], labels[known], loss)
    assert whole.item() == pytest.approx(alone.item())


def test_both_is_the_sum_and_weights_are_the_cross_entropys():
    logits, labels = random_case()
    weights = [0.5, 2.0, 1.0]
    entropy = F.cross_entropy(logits, labels, torch.tensor(weights, dtype=torch.float64), label_smoothing=0.1)
    found = segmentation_loss(logits, labels, "both", weights, 0.1)
    assert float(found) == pytest.approx(float(entropy + lovasz_softmax(logits.softmax(1), labels)))


@pytest.mark.parametrize("loss", ["cross-entropy", "both"])
def test_classes_of_no_weight_alone_add_nothing_to_the_cross_entropy(loss):
    probabilities = torch.randn((4, 3), dtype=torch.float64, generator=seeded(1)).requires_grad_()
    labels = torch.tensor([0, 0, IGNORED, 0])
    found = segmentation_loss(probabilities, labels, loss, (0.0, 1.0, 2.0))
    expected = (
        0 if loss == "cross-entropy" else lovasz_softmax(probabilities[labels == 0].softmax(1), labels[labels == 0]).item()
    )
    assert found.item() == expected
    found.backward()
    assert torch.isfinite(probabilities.grad).all()


def test_points_of_no_class_alone_give_zero_with_a_gradient():
    logits = torch.randn(3, 2, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((3,), IGNORED), "both")
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(3, 2))


@pytest.mark.parametrize(("arguments", "words"), [({"loss": "dice"}, "'dice'"), ({"class_weights": [1.0]}, "3 numbers; got 1")])
def test_what_does_not_fit_is_refused(arguments, words):
    with pytest.raises(InvalidInputError, match=words):
        segmentation_loss(*random_case(), **arguments)
