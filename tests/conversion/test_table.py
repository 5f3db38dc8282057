"""The zoo's table: what it says of a ledger and its facts, as rows, CSV and HTML."""

from __future__ import annotations

import csv
import io

from conversion.table import format_csv, format_html, list_exports, make_rows, summarize
from i2p_zoo.zoo.ledger import certified_models, load_ledger

FIGURES = {
    "class": "Net",
    "parameters": 1234567,
    "inflated": 3,
    "copied": 4,
    "unmapped": 0,
    "images": [1, 3, 96, 96],
    "response": 0.25,
    "seconds": 1.5,
}
EXAMPLE = {
    "timm": "9.9",
    "models": {
        "good": {**FIGURES, "float32": 2e-7, "float64": 3e-16, "passed": True},
        "rough": {**FIGURES, "float32": 2e-3, "float64": 3e-12, "passed": False},
        "large": {**FIGURES, "float32": 3e-7, "float64": 2e-15, "shift": 0.05, "passed": True, "cut": True},
        "broken": {"class": "Net", "parameters": 1, "passed": False, "error": "KeyError: 'x'"},
        "vit_a": {"class": "ViT", "parameters": 1, "refused": "no LayerNorm"},
        "vit_b": {"class": "ViT", "parameters": 1, "refused": "no LayerNorm"},
    },
}
FACTS = {"good": {"parameters": 2345678, "num_classes": 10, "input_size": [3, 224, 224], "license": "<mine>"}}


def test_rows_are_the_certified_ones_with_what_is_known():
    good, large = make_rows(EXAMPLE, FACTS)
    assert (good["network"], large["network"]) == ("i2p-good", "i2p-large")
    assert (good["parameters"], good["parameters_2d"], good["input_size"], good["measured"]) == (2345678, 1234567, 224, "whole")
    assert (large["parameters"], large["licence"], large["input_size"]) == (None, None, 96)
    assert (large["shift"], large["measured"]) == (0.05, "two blocks a stage")


def test_csv_has_a_line_for_each_row():
    lines = list(csv.DictReader(io.StringIO(format_csv(make_rows(EXAMPLE, FACTS)))))
    assert [line["network"] for line in lines] == ["i2p-good", "i2p-large"]
    assert (lines[0]["float32"], lines[0]["response"], lines[1]["parameters"]) == ("2e-07", "0.25", "")


def test_html_shows_numbers_and_keeps_their_values():
    page = format_html(make_rows(EXAMPLE, FACTS))
    assert '<td class="number" data-value="2345678">2,345,678</td>' in page
    assert '<td class="number" data-value="2e-07">2.0e-07</td>' in page
    assert "&lt;mine&gt;" in page


def test_summary_has_the_totals_and_the_reasons():
    text = summarize(EXAMPLE)
    assert "Of 6 architectures of timm 9.9 that were measured, **2 are certified**, 2 fail and 2 are refused; 0 tensors" in text
    assert "- Net: relative error 2.0e-03 in float32, 3.0e-12 in float64 (1): rough" in text
    assert "- Net: KeyError: 'x' (1): broken" in text
    assert "- no LayerNorm (2): vit_a, vit_b" in text
    whole = summarize({"timm": "9.9", "models": {"good": EXAMPLE["models"]["good"]}})
    assert "## Failed" not in whole
    assert "## Refused" not in whole


def test_rows_of_the_repository_are_those_of_its_ledger():
    assert [row["network"] for row in make_rows(load_ledger(), {})] == [f"i2p-{name}" for name in certified_models()]


def test_what_is_exported_is_told_by_the_size_of_images_and_by_name():
    models = {**EXAMPLE["models"], "large": {**EXAMPLE["models"]["large"], "class": "Vit", "images": [1, 3, 224, 224]}}
    models["tresnet_m"] = EXAMPLE["models"]["good"]
    text = list_exports({"timm": "9.9", "models": models})
    assert "takes the convolutional networks, 1 of the 3 that are certified" in text
    assert "take voxels for tokens, 1: all of the classes Vit; and of other classes none;" in text
    assert "- tresnet_m: Its first layer moves voxels to channels" in text
    assert text.endswith("from the cloud.")
