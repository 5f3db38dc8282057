"""95 % intervals against scipy's, and against how often they hold the mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from i2p_zoo.experiments.intervals import format_percent, half_width


@pytest.mark.parametrize("count", [2, 3, 5, 10, 40])
def test_interval_is_scipy_s(count):
    values = np.random.default_rng(count).normal(0.7, 0.1, count)
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert half_width(values) == pytest.approx((high - low) / 2)


def test_interval_of_five_runs_holds_the_mean_in_95_of_100_cases():
    runs = np.random.default_rng(0).normal(0.7, 0.1, (2000, 5))
    held = [abs(row.mean() - 0.7) <= half_width(row) for row in runs]
    assert 0.93 < np.mean(held) < 0.97


def test_one_run_has_no_deviation_and_two_have_no_interval():
    assert math.isnan(half_width([0.5]))
    assert [format_percent(values) for values in ([0.5], [0.5, 0.6])] == ["50.0", "55.0 ± 7.1"]
