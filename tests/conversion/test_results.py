"""The tables of docs/results.md: made of figures that are kept, and up to date."""

from __future__ import annotations

import json

import pytest

from conversion.results import PAGE, fill_tables
from i2p_zoo import InvalidInputError
from i2p_zoo.experiments.comparison import format_comparison

FIGURES = {"all": {"top1": [0.5, 0.6], "mean_class": [0.5, 0.6], "seconds": [1.0, 2.0], "trained": 9, "diverged": 0}}


def test_the_page_has_what_the_figures_say():
    text = PAGE.read_text(encoding="utf-8")
    assert fill_tables(text, PAGE.with_suffix("")) == text, "run python -m conversion results"


def test_tables_are_made_anew_between_their_marks(tmp_path):
    (tmp_path / "compare-parts.json").write_text(json.dumps(FIGURES))
    page = "Before.\n\n<!-- figures: compare-parts -->\nold\n<!-- end -->\n\nAfter <!-- end -->.\n"
    filled = fill_tables(page, tmp_path)
    table = format_comparison(FIGURES)
    assert filled == f"Before.\n\n<!-- figures: compare-parts -->\n\n{table}\n<!-- end -->\n\nAfter <!-- end -->.\n"
    assert fill_tables(filled, tmp_path) == filled


@pytest.mark.parametrize("name", ["compare-absent", "guesses-parts"])
def test_figures_that_are_missing_or_of_no_command_are_told(tmp_path, name):
    (tmp_path / "guesses-parts.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=rf"{name}\.json, named after one of ablate, compare"):
        fill_tables(f"<!-- figures: {name} -->\n<!-- end -->\n", tmp_path)
