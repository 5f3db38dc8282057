"""What is to hold on an H100 or its like, and whether it did."""

from __future__ import annotations

from dataclasses import dataclass, field

HEAD = "| goal | at most | measured | |\n|---|--:|--:|---|"


@dataclass
class Figures:
    """What was measured: milliseconds of passes and steps by name and precision, and seconds of the first batch."""

    times: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    first_batch: float | None = None


def judge_goals(figures: Figures, *, on_gpu: bool, clouds: int) -> list[str]:
    """Returns the table of goals: held, missed, or not measured, as on a CPU and with other than 32 clouds."""
    counts = on_gpu and clouds == 32
    ours, lite0 = (figures.times.get((name, "bf16"), {}) if counts else {} for name in ("resnet18", "tf_efficientnet_lite0"))
    peer = figures.times.get(("spconv-triton", "bf16"), {}) if counts else {}
    first = figures.first_batch if counts else None
    return [
        *HEAD.splitlines(),
        _judge("forward of resnet18, 32 clouds, bf16", 4.0, ours.get("forward"), "ms"),
        _judge("the same, against spconv-triton with its own maps", peer.get("forward"), ours.get("forward"), "ms"),
        _judge("step of tf_efficientnet_lite0, 32 clouds, bf16", 15.0, lite0.get("step"), "ms"),
        _judge("first batch after installation, a step of resnet18", 60.0, first, "s"),
    ]


def _judge(goal: str, limit: float | None, value: float | None, unit: str) -> str:
    verdict = "not measured" if limit is None or value is None else "held" if value <= limit else "**missed**"
    shown = ["-" if number is None else f"{number:.4g} {unit}" for number in (limit, value)]
    return f"| {goal} | {' | '.join(shown)} | {verdict} |"
