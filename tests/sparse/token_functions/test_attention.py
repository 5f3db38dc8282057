"""Attention of tokens against loops over windows and samples in float64, its gradients, and what memory it keeps."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from i2p_zoo import SparseTensor
from i2p_zoo.errors import UnsupportedError
from i2p_zoo.sparse.token_functions import attention as module
from i2p_zoo.sparse.tokens.site_tokens import as_tokens
from i2p_zoo.sparse.tokens.token_pairs import TokenPairs
from i2p_zoo.sparse.tokens.token_rows import TokenRows
from tests.helpers import property_test, random_cloud, seeded

CANVAS, WINDOW, HEADS = 9, 3, 2
TABLE_ROWS = (2 * WINDOW - 1) ** 2


def clouds(sizes: list[int], channels: int = 4, extent: int = CANVAS) -> SparseTensor:
    """Random clouds of these sizes, unsorted, on a canvas."""
    parts = []
    for number, size in enumerate(sizes):
        cells = torch.randperm(extent**3, generator=seeded(number))[:size]
        parts.append(
            torch.stack([torch.full_like(cells, number), cells // extent**2, cells // extent % extent, cells % extent], 1)
        )
    coords = torch.cat(parts).int()
    coords = coords[torch.randperm(len(coords), generator=seeded(99))]
    features = torch.randn((len(coords), channels), generator=seeded(1), dtype=torch.float64)
    x = SparseTensor(features, coords, batch_size=len(sizes))
    x.canvas = (extent, extent)
    return x


def split_heads(x, channels):
    """(groups, places, channels) to (groups, heads, places, channels a head)."""
    return x.reshape(x.shape[0], x.shape[1], HEADS, channels // HEADS).transpose(1, 2)


def in_windows(x: SparseTensor, shift: int = 0):
    """(B, C, H, W) to (B * windows, places of a window, C), as Swin's code does it."""
    y = x.permute(0, 2, 3, 1)
    y = torch.roll(y, (-shift, -shift), (1, 2)) if shift else y
    count = CANVAS // WINDOW
    y = y.view(y.shape[0], count, WINDOW, count, WINDOW, y.shape[-1]).permute(0, 1, 3, 2, 4, 5)
    return y.reshape(-1, WINDOW * WINDOW, y.shape[-1])


