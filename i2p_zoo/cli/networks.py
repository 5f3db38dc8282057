"""Networks as commands load them."""

from __future__ import annotations

from typing import Any


def load_network(name: str) -> Any:
    """Loads a network onto the GPU, where there is one; raises as `i2p_zoo.from_pretrained`."""
    import torch

    from i2p_zoo import from_pretrained

    return from_pretrained(name).to("cuda" if torch.cuda.is_available() else "cpu")
