"""Interleaved timing: contestants take turns in each round, and a ratio is taken within a round.

A machine's clock and its neighbours change from minute to minute; what two contestants do a few milliseconds apart is
comparable all the same. Hence ratios, their median and quartiles, and never a figure from another run. A turn begins with
an untimed call, so that nobody pays for the caches that another has left; beside a call of a second they are nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Times = dict[str, list[float]]
LONG = 1.0  # seconds


@dataclass
class Result:
    """One ratio of a benchmark.

    Attributes:
        benchmark: its name.
        case: what was run.
        ratio: "peer / ours", both names of contestants.
        median, low, high: of the rounds' ratios; low and high are the quartiles.
        target: at least (positive) or at most (negative) this much; None where none was set.
        seconds: each contestant's median; bytes or seconds a voxel where the benchmark says so.
        notes: what else was measured.
        unit: in which to show these, and how many of it they hold.
    """

    benchmark: str
    case: str
    ratio: str
    median: float
    low: float
    high: float
    target: float | None
    seconds: dict[str, float]
    notes: dict[str, Any] = field(default_factory=dict)
    unit: tuple[str, float] = ("ms", 1e3)

    @property
    def met(self) -> bool | None:
        """Whether the target holds."""
        if self.target is None:
            return None
        return self.median >= self.target if self.target > 0 else self.median <= -self.target

    def figures(self) -> str:
        """Returns each contestant's median with its unit."""
        unit, scale = self.unit
        return ", ".join(f"{name} {scale * value:.4g} {unit}" for name, value in self.seconds.items())

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON types."""
        return {**asdict(self), "met": self.met}


def take_turns(contestants: dict[str, Callable[[], Any]], rounds: int = 9, budget: float = 20.0) -> Times:
    """Times contestants in turns; each turn is an untimed call and a timed one, the latter alone after a turn that was long.

    Args:
        contestants: a name and a call for each.
        rounds: at most this many.
        budget: seconds; no round begins after it, but three are run in any case.

    Returns:
        Seconds of each round by name.
    """
    times: Times = {name: [] for name in contestants}
    started = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - started > budget:
            break
        for name, call in contestants.items():
            if not times[name] or times[name][-1] < LONG:
                call()
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return times


def compare(benchmark: str, case: str, times: Times, peer: str, ours: str, target: float | None = None, **notes: Any) -> Result:
    """Returns how many times longer `peer` took than `ours`, round by round."""
    ratios = [a / b for a, b in zip(times[peer], times[ours], strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else 3 * ratios
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return Result(benchmark, case, f"{peer} / {ours}", median, low, high, target, seconds, notes)
