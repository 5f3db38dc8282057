"""Every function of sparse tensors and of tokens the device's way: values and gradients of the CPU's, and none left out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from i2p_zoo import SparseTensor, TokenTensor
from i2p_zoo.networks.canvas import put_on_canvas
from i2p_zoo.sparse import dispatch
from i2p_zoo.sparse.device_path import force_device_path
from tests.atomic_sums import AtomicSums
from tests.helpers import random_images, seeded
from tests.triton_tools import require_interpreter

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
CANVAS = (8, 8)


def clouds(dtype, bordered):
    """Of unlike numbers of voxels: many, none, one, and some; in no order. Some reach beyond the canvas, where there is one."""
    random, rows = seeded(0), [torch.tensor([[2, 1, 3, 6]])]
    for sample, voxels in ((0, 60), (3, 17)):
        places = (torch.rand((voxels, 3), generator=random) * torch.tensor([2, 8, 8 if bordered else 11])).long()
        rows.append(torch.cat([torch.full((voxels, 1), sample), places], 1))
    coords = torch.cat(rows).unique(dim=0)
    coords = coords[torch.randperm(len(coords), generator=random)].int()
    features = torch.randn((len(coords), 4), generator=random, dtype=torch.float64)
    features = features.to(dtype).requires_grad_()
    x = SparseTensor(features, coords, batch_size=4, spatial_shape=(2, 8, 8) if bordered else None)
    return features, x if bordered else put_on_canvas(x, CANVAS)


def table(*shape, like, seed=0):
    return random_images(*shape, seed=seed).to(like.dtype)


def sequence(x):
    return x.flatten(2).transpose(1, 2)


def windows(x):
    """(B, 4, 8, 8) as (B * windows, 16, 4)."""
    return x.view(4, 4, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(16, 16, 4)


def down(x):
    return F.max_pool2d(x, 2)


def written(x):
    """Pairs of which those behind the class token are written."""
    tokens = torch.cat([table(4, 1, 4, like=x), sequence(x)], 1)
    scores, others = (t @ t.transpose(1, 2) for t in (tokens, sequence(x)))
    scores[:, 1:, 1:] = others * 0.5
    return scores.softmax(-1) @ tokens


def changed(x, name, other):
    x = x * 1
    getattr(x, name)(other)
    return x


ARITHMETIC = {
    f"{name}{suffix}": (lambda x, n=name: getattr(torch, n)(x, x.sigmoid()))
    if not suffix
    else (lambda x, n=name: changed(x, f"{n}_", x.sigmoid()))
    for name in ("add", "sub", "mul", "div")
    for suffix in ("", "_")
}
SHARED = ARITHMETIC | {
    "maximum": lambda x: (torch.maximum(x, -x), torch.max(x, 1).values),
    "minimum": lambda x: torch.minimum(x, -x),
    "addcmul": lambda x: torch.addcmul(x, x, x.sigmoid(), value=2),
    "cat": lambda x: torch.cat([x, x * 2], 1),
    "stack": lambda x: torch.stack([x, x * 2], 1),
    "chunk": lambda x: x.chunk(2, 1),
    "split": lambda x: x.split(3, 1),
    "unbind": lambda x: x.unbind(1)[0].unsqueeze(1),
    "tensor_split": lambda x: x.tensor_split(3, 1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "getitem": lambda x: x[:, 1:3],
    "contiguous": lambda x: x.contiguous(),
    "is_contiguous": lambda x: x if x.is_contiguous() else -x,
}
ON_SITES = (
    SHARED
    | {
        "elementwise type_as": lambda x: x.type_as(torch.zeros(1, dtype=x.dtype)),
        "mul": lambda x: x * table(4, 4, 1, 1, like=x) * x.mean((2, 3), keepdim=True),  # gates, one of a sample's own
        "cat": lambda x: torch.cat([F.interpolate(down(x), scale_factor=2), x], 1),  # up from the coarser sites
        "batch_norm": lambda x: F.batch_norm(x, None, None, table(4, like=x), table(4, like=x, seed=1), True),
        "group_norm": lambda x: F.group_norm(x, 2, table(4, like=x), table(4, like=x, seed=1)),
        "layer_norm": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,), table(4, like=x)),
        "rms_norm": lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (4,), table(4, like=x)),
        "linear": lambda x: F.linear(x.permute(0, 2, 3, 1), table(3, 4, like=x)),
        "prelu": lambda x: F.prelu(x, table(4, like=x)),
        "dropout2d": lambda x: F.dropout2d(x, 0.5, True),
        "softmax": lambda x: x.softmax(1),
        "reshape": lambda x: x.reshape(4, 2, 2, *x.shape[-2:]),
        "permute": lambda x: x.permute(0, 2, 3, 1),
        "transpose": lambda x: x.reshape(4, 2, 2, *x.shape[-2:]).transpose(1, 2),
        "expand_as": lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x),
        "mean": lambda x: x.mean((2, 3)),
        "sum": lambda x: x.sum((2, 3), keepdim=True),
        "amax": lambda x: (x.amax((2, 3)), (x * 0).amax((2, 3))),  # of equals too
        "var": lambda x: x.var((2, 3), unbiased=False),
        "norm": lambda x: x.norm(dim=(2, 3)),
        "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
        "avg_pool2d": lambda x: F.avg_pool2d(x, 3, 2, 1),
        "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 1),
        "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 1),
        "pad": lambda x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2),
        "interpolate": lambda x: F.interpolate(down(down(x)), scale_factor=4),
    }
)
ON_TOKENS = {name: (lambda x, f=function: f(sequence(x).transpose(1, 2))) for name, function in SHARED.items()} | {
    "getitem": lambda x: (x.permute(0, 2, 3, 1)[:, ::2, ::2], sequence(x)[..., [3, 0]]),
    "masked_fill": lambda x: sequence(x).masked_fill(table(64, 1, like=x) > 0, 0.5),
    "attention": lambda x: (
        F.scaled_dot_product_attention(windows(x), windows(x), windows(x)),
        F.scaled_dot_product_attention(*[sequence(x)] * 3, attn_mask=table(64, 64, like=x)),
        F.scaled_dot_product_attention(table(4, 2, 4, like=x), sequence(x), sequence(x)),
    ),
    "reshape": windows,
    "reshape_as": lambda x: sequence(x).unflatten(2, (2, 2)).view_as(sequence(x)),
    "flatten": lambda x: x.flatten(2),
    "unflatten": lambda x: sequence(x).unflatten(1, (8, 8)),
    "permute": lambda x: windows(x).permute(2, 0, 1),
    "transpose": sequence,
    "movedim": lambda x: torch.movedim(sequence(x), 2, 0),
    "squeeze": lambda x: sequence(x).unsqueeze(1).squeeze(1),
    "expand": lambda x: sequence(x).mean(2, keepdim=True).expand(-1, -1, 3),
    "repeat": lambda x: sequence(x).mean(2, keepdim=True).repeat(1, 1, 5),
    "repeat_interleave": lambda x: sequence(x).repeat_interleave(2, 2),
    "cat": lambda x: torch.cat([table(4, 2, 4, like=x), sequence(x)], 1),
    "add": lambda x: (sequence(x) + table(1, 64, 4, like=x), windows(x) + windows(x).mean(1, keepdim=True)),
    "linear": lambda x: (F.linear(windows(x), table(3, 4, like=x)), F.linear(x.flatten(2), table(5, 64, like=x))),
    "layer_norm": lambda x: F.layer_norm(windows(x), (4,)),
    "rms_norm": lambda x: F.rms_norm(windows(x), (4,)),
    "batch_norm": lambda x: F.batch_norm(x.flatten(2), None, None, None, None, True),
    "group_norm": lambda x: F.group_norm(x.flatten(2), 2),
    "conv1d": lambda x: F.conv1d(x.flatten(2), table(3, 4, 1, like=x)),
    "conv2d": lambda x: F.conv2d(x.flatten(2).unsqueeze(2), table(3, 4, 1, 1, like=x)),
    "dropout2d": lambda x: F.dropout2d(x.flatten(2).unsqueeze(2), 0.5, True),
    "adaptive_avg_pool2d": lambda x: (F.adaptive_avg_pool2d(x, (2, 4)), F.adaptive_avg_pool2d(x, 3)),
    "max_pool2d": lambda x: F.max_pool2d(windows(x).transpose(1, 2).unflatten(2, (4, 4)), 2),
    "avg_pool2d": lambda x: F.avg_pool2d(windows(x).transpose(1, 2).unflatten(2, (4, 4)), 2),
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 4),
    "matmul": lambda x: (windows(x) @ windows(x).transpose(1, 2)).softmax(-1) @ windows(x),
    "rmatmul": lambda x: table(5, 4, like=x) @ x.flatten(2),
    "einsum": lambda x: torch.einsum("bnc,bnd->bcd", sequence(x), sequence(x)),
    "sum": lambda x: windows(x).sum(1),
    "mean": lambda x: sequence(x).mean(1),
    "amax": lambda x: windows(x).amax(1),
    "var": lambda x: sequence(x).var(1),
    "norm": lambda x: sequence(x).norm(dim=1),
    "normalize": lambda x: F.normalize(sequence(x), dim=1),
    "softmax": lambda x: sequence(x).softmax(1),
    "interpolate": lambda x: (
        F.interpolate(down(x), scale_factor=2, mode="bilinear"),
        F.interpolate(x, size=(10, 9), mode="bicubic"),
    ),
    "roll": lambda x: windows(torch.roll(x, (-1, -1), (2, 3))).softmax(1),
    "pad": lambda x: (F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2, 0, 3)), F.pad(sequence(x), (0, 0, 1, 0))),
    "select": lambda x: torch.cat([table(4, 1, 4, like=x), sequence(x)], 1).select(1, 0),
    "narrow": lambda x: sequence(x).narrow(2, 1, 2),
    "setitem": written,
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1),
    "overlapping": lambda x: x.unfold(2, 4, 2).unfold(3, 4, 2).mean((4, 5)),
    "type_as": lambda x: sequence(x).type_as(x),
    "to": lambda x: sequence(x).to(x.dtype),
    "detach": lambda x: sequence(x) * sequence(x).detach(),
}
ARGUMENTS = {"threshold": (0.1, 0.0), "_threshold": (0.1, 0.0), "clamp": (-0.5, 0.5), "clamp_": (-0.5, 0.5),
             "clamp_min": (0.1,), "clamp_max": (0.1,), "pow": (2,), "dropout": (0.5, True),
             "alpha_dropout": (0.5, True)}  # fmt: skip
POSITIVE = {"log", "sqrt", "rsqrt", "reciprocal"}


def find_elementwise(handlers, layout):
    """A case of each function of values alone, by its handler's name."""
    cases = {}
    for function, handler in handlers.items():
        name = handler.__qualname__.removeprefix("elementwise ")
        if name != handler.__qualname__ and handler.__qualname__ not in cases:
            cases[handler.__qualname__] = lambda x, f=function, n=name: f(
                layout(x).abs() + 1 if n in POSITIVE else layout(x) * 1, *ARGUMENTS.get(n, ())
            )
    return cases


