"""Torch's switch for products of float32 matrices on CUDA."""

from __future__ import annotations

import torch


def allows_tf32() -> bool:
    """Whether torch multiplies float32 matrices in TF32 on CUDA, whichever of its two switches said so.

    The new one, `fp32_precision`, tells what the old one said too; `allow_tf32` cannot be read where the new one was used.

    Example:
        >>> allows_tf32()
        False
    """
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9
        return bool(matmul.fp32_precision == "tf32")
    return bool(matmul.allow_tf32)
