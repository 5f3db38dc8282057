"""A certificate in words: how far the outputs are apart, and what was seen of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NAMES_SHOWN = 3


def describe_certificate(certificate: Mapping[str, Any] | None, inflation: str) -> str:
    """Returns a certificate of a checkpoint or of the ledger as a line.

    Args:
        certificate: as `Certificate.to_dict` with what `note_certified` notes, as `certificate_of`, of an older package, or
            None.
        inflation: of the network that it stands with.
    """
    if not certificate:
        return "not measured"
    if "errors" not in certificate:
        return f"refused: {certificate['refused']}" if "refused" in certificate else f"failed: {certificate['error']}"
    figures = _figures(certificate["errors"]) + (" with live random weights" if certificate.get("weights") == "random" else "")
    measured = certificate.get("inflation", inflation)
    if measured != inflation:
        figures += f" (its {measured}-inflated twin)"
    if certificate.get("cut"):
        figures += " (of the same network with two blocks a stage)"
    if certificate.get("finetuned"):
        figures += " (of the network it was finetuned from)"
    return "; ".join([figures, *describe_coverage(certificate)])


def describe_coverage(certificate: Mapping[str, Any]) -> list[str]:
    """Returns what a certificate saw as clauses, in the order of what it proves; none of what it does not note.

    Args:
        certificate: as for `describe_certificate`.
    """
    clauses = []
    if certificate.get("live_errors"):
        clauses.append(f"{_figures(certificate['live_errors'])} with live random weights")
    mapped, mismatched = certificate.get("mapped", 0), certificate.get("mismatched", ())
    if mapped or mismatched:
        count = f"{mapped} of {mapped + len(mismatched)}" if mismatched else f"all {mapped}"
        clauses.append(f"{count} tensors are their 2D sources' bit for bit{_but(mismatched)}")
    seen, unseen = certificate.get("seen", 0), certificate.get("unseen", ())
    unmeasured = certificate.get("unmeasured")
    if unseen and certificate.get("live_errors") and not unmeasured:
        total, some = seen + len(unseen), f"{len(unseen)} of them with live random weights alone ({_enumerate(unseen)})"
        clauses.append(f"the outputs depend on all {total} of floating point, on {some}")
    elif seen or unseen:
        count = f"{seen} of the {seen + len(unseen)}" if unseen else f"all {seen}"
        clauses.append(f"the outputs depend on {count} of floating point{_but(unseen)}")
    if unmeasured:
        clauses.append(f"no weights measured show {_enumerate(unmeasured)}")
    if unproven := certificate.get("unproven"):
        clauses.append(f"what differs in {_enumerate(unproven)} was not all measured, so nothing is proven of it")
    if changed := certificate.get("changed_modules"):
        clauses.append(f"modules are not the 2D network's: {_enumerate(changed)}")
    return clauses


def _figures(errors: Mapping[str, float | None]) -> str:
    return ", ".join(f"{dtype} {error:.1e}" for dtype, error in errors.items() if error is not None)


def _but(names: Sequence[str]) -> str:
    return f", but not {_enumerate(names)}" if names else ""


def _enumerate(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
