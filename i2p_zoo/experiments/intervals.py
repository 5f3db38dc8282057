"""Mean, deviation and 95 % interval of a few runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from i2p_zoo._extras import require


def half_width(values: Sequence[float]) -> float:
    """Returns half the 95 % interval of the mean of independent runs (Student 1908); NaN for fewer than two.

    Raises:
        MissingExtraError: scipy is not installed.

    Example:
        >>> round(half_width([1.0, 2.0, 3.0]), 2)
        2.48
    """
    count = len(values)
    if count < 2:
        return math.nan
    quantile = float(require("scipy.stats", extra="finetune").t.ppf(0.975, count - 1))
    return quantile * float(np.std(values, ddof=1)) / math.sqrt(count)


def format_percent(values: Sequence[float]) -> str:
    """Returns fractions as "mean ± deviation [low, high]" in %, the interval where there are three or more.

    That of two is 9 standard deviations to either side of the mean, and tells nothing but that they are two.

    Example:
        >>> format_percent([0.5, 0.6, 0.7])
        '60.0 ± 10.0 [35.2, 84.8]'
        >>> format_percent([0.5, 0.6])
        '55.0 ± 7.1'
        >>> format_percent([0.5])
        '50.0'
    """
    mean = 100 * float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.1f}"
    spread = f"{mean:.1f} ± {100 * float(np.std(values, ddof=1)):.1f}"
    if len(values) == 2:
        return spread
    width = 100 * half_width(values)
    return f"{spread} [{mean - width:.1f}, {mean + width:.1f}]"
