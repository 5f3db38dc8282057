"""Tables of positions read by tokens of a cloud, against the rule written out voxel by voxel."""

from __future__ import annotations

import pytest
import torch
from timm.layers import RotaryEmbeddingCat, apply_rot_embed_cat
from timm.layers.pos_embed_rel import RelPosBias
from torch import nn

from i2p_zoo import SparseTensor, inflate
from tests.helpers import seeded

HEIGHT, WIDTH, CHANNELS = 6, 4, 3


class Positions(nn.Module):
    """A patch embedding without any channels of its own, and what a transformer does with its table."""

    def __init__(self, prefix: int = 0, multiplied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.table = nn.Parameter(torch.randn(1, prefix + HEIGHT * WIDTH, CHANNELS, generator=seeded(1)))
        self.extra = nn.Parameter(torch.randn(1, prefix, CHANNELS, generator=seeded(2)))
        self.multiplied, self.prefix = multiplied, prefix

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        if self.prefix:
            x = torch.cat([self.extra.expand(x.shape[0], -1, -1), x], 1)
        x = x * self.table if self.multiplied else x + self.table
        return x[:, self.prefix :].transpose(1, 2).reshape(x.shape[0], -1, HEIGHT, WIDTH)


def places(values, extent):
    """Where coordinates of one sample stand on a side of the canvas that it was moved to the middle of."""
    low, high = min(values), max(values)
    length = high - low + 1
    if length > extent:
        return [(2 * (value - low) + 1) * extent // (2 * length) for value in values]
    return [value - low + (extent - length) // 2 for value in values]


def expected(table, coords, features):
    """T[y, x] + T[z, x] - T[m, x] for each voxel of one sample."""
    z, y, x = (column.tolist() for column in coords.T)
    middle = places([*z, (min(z) + max(z)) // 2], HEIGHT)[-1]
    rows = zip(places(z, HEIGHT), places(y, HEIGHT), places(x, WIDTH), strict=True)
    added = [table[row, at] + table[up, at] - table[middle, at] for up, row, at in rows]
    return features + torch.stack(added)


def sample(extents, count, seed):
    cells = torch.cartesian_prod(*(torch.arange(extent) for extent in extents))
    coords = cells[torch.randperm(len(cells), generator=seeded(seed))[:count]].int() - 20
    return coords, torch.randn(len(coords), CHANNELS, generator=seeded(seed), dtype=torch.float64)


CLOUDS = {
    "smaller than the canvas": (3, 4, 3),
    "of its size": (HEIGHT, HEIGHT, WIDTH),
    "ten times larger": (60, 60, 40),
    "a column": (30, 1, 1),
    "one voxel": (1, 1, 1),
}


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("extents", CLOUDS.values(), ids=CLOUDS.keys())
def test_a_table_is_read_at_places_shrunk_to_the_canvas_and_its_height_at_the_third_axis_too(extents, prefix):
    model = Positions(prefix).double()
    nn.init.dirac_(model.embed.weight)
    nn.init.zeros_(model.embed.bias)
    clouds = [sample(extents, 50, 3), sample((2, 3, 4), 9, 4)]  # each below a hundred voxels, of which none is a stray
    coords = torch.cat([nn.functional.pad(c, (1, 0), value=number) for number, (c, _) in enumerate(clouds)])
    x = SparseTensor(torch.cat([f for _, f in clouds]), coords, batch_size=2)
    out = inflate(model, canvas=(HEIGHT, WIDTH))(x).features
    table = model.table[0, prefix:].reshape(HEIGHT, WIDTH, CHANNELS)
    assert torch.allclose(out, torch.cat([expected(table, *cloud) for cloud in clouds]), rtol=0, atol=1e-12)


def test_what_is_multiplied_is_the_same_at_every_height():
    model = Positions(multiplied=True).double()
    nn.init.dirac_(model.embed.weight)
    nn.init.zeros_(model.embed.bias)
    column = nn.functional.pad(torch.arange(5).int()[:, None], (1, 2))
    out = inflate(model, canvas=(HEIGHT, WIDTH))(SparseTensor(torch.ones(5, CHANNELS, dtype=torch.float64), column)).features
    assert torch.equal(out, out[:1].expand(5, -1))


def test_a_stray_voxel_leaves_the_places_of_the_others():
    model = inflate(Positions().double(), canvas=(HEIGHT, WIDTH))
    coords, features = sample((6, 6, 4), 120, 5)
    coords = nn.functional.pad(coords, (1, 0))
    far = torch.tensor([[0, 4000, -3000, 5000]], dtype=torch.int32)
    alone = model(SparseTensor(features, coords)).features
    together = model(SparseTensor(torch.cat([features, features[:1]]), torch.cat([coords, far]))).features
    assert (alone == together[:-1]).all(1).float().mean() > 0.9


class PlacedAttention(nn.Module):
    """Attention among all tokens of an image that its rotations, or biases of pairs, tell where they stand."""

    def __init__(self, sort: str) -> None:
        super().__init__()
        self.embed = nn.Conv2d(4, 4, 1)
        self.bias = RelPosBias((HEIGHT, WIDTH), num_heads=1) if sort == "biases" else None
        is_rotated = sort == "rotations"
        self.rope = RotaryEmbeddingCat(4, in_pixels=False, feat_shape=[HEIGHT, WIDTH], temperature=9.0) if is_rotated else None

    def forward(self, x):
        v = self.embed(x).flatten(2).transpose(1, 2).unsqueeze(1)
        q = v if self.rope is None else apply_rot_embed_cat(v, self.rope.get_embed())
        mask = None if self.bias is None else self.bias.get_bias()
        out = nn.functional.scaled_dot_product_attention(q, q, v, attn_mask=mask)
        return out.squeeze(1).transpose(1, 2).reshape(x.shape[0], 4, HEIGHT, WIDTH)


def score_rotated(model, query, key, up, across):
    """The product of two vectors turned against each other: two turns each, by height and by width, of the same frequency."""
    frequency = torch.tensor([up, across]) * float(model.rope.bands[0])
    turned = torch.view_as_complex(query.view(2, 2)) * torch.view_as_complex(key.view(2, 2)).conj()
    return (turned * torch.polar(torch.ones(2, dtype=torch.float64), frequency.double())).real.sum() / 2


def score_biased(model, query, key, up, across):
    row = (up + HEIGHT - 1) * (2 * WIDTH - 1) + across + WIDTH - 1
    return query @ key / 2 + model.bias.relative_position_bias_table[row, 0]


def attend_by_differences(model, score, coords, features):
    """A loop over the pairs of one sample: each score by the difference of both places, the third axis without a say."""
    y, x = places(coords[:, 1].tolist(), HEIGHT), places(coords[:, 2].tolist(), WIDTH)
    rows = []
    for i in range(len(coords)):
        scores = [score(model, features[i], features[j], y[i] - y[j], x[i] - x[j]) for j in range(len(coords))]
        rows.append(torch.stack(scores).softmax(0) @ features)
    return torch.stack(rows)


@pytest.mark.parametrize(("sort", "score"), [("rotations", score_rotated), ("biases", score_biased)])
@pytest.mark.parametrize("extents", CLOUDS.values(), ids=CLOUDS.keys())
def test_rotations_and_biases_of_pairs_are_those_of_the_difference_of_their_places(sort, score, extents):
    model = PlacedAttention(sort).double()
    nn.init.dirac_(model.embed.weight)
    nn.init.zeros_(model.embed.bias)
    if model.bias is not None:
        nn.init.normal_(model.bias.relative_position_bias_table, generator=seeded(8))
    network = inflate(model, canvas=(HEIGHT, WIDTH))
    coords, _ = sample(extents, 20, 6)
    features = torch.randn(len(coords), 4, generator=seeded(6), dtype=torch.float64)
    expected = attend_by_differences(model, score, coords, features)
    for shift in ((0, 0, 0), (5, -7, 13), (-400, 3000, 1)):
        moved = nn.functional.pad(coords + torch.tensor(shift, dtype=torch.int32), (1, 0))
        with torch.no_grad():
            out = network(SparseTensor(features, moved)).features
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)  # timm's sines are of float32
