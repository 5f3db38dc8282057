"""Words of messages: no "1 parts", no near names that are not there, no count before a fixed plural."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import i2p_zoo
from i2p_zoo.wording import count_of, describe_value, format_json, join_words, near_paths, suggest

PACKAGE = Path(i2p_zoo.__file__).parent
SPEAKING = [path for row in ("cli", "experiments", "finetune") for path in sorted((PACKAGE / row).rglob("*.py"))]


@pytest.mark.parametrize("path", SPEAKING, ids=lambda path: path.stem)
def test_no_length_stands_before_a_plural_that_is_fixed(path):
    """`f"{len(files)} files"` says "1 files"; `count_of` does not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                is_length = isinstance(value, ast.FormattedValue) and value.format_spec is None
                if is_length and isinstance(text, ast.Constant) and ast.unparse(value.value).startswith("len("):
                    assert not re.match(r" [a-z]+s\b", str(text.value)), f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [(1, "part", "1 part"), (0, "part", "0 parts"), (2, "class", "2 classes"), (1, "class", "1 class")],
)
def test_a_count_has_its_noun_in_the_right_number(number, noun, words):
    assert count_of(number, noun) == words


def test_lists_read_as_text_and_end_somewhere():
    assert join_words([]) == ""
    assert join_words(["a"]) == "a"
    assert join_words(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


@pytest.mark.parametrize(
    "value", [{"a": {"b": None}, "c": True}, {"classes": ["x", "y"]}, {"source": {}, "tag": "", "size": [3, 224, 224]}], ids=str
)
def test_no_dictionary_list_or_constant_of_python_is_shown(value):
    assert not re.search(r"[\[\]{}']|None|True|False", describe_value(value))


def test_json_has_no_number_that_json_lacks():
    values = {"nan": float("nan"), "deep": [{"infinite": -float("inf")}], "tuple": (1, 2.5), "text": "NaN"}

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads(format_json(values), parse_constant=refuse)
    assert read == {"nan": None, "deep": [{"infinite": None}], "tuple": [1, 2.5], "text": "NaN"}


def test_near_paths_exist_and_follow_the_part_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "shapes.npz").touch()
    assert near_paths("shaeps.npz") == [Path("shapes.npz")]
    assert near_paths("run/modle") == [Path("run/model")]
    assert near_paths("rnu/model") == [Path("run/model")]
    assert near_paths("runs/adapter") == [], "there is no run/adapter"
    assert near_paths("shapes", folders=True) == []
    for strange in ("x" * 5000, "a\0b", "~nobody-has-this-name/a", "", "shapes.npz/below"):
        near_paths(strange)


def test_a_home_that_the_shell_left_as_it_is_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "net").mkdir()
    assert suggest(near_paths("~/net")) == f" Did you mean {tmp_path / 'net'}?"
