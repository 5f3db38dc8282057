"""Lines of numbers: read as Python reads each word, and refused where it would not or where words touch."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from i2p_zoo import InvalidInputError
from i2p_zoo.data.files.number_lines import NumberLines, clean_text

BLANKS = st.text(" \t", min_size=1, max_size=3)


@given(st.lists(st.lists(st.floats(width=64), min_size=1, max_size=5), min_size=1, max_size=8), BLANKS, st.booleans())
def test_any_numbers_come_back_to_the_last_bit_line_by_line(rows, blank, windows):
    end = "\r\n" if windows else "\n"
    text = end.join(blank + blank.join(map(repr, row)) + blank for row in rows) + end
    lines = NumberLines(clean_text(text.encode()))
    assert lines.counts.tolist() == [len(row) for row in rows]
    values = lines.read(0, len(lines), np.float64)
    assert np.array_equal(values, [number for row in rows for number in row], equal_nan=True)


@given(arrays.arrays(np.int64, (4, 3)))
def test_whole_numbers_of_any_size_stay_whole(rows):
    lines = NumberLines("\n\n".join(" ".join(map(str, row)) for row in rows.tolist()).encode())
    assert np.array_equal(lines.read(1, 3, np.int64), rows[1:3].ravel())
    assert lines.read_integers(0, 4).dtype == np.int64


@pytest.mark.parametrize("word", ["one", "1-2", "0_2", "1.2.3", "1,5", "0x10", "1e", "--1", "1#2", "1.#INF", "\x001", "1\xb2"])
def test_a_word_that_is_no_number_is_named_with_its_line(word):
    lines = NumberLines(clean_text(f"1 2 3\n4 {word} 6\n".encode("latin-1")))
    with pytest.raises(InvalidInputError, match=r"expected numbers; found '.*' in the line '4"):
        lines.read(0, 2, np.float64)


def test_rows_of_other_lengths_are_named():
    with pytest.raises(InvalidInputError, match="row 2 has 2 numbers, '3 4'; the first has 1"):
        NumberLines(b"1\n2\n3 4\n").read_rows(0, 3, np.float64)


@pytest.mark.parametrize("text", [b"", b"\n \n", b"1"])
def test_few_lines_or_none(text):
    lines = NumberLines(text)
    assert lines.read(0, len(lines), np.float64).tolist() == [1] * len(lines)


def test_comments_go_to_the_end_of_their_line():
    assert clean_text(b"\xef\xbb\xbf1 # 2 # 3\r4#5\f# all\n6 #") == b"1 \n4#5\n\n6 "
    assert clean_text(b"a # b\n", comments=False) == b"a # b\n"
