"""Transformers on ragged clouds: their blocks, against timm's on padded tensors with a mask and against a loop over clouds."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import i2p_zoo
from benchmarks.padded import PaddedWindows, Padding, run_blocks, run_partition_blocks, run_swin_blocks
from benchmarks.scale import forget_peak, peak
from benchmarks.shapes import sphere
from benchmarks.timing import Result, compare, take_turns
from i2p_zoo.sparse.tokens.site_tokens import as_tokens

SIZES = {
    1_000: (300, 400, 600, 800, 1_000, 1_300, 1_600, 2_000),
    4_000: (1_000, 1_500, 2_500, 3_500, 4_500, 5_500, 6_500, 7_000),
}
VITS = {"dinov3": "vit_small_patch16_dinov3", "siglip": "vit_base_patch16_siglip_224", "eva02": "eva02_small_patch14_224"}
WINDOWED = {"swin": "swin_tiny_patch4_window7_224", "maxvit": "maxvit_tiny_rw_224"}


@dataclass
class Run:
    """Blocks in a row, as a network calls them.

    Attributes:
        blocks: modules that keep the tokens.
        x: what the first of them got.
        options: keyword arguments of each.
    """

    blocks: Sequence[Any]
    x: Any
    options: dict[str, Any]

    def ours(self) -> Tensor:
        """(tokens, channels) from all clouds at once."""
        x = self.x
        for block in self.blocks:
            x = block(x, **self.options)
        values: Tensor = as_tokens(x).values
        return values

    def padded(self) -> Callable[[], Tensor]:
        """The same on padded tensors, which are prepared once."""
        tokens = as_tokens(self.x)
        batch = Padding(tokens.rows.batch)
        x = batch.pad(tokens.values)
        if "rope" in self.options:
            rope = self._read_rope(batch)
            return lambda: batch.unpad(run_blocks(self.blocks, x, batch, rope))
        if not hasattr(self.x, "coords"):
            return lambda: batch.unpad(run_blocks(self.blocks, x, batch, None))
        coords = self.x.coords
        if hasattr(self.blocks[0], "partition_block"):
            period = self.x.canvas[0] // 7
            kinds = {True: PaddedWindows(coords, batch, 7), False: PaddedWindows(coords, batch, 7, period)}
            return lambda: batch.unpad(run_partition_blocks(self.blocks, x, kinds))
        size = self.blocks[0].window_size[0]
        shifts = {max(block.shift_size) for block in self.blocks}
        windows = {shift: PaddedWindows(coords, batch, size, shift=shift) for shift in shifts}
        return lambda: batch.unpad(run_swin_blocks(self.blocks, x, windows))

    def _read_rope(self, batch: Padding) -> Tensor:
        """(B, 1, places, channels): the rotation of every token that is a site."""
        rope, prefix = self.options["rope"], self.x.space.prefix
        read: Tensor = ((self.x[:, prefix:, :1] * 0 + 1) * rope).values.detach()
        rows = batch.rows[:, prefix:] - batch.rows.shape[0] * prefix
        return read[rows.clamp(min=0)].unsqueeze(1)


def capture(name: str, sizes: Sequence[int], depth: int) -> list[Run]:
    """Runs a network on clouds of about these many tokens.

    Returns:
        The blocks of each resolution; of a ViT the first `depth`.
    """
    torch.manual_seed(0)
    model = i2p_zoo.create_model({**VITS, **WINDOWED}[name], stem="point", num_classes=10).eval()
    if name == "swin":
        sequences = [list(stage.blocks) for stage in model.layers]
    elif name == "maxvit":
        sequences = [[block.attn_block, block.attn_grid] for stage in model.stages for block in stage.blocks]
    else:
        model.blocks = model.blocks[:depth]
        sequences = [list(model.blocks)]
    runs: list[Run] = []
    hooks = []
    for blocks in sequences:

        def note(_: Any, arguments: Any, options: Any, blocks: list[Any] = blocks) -> None:
            runs.append(Run(blocks, arguments[0], options))

        hooks.append(blocks[0].register_forward_pre_hook(note, with_kwargs=True))
    with torch.no_grad():
        model(ragged_batch([4 * size for size in sizes] if name == "maxvit" else sizes))  # it begins at half the resolution
    for hook in hooks:
        hook.remove()
    return runs


def ragged_batch(sizes: Sequence[int]) -> i2p_zoo.SparseTensor:
    """Surfaces of spheres with about so many voxels each, with random features."""
    clouds = []
    for number, size in enumerate(sizes):
        coords = sphere(size).clone()
        coords[:, 1:] -= coords[:, 1:].amin(0)
        coords[:, 0] = number
        clouds.append(coords)
    coords = torch.cat(clouds)
    features = torch.randn((len(coords), 3), generator=torch.Generator().manual_seed(1))
    return i2p_zoo.SparseTensor(features, coords, batch_size=len(sizes))


def contestants(
    name: str, sizes: Sequence[int], depth: int, *, train: bool, only: str | None = None
) -> tuple[int, dict[str, Callable[[], Any]]]:
    """Prepares what runs the blocks of a network on clouds of about these many tokens.

    Returns:
        The number of tokens at the first resolution, and a call for each contestant, or for `only` one of them: ours, padded,
        and of ViTs a loop.
    """
    runs = capture(name, sizes, depth)
    prepare: dict[str, Callable[[], list[Callable[[], Tensor]]]] = {
        "ours": lambda: [run.ours for run in runs],
        "padded": lambda: [run.padded() for run in runs],
    }
    if name in VITS:
        prepare["loop"] = lambda: [run.ours for size in sizes for run in capture(name, [size], depth)]
    parts = {key: make() for key, make in prepare.items() if only in (None, key)}
    if only is None:
        with torch.no_grad():
            for run, peer in zip(runs, parts["padded"], strict=True):
                _agree(peer(), run.ours())
    blocks = [block for run in runs for block in run.blocks]
    return len(as_tokens(runs[0].x).values), {key: _caller(calls, blocks, train=train) for key, calls in parts.items()}


def _agree(found: Tensor, expected: Tensor) -> None:
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error < 1e-4:
        raise RuntimeError(f"Padded and ragged differ by {error:.1e}: not timed.")


def _caller(calls: Sequence[Callable[[], Tensor]], blocks: Sequence[Any], *, train: bool) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad():
            for call in calls:
                call()

    def step() -> None:
        for block in blocks:
            block.zero_grad()
        for call in calls:
            call().square().sum().backward()

    return step if train else forward


def tokens(quick: bool = False) -> Iterator[Result]:
    """Blocks of DINOv3 ViT-S, SigLIP, EVA02, Swin-T and MaxViT-T on 8 ragged clouds: seconds and peak memory."""
    for mean, depth in ((1_000, 2), (4_000, 1)):
        for name in ("swin",) if quick else (*VITS, *WINDOWED):
            for train in (False, True):
                if quick and (mean == 4_000 or train):
                    continue
                yield from _case(name, SIZES[mean], depth, train=train)


def _case(name: str, sizes: Sequence[int], depth: int, *, train: bool) -> Iterator[Result]:
    count, calls = contestants(name, sizes, depth, train=train)
    network = {**VITS, **WINDOWED}[name]
    blocks = "all blocks" if name in WINDOWED else f"{depth} of 12 blocks"
    case = f"{network}, {blocks}, 8 clouds, {count} tokens"
    benchmark = "training step of tokens" if train else "forward of tokens"
    times = take_turns(calls, rounds=5, budget=20)
    yield compare(benchmark, case, times, "padded", "ours", 1.5)
    if "loop" in times:
        yield compare(benchmark, case, times, "loop", "ours")
    peaks = {key: [measure(name, sizes, depth, key, train=train)] for key in calls}
    yield replace(compare(f"memory of the {benchmark}", case, peaks, "ours", "padded", -1.0), unit=("MiB", 2.0**-20))


def measure(name: str, sizes: Sequence[int], depth: int, contestant: str, *, train: bool) -> float:
    """Peak memory in bytes beyond what stands there before, in a process of its own."""
    arguments = [name, ",".join(map(str, sizes)), str(depth), contestant, str(int(train))]
    command = [sys.executable, "-m", "benchmarks.tokens", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  (this file)
    return float(json.loads(done.stdout))


def _measure_here(name: str, sizes: str, depth: str, contestant: str, train: str) -> float:
    _, calls = contestants(name, [300], int(depth), train=bool(int(train)), only=contestant)
    calls[contestant]()  # what Python imports and compiles on the way
    _, calls = contestants(name, [int(size) for size in sizes.split(",")], int(depth), train=bool(int(train)), only=contestant)
    ctypes.CDLL(None).malloc_trim(0)  # what the preparation left free would hide what follows
    before = forget_peak()
    calls[contestant]()
    return peak() - before


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure_here(*sys.argv[1:])))
