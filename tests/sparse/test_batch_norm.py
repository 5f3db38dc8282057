"""Batch normalisation with a clamp in one: torch's two operations in float64 are the truth."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from i2p_zoo import InvalidInputError
from i2p_zoo.sparse.batch_norm import normalize_and_clamp
from tests.helpers import relative_error, seeded

INFINITY = float("inf")
ACTIVATIONS = {
    "none": ((-INFINITY, INFINITY), lambda x: x),
    "relu": ((0.0, INFINITY), F.relu),
    "relu6": ((0.0, 6.0), F.relu6),
}
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}


def random(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def tensors(rows, channels, affine=True):
    x = random(rows, channels) * 3 + 1
    running = (random(channels, seed=1), random(channels, seed=2).square() + 0.5)
    weight, bias = (random(channels, seed=3), random(channels, seed=4) + 1) if affine else (None, None)
    return x, running, weight, bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("statistics", ["of the batch", "running", "of the batch, none kept", "none kept"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("rows", "channels"), [(2, 1), (63, 5), (1500, 40)])
def test_result_gradients_and_statistics_are_torchs(rows, channels, activation, affine, statistics, dtype):
    training = statistics.startswith("of the batch")
    limits, apply = ACTIVATIONS[activation]
    x, running, weight, bias = tensors(rows, channels, affine)
    running = None if "none kept" in statistics else running
    exact = [t.clone().requires_grad_() for t in (x, weight, bias) if t is not None]
    kept = None if running is None else [t.clone() for t in running]
    mean, variance = kept or (None, None)
    expected = apply(F.batch_norm(exact[0], mean, variance, *(exact[1:] or (None, None)), training or kept is None, 0.3, 1e-3))
    leaves = [t.to(dtype).requires_grad_() for t in (x, weight, bias) if t is not None]
    updated = None if running is None else tuple(t.to(dtype) for t in running)
    out = normalize_and_clamp(leaves[0], updated, *(leaves[1:] or (None, None)), training, 0.3, 1e-3, *limits)
    assert out.dtype == dtype
    assert relative_error(out.detach(), expected.detach()) < TOLERANCE[dtype]
    for found, truth in zip(updated or (), kept or (), strict=True):
        assert relative_error(found, truth) < TOLERANCE[dtype]
    upstream = random(rows, channels, seed=5)
    found = torch.autograd.grad(out, leaves, upstream.to(dtype))
    for gradient, reference in zip(found, torch.autograd.grad(expected, exact, upstream), strict=True):
        scale = max(reference.abs().max(), upstream.abs().max())  # the gradient of two rows cancels to nothing
        assert (gradient - reference).abs().max() / scale < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("needed", ["x", "weight", "bias"])
@pytest.mark.parametrize("training", [True, False])
def test_each_gradient_alone_is_the_same(needed, training):
    def gradients(names):
        x, running, weight, bias = tensors(300, 7)
        leaves = {"x": x, "weight": weight, "bias": bias}
        for name in names:
            leaves[name].requires_grad_()
        out = normalize_and_clamp(x, running, weight, bias, training, 0.1, 1e-5, 0.0, 6.0)
        out.square().sum().backward()
        assert all((leaf.grad is None) == (name not in names) for name, leaf in leaves.items())
        return leaves[needed].grad

    assert torch.equal(gradients([needed]), gradients(["x", "weight", "bias"]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_at_the_bounds_and_of_what_is_not_finite_are_torchs(activation):
    limits, apply = ACTIVATIONS[activation]
    x = torch.tensor([-1.0, 0.0, -0.0, 3.0, 6.0, 7.0, torch.nan, torch.inf, -torch.inf])[:, None].requires_grad_()
    running = (torch.zeros(1), torch.ones(1))
    out = normalize_and_clamp(x, running, None, None, False, 0.1, 0.0, *limits)
    torch.testing.assert_close(out, apply(x), rtol=0, atol=0, equal_nan=True)
    expected = torch.autograd.grad(apply(x).sum(), x)[0]
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_batch_that_is_not_finite_is_normalised_as_by_torch_and_without_a_warning(value):
    x, running, _, _ = tensors(40, 3)
    x[7, 1] = value
    kept = [t.clone() for t in running]
    expected = F.batch_norm(x, *kept, training=True)
    out = normalize_and_clamp(x, running, None, None, True, 0.1, 1e-5, -INFINITY, INFINITY)
    torch.testing.assert_close(out, expected, equal_nan=True)
    for found, truth in zip(running, kept, strict=True):
        torch.testing.assert_close(found, truth, equal_nan=True)


@pytest.mark.parametrize("channels", [1, 5, 7])
@pytest.mark.parametrize("training", [True, False])
def test_vectors_of_another_number_of_channels_are_refused(channels, training):
    _, running, weight, bias = tensors(10, 6)
    with pytest.raises(InvalidInputError, match=rf"{channels} channels .* \(6,\)"):
        normalize_and_clamp(random(10, channels), running, weight, bias, training, 0.1, 1e-5, 0.0, 6.0)


@pytest.mark.parametrize("first", [1000.0, 0.0])
def test_digits_do_not_cancel_far_from_zero(first):
    x = (random(5000, 3) * 0.1 + 1000).float()
    x[0] = first
    expected = F.batch_norm(x.double(), None, None, training=True)
    ours = relative_error(normalize_and_clamp(x, None, None, None, True, 0.1, 1e-5, -INFINITY, INFINITY), expected)
    assert ours <= relative_error(F.batch_norm(x, None, None, training=True), expected) * 2


def test_rows_that_are_not_contiguous_are_read_right():
    x, running, weight, bias = tensors(6, 400)
    turned = x.t().contiguous().t().requires_grad_()
    plain = x.clone().requires_grad_()
    upstream = random(6, 400, seed=5)
    results = []
    for rows, gradient in ((turned, upstream.t().contiguous().t()), (plain, upstream)):
        out = normalize_and_clamp(rows, running, weight, bias, False, 0.1, 1e-5, 0.0, 6.0)
        results.append((out, torch.autograd.grad(out, rows, gradient)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_repeated_runs_give_the_same_bits():
    def run():
        x, running, weight, bias = (t if isinstance(t, tuple) else t.float() for t in tensors(3000, 33))
        x.requires_grad_()
        running = tuple(t.float() for t in running)
        out = normalize_and_clamp(x, running, weight, bias, True, 0.1, 1e-5, 0.0, 6.0)
        return [out, *running, *torch.autograd.grad(out.sin().sum(), x)]

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))