SITES = find_elementwise(dispatch._handlers, lambda x: x) | ON_SITES
TOKENS = find_elementwise(dispatch._token_handlers, sequence) | ON_TOKENS
BORDERED_ALONE = {"fold", "overlapping"}
CASES = [
    pytest.param(function, bordered, dtype, id=f"{kind}: {name}, {'with a border' if bordered else 'on a canvas'}, {dtype}")
    for kind, cases in (("sites", SITES), ("tokens", TOKENS))
    for name, function in cases.items()
    for bordered, dtype in ((True, torch.float64), (False, torch.float64), (name in BORDERED_ALONE, torch.float32))
    if bordered or name not in BORDERED_ALONE
]


def values_of(result):
    parts = result if isinstance(result, tuple) else (result,)
    out = []
    for part in parts:
        if isinstance(part, SparseTensor):
            out += [part.apply_padding().features, part.coords]
        elif isinstance(part, TokenTensor):
            out += [part.values, part.rows.coords]
        else:
            out.append(part)
    return out


def run(function, dtype, bordered):
    """Results with the sites that they stand on, and the gradient of the features."""
    features, x = clouds(dtype, bordered)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        results = values_of(function(x))
    upstream = [torch.randn(r.shape, generator=seeded(i), dtype=dtype) for i, r in enumerate(results)]
    loss = sum((r * u).sum() for r, u in zip(results, upstream, strict=True) if r.requires_grad)
    gradients = torch.autograd.grad(loss, [features], allow_unused=True) if isinstance(loss, torch.Tensor) else []
    return [*results, *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize(("function", "bordered", "dtype"), CASES)
def test_function_gives_on_a_device_what_it_does_on_the_cpu_and_adds_up_in_a_fixed_order(function, bordered, dtype):
    require_interpreter()
    expected = run(function, dtype, bordered)
    with force_device_path(), AtomicSums() as sums:
        found = run(function, dtype, bordered)
    assert len(found) == len(expected)
    for value, truth in zip(found, expected, strict=True):
        assert value.shape == truth.shape
        assert value.dtype == truth.dtype
        scale = truth[truth.isfinite()].abs().max().clamp(min=1) if truth.numel() else 1
        assert torch.allclose(value / scale, truth / scale, rtol=0, atol=TOLERANCES[dtype], equal_nan=True)
    assert not sums.names


@pytest.mark.parametrize(("cases", "handlers"), [(SITES, "_handlers"), (TOKENS, "_token_handlers")], ids=["sites", "tokens"])
def test_every_function_is_tried(cases, handlers):
    names = {
        handler.__qualname__ for handler in getattr(dispatch, handlers).values() if handler.__module__.startswith("i2p_zoo.")
    }
    assert set(cases) == names
