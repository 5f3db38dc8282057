"""A certificate in one line, whatever it notes."""

from __future__ import annotations

import pytest

from i2p_zoo.checkpoints.certificate_text import describe_certificate, describe_coverage

ERRORS = {"errors": {"float32": 1.25e-7, "float64": 3e-16}}
WHOLE = {"mapped": 122, "mismatched": [], "unproven": [], "seen": 102, "unseen": [], "live_errors": {}}
FIGURES = "float32 1.2e-07, float64 3.0e-16"

CERTIFICATES = {
    "none": (None, "not measured"),
    "of an older package": (ERRORS, FIGURES),
    "in one precision": ({"errors": {"float32": 1e-7, "float64": None}}, "float32 1.0e-07"),
    "of a twin": ({**ERRORS, "inflation": "average"}, f"{FIGURES} (its average-inflated twin)"),
    "of a cut network": ({**ERRORS, "cut": True}, f"{FIGURES} (of the same network with two blocks a stage)"),
    "of its source": ({**ERRORS, "finetuned": True}, f"{FIGURES} (of the network it was finetuned from)"),
    "of the ledger": (
        {**ERRORS, "weights": "random", "mapped": 3},
        f"{FIGURES} with live random weights; all 3 tensors are their 2D sources' bit for bit",
    ),
    "refused": ({"refused": "no layer"}, "refused: no layer"),
    "failed": ({"passed": False, "error": "KeyError: 'x'"}, "failed: KeyError: 'x'"),
    "whole": (
        {**ERRORS, **WHOLE},
        f"{FIGURES}; all 122 tensors are their 2D sources' bit for bit; the outputs depend on all 102 of floating point",
    ),
    "that saw little": (
        {**ERRORS, **WHOLE, "live_errors": {"float64": 4e-16}, "seen": 98, "unseen": list("abcd")},
        f"{FIGURES}; float64 4.0e-16 with live random weights; all 122 tensors are their 2D sources' bit for bit; "
        "the outputs depend on all 102 of floating point, on 4 of them with live random weights alone (a, b, c and 1 more)",
    ),
    "that had no live weights": (
        {**ERRORS, **WHOLE, "seen": 98, "unseen": list("abcd")},
        f"{FIGURES}; all 122 tensors are their 2D sources' bit for bit; "
        "the outputs depend on 98 of the 102 of floating point, but not a, b, c and 1 more",
    ),
}


@pytest.mark.parametrize(("certificate", "line"), CERTIFICATES.values(), ids=CERTIFICATES.keys())
def test_certificate_is_a_line(certificate, line):
    assert describe_certificate(certificate, "center") == line


def test_what_live_weights_do_not_show_is_named():
    certificate = {**WHOLE, "live_errors": {"float64": 1e-16}, "seen": 101, "unseen": ["a"], "unmeasured": ["a"]}
    assert describe_coverage(certificate)[-1] == "no weights measured show a"


def test_what_differs_and_what_nothing_proves_is_named():
    certificate = {**WHOLE, "mapped": 120, "mismatched": ["a", "b"], "unproven": ["b"]}
    assert describe_coverage(certificate) == [
        "120 of 122 tensors are their 2D sources' bit for bit, but not a, b",
        "the outputs depend on all 102 of floating point",
        "what differs in b was not all measured, so nothing is proven of it",
    ]
