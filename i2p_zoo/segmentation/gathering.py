"""The points of all processes in each, for losses that are no means over points or of crops."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.nn import functional as F

from i2p_zoo.sparse.batch_norm import is_synchronized


def gather_rows(rows: Tensor) -> Tensor:
    """Returns the rows (N, ...) of all processes that train together, one process after the other; of a single one its own.

    The loss of all rows is then the same in every process, and so is the mean of these losses, as whose gradient a process
    gets that of its own rows, times the number of processes: gradients of the weights are averaged over them.
    """
    result: Tensor = _GatherRows.apply(rows) if is_synchronized() else rows
    return result


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        processes = torch.distributed.get_world_size()
        counts = torch.zeros(processes, dtype=torch.int64, device=rows.device)
        counts[torch.distributed.get_rank()] = len(rows)
        torch.distributed.all_reduce(counts)
        lengths = counts.tolist()
        padded = F.pad(rows.detach(), (0, 0) * (rows.ndim - 1) + (0, max(lengths) - len(rows)))
        everyones = [torch.empty_like(padded) for _ in lengths]
        torch.distributed.all_gather(everyones, padded.contiguous())
        ctx.lengths = lengths
        return torch.cat([part[:length] for part, length in zip(everyones, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        mine: Tensor = gradient.split(ctx.lengths)[torch.distributed.get_rank()]
        return mine * len(ctx.lengths)
