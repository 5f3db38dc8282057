"""docs/architectures.md: what it says of a ledger, and that it is that of the ledger in the repository."""

from __future__ import annotations

from conversion.ledger import LEDGER
from conversion.table import PAGE, format_table
from i2p_zoo.zoo.ledger import load_ledger

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
        "large": {
            **FIGURES,
            "images": [1, 3, 224, 224],
            "float32": 3e-7,
            "float64": 2e-15,
            "shift": 0.05,
            "passed": True,
            "cut": True,
        },
        "broken": {"class": "Net", "parameters": 1, "passed": False, "error": "KeyError: 'x'"},
        "vit_a": {"class": "ViT", "parameters": 1, "refused": "no LayerNorm"},
        "vit_b": {"class": "ViT", "parameters": 1, "refused": "no LayerNorm"},
    },
}


def test_page_has_the_totals_and_a_line_for_each_architecture():
    page = format_table(EXAMPLE)
    assert "Of 6 architectures of timm 9.9, **2 are certified**" in page
    assert "2 fail and 2 are refused; 0 tensors are unmapped." in page
    assert "| good | Net | 1,234,567 | 3 | 4 | 96 | 2.0e-07 | 3.0e-16 | 2.5e-01 |  | 1.5 |  |" in page
    assert (
        "| large | Net | 1,234,567 | 3 | 4 | 224 | 3.0e-07 | 2.0e-15 | 2.5e-01 | 5.0e-02 | 1.5 | two blocks a stage |" in page
    )
    assert "- Net: relative error 2.0e-03 in float32, 3.0e-12 in float64 (1): rough" in page
    assert "- Net: KeyError: 'x' (1): broken" in page
    assert "- no LayerNorm (2): vit_a, vit_b" in page
    assert "the convolutional networks, 1 of these 2;" in page
    assert "And of other classes\n  large." in page


def test_page_of_a_whole_ledger_has_no_empty_sections():
    page = format_table({"timm": "9.9", "models": {"good": EXAMPLE["models"]["good"]}})
    assert "## Failed" not in page
    assert "## Refused" not in page


def test_page_in_the_repository_is_that_of_the_ledger():
    assert LEDGER.name == "ledger.json"
    assert PAGE.read_text(encoding="utf-8") == format_table(load_ledger())
