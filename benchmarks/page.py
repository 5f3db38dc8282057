"""docs/performance.md, from the results of a run."""

from __future__ import annotations

from typing import Any

from benchmarks.timing import Result

_HEAD = """# Performance

Ratios of seconds, contestants in turns within one run, each turn an untimed call and a timed one: the median of the rounds
and, in brackets, their quartiles. A ratio "peer / ours" above 1 means that ours is faster. The process is one as users have
it; `--keep-memory` calls `i2p_zoo.keep_freed_memory()` first, as the commands of `i2p-zoo` do. This page: memory {memory}.

Before they are timed, forward passes of layers are checked against float64, depthwise weight gradients, networks and kernel
maps against the peer, the number of voxels against numpy, a loaded network against the saved one. Not checked: the dense
network, which computes another function (its empty voxels fill up), but for finite logits; the gradients of dense layers, which
the tests compare with a dense convolution; spconv's voxels.

    python -m benchmarks --page docs/performance.md     # make bench prints the same; nothing else should run

Measured on: {processor}, {threads} threads, torch {torch}. On a GPU: see the end of the page.

- *GEMM*: one `torch.mm` of the same FLOPs, the machine's limit.
- *spconv*: 2.3.8's CPU engine, its pairs made beforehand. With more than one thread it has a data race and its results are
  wrong; it is timed so for the record. Its voxelizer keeps a table of the box from call to call and the first five points of a
  voxel; ours takes any box, all points, sums in float64 and sorts the voxels.
- *gather-scatter*: per tap, a gather, a product and a scatter-add in torch; in networks, torch's normalisation as well.
- *all taps*: the same network with weights changed by 1e-7, so that no tap is empty and none repeats.

Single layers run on real clouds at a voxel size of 0.1 (about 12 neighbours a voxel), networks on real clouds of 1,024 points
at 0.05 with `stem="point", skip_downsamples=2`. Scenes are hills of one point a square voxel.
Targets that are missed are marked; they are goals, not claims.
"""


_GPU = "## On a GPU"
_COLUMNS = "| case | ratio | median | target | medians |\n|---|---|--:|---|---|"


def write_page(results: list[Result], machine: dict[str, Any], before: str = "") -> str:
    """Returns the page as Markdown, with what the page before it says of a GPU: that is measured by `benchmarks.gpu`."""
    lines = [_HEAD.format(**machine)]
    for benchmark in dict.fromkeys(result.benchmark for result in results):
        lines.append(f"## {benchmark[0].upper()}{benchmark[1:]}\n\n{_COLUMNS}")
        lines += [_row(result) for result in results if result.benchmark == benchmark]
        lines.append("")
    return "\n".join(lines) + before[before.find(_GPU) :] * (_GPU in before)


def _row(result: Result) -> str:
    sign = "" if result.target is None else f"{'≥' if result.target > 0 else '≤'} {abs(result.target):g}"
    target = sign + (", **missed**" if result.met is False else "")
    spread = f"{result.median:.2f} ({result.low:.2f}-{result.high:.2f})"
    return f"| {result.case} | {result.ratio} | {spread} | {target} | {result.figures()} |"
