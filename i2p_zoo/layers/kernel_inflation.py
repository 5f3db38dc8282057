"""The rule of inflation for one weight: a 2D kernel gets a third axis by center, triangle, average or copy."""

from __future__ import annotations

import torch
from torch import Tensor

from i2p_zoo.choices import INFLATIONS
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.sparse.geometry import check_axis


def check_inflation(inflation: str) -> None:
    """Raises InvalidInputError for an unknown inflation mode."""
    if inflation not in INFLATIONS:
        raise InvalidInputError(f"`inflation` must be one of {', '.join(INFLATIONS)}; got {inflation!r}.")


def check_depth(depth: int | None) -> None:
    """Raises InvalidInputError unless `depth` is None or a positive integer."""
    if depth is not None and (not isinstance(depth, int) or isinstance(depth, bool) or depth < 1):
        raise InvalidInputError(f"`depth` must be a positive integer or None; got {depth!r}.")


def plane_shares(inflation: str, length: int) -> list[float]:
    """Returns how many times the 2D kernel stands in each of `length` planes along the new axis."""
    divisor, numerators = _plane_fractions(inflation, length)
    return [numerator / max(numerators) / divisor for numerator in numerators]


def _plane_fractions(inflation: str, length: int) -> tuple[int, list[int]]:
    """Returns what the 2D kernel is divided by, and how large the planes are beside the middle one, which has the most."""
    if inflation == "center":
        return 1, [int(plane == (length - 1) // 2) for plane in range(length)]
    if inflation == "triangle":
        return length // 2 + 1, [min(plane + 1, length - plane) for plane in range(length)]
    return length if inflation == "average" else 1, [1] * length


def inflate_weight(weight: Tensor, inflation: str, axis: str = "z", depth: int | None = None) -> Tensor:
    """Inflates one 2D convolution weight.

    Args:
        weight: (C_out, C_in / groups, ky, kx).
        inflation, axis, depth: as `inflate`; `depth` is the exact length along the new axis, by default max(ky, kx).

    Returns:
        (C_out, kz, ky, kx, C_in / groups), same dtype and device. Its sum over the new axis is the 2D kernel ("center",
        "triangle", "average"), or `depth` times it ("copy").

    Example:
        >>> import torch
        >>> w = torch.ones(8, 4, 3, 3)
        >>> inflate_weight(w, "average").shape, inflate_weight(w, "copy").sum(1)[0, 0, 0, 0].item()
        (torch.Size([8, 3, 3, 3, 4]), 3.0)
    """
    check_inflation(inflation)
    check_depth(depth)
    dim = 1 + check_axis(axis)
    length = max(weight.shape[2:]) if depth is None else depth
    plane = weight.permute(0, 2, 3, 1)
    divisor, numerators = _plane_fractions(inflation, length)
    middle = plane if divisor == 1 else plane / divisor
    return torch.stack([_scale(middle, numerator, max(numerators)) for numerator in numerators], dim)


def deflate_weight(weight: Tensor, inflation: str, axis: str = "z") -> Tensor | None:
    """Undoes `inflate_weight`.

    Args:
        weight: (C_out, kz, ky, kx, C_in / groups).
        inflation, axis: as `inflate_weight`.

    Returns:
        The (C_out, C_in / groups, ky, kx) kernel that inflates to `weight` bit for bit, or None where there is none.
    """
    dim = 1 + check_axis(axis)
    length = weight.shape[dim]
    divisor, numerators = _plane_fractions(inflation, length)
    middle = weight.select(dim, (length - 1) // 2)
    flat = middle if divisor == 1 else middle * divisor
    if divisor != 1 and not has_same_bits(flat / divisor, middle):
        return None
    scaled = {numerator: _bits(_scale(middle, numerator, max(numerators))) for numerator in set(numerators)}
    if not all(torch.equal(_bits(weight.select(dim, place)), scaled[number]) for place, number in enumerate(numerators)):
        return None
    return flat.permute(0, 3, 1, 2)


def _scale(plane: Tensor, numerator: int, denominator: int) -> Tensor:
    """A plane times a fraction; of 0 and of 1 bit for bit, whatever stands in it."""
    if numerator == denominator:
        return plane
    return plane * numerator / denominator if numerator else torch.zeros_like(plane)


def has_same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors agree in shape, dtype and every bit; unlike `torch.equal` it tells zeros of other signs."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(_bits(first), _bits(second))


def differing_bits(first: Tensor, second: Tensor) -> Tensor:
    """Returns a mask of the elements that differ in a bit; both of one shape and dtype."""
    return _bits(first) != _bits(second)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
