"""The rule of inflation for one weight: a 2D kernel gets a third axis by center, average or copy."""

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
    if inflation == "center":
        return [float(plane == (length - 1) // 2) for plane in range(length)]
    return [1 / length if inflation == "average" else 1.0] * length


def inflate_weight(weight: Tensor, inflation: str, axis: str = "z", depth: int | None = None) -> Tensor:
    """Inflates one 2D convolution weight.

    Args:
        weight: (C_out, C_in / groups, ky, kx).
        inflation, axis, depth: as `inflate`; `depth` is the exact length along the new axis, by default max(ky, kx).

    Returns:
        (C_out, kz, ky, kx, C_in / groups), same dtype and device. Its sum over the new axis is the 2D kernel ("center",
        "average"), or `depth` times it ("copy").

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
    plane = weight.permute(0, 2, 3, 1).unsqueeze(dim)
    if inflation == "center":
        shape = list(plane.shape)
        shape[dim] = length
        out = plane.new_zeros(shape)
        out.narrow(dim, (length - 1) // 2, 1).copy_(plane)
        return out
    repeats = [1] * 5
    repeats[dim] = length
    return (plane / length if inflation == "average" else plane).repeat(repeats).contiguous()


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
    middle = (length - 1) // 2
    plane = weight.select(dim, middle)
    flat = plane * length if inflation == "average" else plane
    full = _bits(flat / length if inflation == "average" else plane)
    for position in range(length):
        bits = _bits(weight.select(dim, position))
        if inflation == "center" and position != middle:
            if bits.numel() and any(torch.aminmax(bits)):
                return None
        elif not torch.equal(bits, full):
            return None
    return flat.permute(0, 3, 1, 2)


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