def relative_bias(table: torch.Tensor) -> torch.Tensor:
    """(1, heads, places, places) of a table (differences, heads), as Swin's code does it."""
    place = torch.stack(torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")).flatten(1)
    difference = place[:, :, None] - place[:, None] + WINDOW - 1
    index = difference[0] * (2 * WINDOW - 1) + difference[1]
    return table[index].permute(2, 0, 1)[None]


def fused(q, k, v, bias):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def unfused(q, k, v, bias):
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def loop_over_windows(features, coords, table, shift):
    """3D windows of 3 x 3 x 3 by a double loop, every pair's bias by its own difference along height and width."""
    out = torch.zeros_like(features)
    moved = coords.long() - torch.tensor((0, shift, shift, shift))
    members: dict[tuple[int, ...], list[int]] = {}
    for row, (b, z, y, x) in enumerate(moved.tolist()):
        members.setdefault((b, z // WINDOW, y // WINDOW, x // WINDOW), []).append(row)
    for rows in members.values():
        for head in range(HEADS):
            mine = slice(2 * head, 2 * head + 2)
            for i in rows:
                scores = []
                for j in rows:
                    dy, dx = (int(moved[i, c] - moved[j, c]) + WINDOW - 1 for c in (2, 3))
                    score = features[i, mine] @ features[j, mine] * 2**-0.5
                    scores.append(score + table[dy * (2 * WINDOW - 1) + dx, head])
                weights = torch.stack(scores).softmax(0)
                out[i, mine] = sum(w * features[j, mine] for w, j in zip(weights, rows, strict=True))
    return out


def attend_in_windows(x, table, attention, shift=0):
    windows = in_windows(x, shift)
    q = split_heads(windows, 4)
    return attention(q, q, q, relative_bias(table)).transpose(1, 2).reshape(windows.shape)


@pytest.mark.parametrize("attention", [fused, unfused])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("sizes", [[1], [200, 3], [40, 1, 90]])
def test_windows_are_3d_and_their_bias_is_that_of_the_difference(attention, shift, sizes):
    x = clouds(sizes)
    table = torch.randn((TABLE_ROWS, HEADS), generator=seeded(5), dtype=torch.float64)
    got = attend_in_windows(x, table, attention, shift)
    torch.testing.assert_close(got.values, loop_over_windows(x.features, x.coords, table, shift), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", [fused, unfused])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("spread", [2, 5, 60])
def test_windows_without_voxels_are_none_wherever_the_others_stand(attention, shift, spread):
    near = clouds([30, 3])
    coords = near.coords.clone()
    coords[:, 1:] = coords[:, 1:] * spread - 4 * spread
    coords[:10, 3] += 1  # in a window with another voxel, or in the next one
    x = SparseTensor(near.features, coords, batch_size=4)  # of which two have no voxels at all
    x.canvas = near.canvas
    table = torch.randn((TABLE_ROWS, HEADS), generator=seeded(5), dtype=torch.float64)
    got = attend_in_windows(x, table, attention, shift)
    torch.testing.assert_close(got.values, loop_over_windows(x.features, x.coords, table, shift), rtol=1e-12, atol=1e-12)


def attend_in_samples(x, attention, extra=None, bias=None):
    tokens = x.flatten(2).transpose(1, 2)
    tokens = tokens if extra is None else torch.cat([extra, tokens], 1)
    q = split_heads(tokens, 4)
    return attention(q, q, q, bias).transpose(1, 2).reshape(tokens.shape)


def loop_over_samples(x, extra=None, attention=unfused):
    """The same of one sample after another, extra tokens first, in the order of TokenRows."""
    before, sites = [], torch.zeros_like(x.features)
    for number in range(x.batch_size):
        mine = x.coords[:, 0] == number
        tokens = x.features[mine] if extra is None else torch.cat([extra[number], x.features[mine]])
        q = split_heads(tokens[None], 4)
        out = attention(q, q, q, None).transpose(1, 2).reshape(tokens.shape)
        count = len(tokens) - int(mine.sum())
        before.append(out[:count])
        sites[mine] = out[count:]
    return torch.cat([*before, sites])


@pytest.mark.parametrize("attention", [fused, unfused])
@pytest.mark.parametrize("count", [0, 2])
@property_test
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_samples_of_any_sizes_attend_as_each_alone(attention, count, sizes):
    x = clouds(sizes)
    extra = torch.randn((len(sizes), count, 4), generator=seeded(2), dtype=torch.float64) if count else None
    got = as_tokens(attend_in_samples(x, attention, extra))
    torch.testing.assert_close(got.values, loop_over_samples(x, extra), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", [fused, unfused])
def test_samples_without_voxels_attend_among_their_extra_tokens_with_their_gradients(attention):
    near = clouds([7, 1])
    coords = near.coords.clone()
    coords[:, 0] = coords[:, 0] * 2 + 1
    extra = torch.randn((5, 2, 4), generator=seeded(2), dtype=torch.float64, requires_grad=True)
    x = SparseTensor(near.features.requires_grad_(), coords, batch_size=5)  # samples 0, 2 and 4 have no voxels
    x.canvas = near.canvas
    results = [as_tokens(attend_in_samples(x, attention, extra)).values, loop_over_samples(x, extra)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(out.sin().sum(), (x.features, extra)) for out in results]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", [fused, unfused])
def test_attention_of_a_cloud_alone_and_of_shuffled_rows_is_that_in_the_batch(attention):
    x = clouds([70, 9, 30])
    table = torch.randn((TABLE_ROWS, HEADS), generator=seeded(5), dtype=torch.float64)
    whole = attend_in_windows(x, table, attention, 1).values
    order = torch.randperm(len(x.coords), generator=seeded(7))
    shuffled = SparseTensor(x.features[order], x.coords[order], batch_size=3)
    shuffled.canvas = x.canvas
    torch.testing.assert_close(attend_in_windows(shuffled, table, attention, 1).values, whole[order], rtol=1e-9, atol=1e-9)
    mine = x.coords[:, 0] == 1
    alone = SparseTensor(x.features[mine], x.coords[mine] * torch.tensor((0, 1, 1, 1), dtype=torch.int32), batch_size=1)
    alone.canvas = x.canvas
    torch.testing.assert_close(attend_in_windows(alone, table, attention, 1).values, whole[mine], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("attention", [fused, unfused])
@pytest.mark.parametrize("sizes", [[1], [9, 3], [5, 1, 7]])
def test_gradients_through_windows_of_features_and_of_the_table(attention, sizes):
    x = clouds(sizes, extent=CANVAS)
    table = torch.randn((TABLE_ROWS, HEADS), generator=seeded(5), dtype=torch.float64, requires_grad=True)

    def run(features, table):
        return attend_in_windows(x.derive(features), table, attention, 1).values

    assert torch.autograd.gradcheck(run, (x.features.requires_grad_(), table))


@pytest.mark.parametrize("attention", [fused, unfused])
def test_gradients_through_samples_extra_tokens_and_a_bias_between_places(attention):
    x = clouds([4, 2], extent=3)
    extra = torch.randn((2, 1, 4), generator=seeded(2), dtype=torch.float64, requires_grad=True)
    bias = torch.randn((1, HEADS, 10, 10), generator=seeded(3), dtype=torch.float64, requires_grad=True)

    def run(features, extra, bias):
        return as_tokens(attend_in_samples(x.derive(features), attention, extra, bias)).values

    assert torch.autograd.gradcheck(run, (x.features.requires_grad_(), extra, bias))


def test_gradients_of_decomposed_biases():
    """As in MViT and SAM: the query's own bias towards each height and each width of the canvas."""
    x = clouds([5, 3], extent=3)
    table = torch.randn((3, 3, 2), generator=seeded(3), dtype=torch.float64, requires_grad=True)

    def run(features, table):
        tokens = x.derive(features).flatten(2).transpose(1, 2)
        q = split_heads(tokens, 4)
        rows = torch.einsum("bnyxc,ykc->bnyxk", q.reshape(2, HEADS, 3, 3, 2), table)
        columns = torch.einsum("bnyxc,xkc->bnyxk", q.reshape(2, HEADS, 3, 3, 2), table)
        bias = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).reshape(2, HEADS, 9, 9)
        return as_tokens(unfused(q, q, q, bias).transpose(1, 2).reshape(tokens.shape)).values

    assert torch.autograd.gradcheck(run, (x.features.requires_grad_(), table))


@pytest.mark.parametrize("grad", [False, True])
def test_slices_of_queries_give_what_all_at_once_give(monkeypatch, grad):
    x = clouds([60, 25], extent=5)
    bias = torch.randn((1, HEADS, 25, 25), generator=seeded(3), dtype=torch.float64, requires_grad=grad)
    features = x.features.requires_grad_(grad)
    whole = as_tokens(attend_in_samples(x.derive(features), fused, bias=bias)).values
    monkeypatch.setattr(module, "MAX_SCORES", 500)
    sliced = as_tokens(attend_in_samples(x.derive(features), fused, bias=bias)).values
    torch.testing.assert_close(sliced, whole, rtol=1e-12, atol=1e-12)
    if grad:
        for got, expected in zip(
            torch.autograd.grad(sliced.sin().sum(), (features, bias)),
            torch.autograd.grad(whole.sin().sum(), (features, bias)),
            strict=True,
        ):
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("limit", [2**24, 500])
def test_dropout_drops_scores_and_scales_the_others(monkeypatch, limit):
    """Of values that are all 1 the sum of weights is left: 1 on average, and 1 nowhere."""
    monkeypatch.setattr(module, "MAX_SCORES", limit)
    x = clouds([60, 25], extent=5)
    q = split_heads(x.flatten(2).transpose(1, 2), 4)
    torch.manual_seed(0)
    got = as_tokens(F.scaled_dot_product_attention(q, q * 0, q * 0 + 1, dropout_p=0.5)).values
    assert abs(float(got.mean()) - 1) < 0.05
    assert float((got == 1).double().mean()) < 0.2
    assert torch.equal(
        as_tokens(F.scaled_dot_product_attention(q, q * 0, q * 0 + 1)).values.round(decimals=12), torch.ones_like(got)
    )


@pytest.mark.parametrize("attention", [fused, unfused])
@pytest.mark.parametrize("automatic", [False, True])
def test_half_precision_is_near_float64(attention, automatic):
    x = clouds([60, 25], extent=CANVAS)
    table = torch.randn((TABLE_ROWS, HEADS), generator=seeded(5), dtype=torch.float64)
    exact = attend_in_windows(x, table, attention).values
    dtype = torch.float32 if automatic else torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=automatic):
        got = attend_in_windows(x.derive(x.features.to(dtype)), table.to(dtype), attention).values
    assert got.dtype == torch.bfloat16
    assert float((got.double() - exact).abs().max() / exact.abs().max()) < 0.05


def test_causal_attention_is_refused():
    q = split_heads(clouds([5]).flatten(2).transpose(1, 2), 4)
    with pytest.raises(UnsupportedError, match="voxels have no order"):
        F.scaled_dot_product_attention(q, q, q, is_causal=True)


def live_sites():
    """Rows, pairs and sparse tensors that something holds, in this and in other tests."""
    return [each for each in gc.get_objects() if type(each) in (TokenRows, TokenPairs, SparseTensor)]


def test_nothing_but_the_result_is_kept():
    gc.collect()
    gc.disable()
    try:
        before = len(live_sites())
        x = clouds([40, 20])
        table = torch.randn((TABLE_ROWS, HEADS), dtype=torch.float64)
        values = as_tokens(attend_in_windows(x, table, unfused, 1)).values
        del x
        after = len(live_sites())
    finally:
        gc.enable()
    assert after == before
    assert len(values) == 60


def test_pairs_are_one_object_as_long_as_one_holds_them():
    x = as_tokens(random_cloud(4, low=0, spatial_shape=(6, 6, 6)))
    shared = list(x.dims[0])
    pairs = TokenPairs.of(x.rows, x.rows, shared, shared)
    assert TokenPairs.of(x.rows, x.rows, shared, shared) is pairs
    blocks = pairs.query_blocks
    del pairs
    assert TokenPairs.of(x.rows, x.rows, shared, shared).query_blocks is blocks  # arrays stay with the sites
