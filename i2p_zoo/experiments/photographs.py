"""Real photographs that installed packages carry, and ImageNet's class names, for showing that nothing was lost."""

from __future__ import annotations

from typing import Any

import torch
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from torch import Tensor, nn

from i2p_zoo._extras import require

PHOTOGRAPHS = ("coffee", "camera", "chelsea", "flower")


def load_photographs() -> dict[str, Any]:
    """Returns scikit-image's coffee, camera and chelsea and scikit-learn's flower.jpg as PIL RGB images, by name.

    Raises:
        MissingExtraError: the extra "demo" is not installed.
    """
    skimage = require("skimage.data", extra="demo")
    sklearn = require("sklearn.datasets", extra="demo")
    pillow = require("PIL.Image", extra="demo")
    arrays = {name: getattr(skimage, name)() for name in PHOTOGRAPHS[:3]}
    arrays["flower"] = sklearn.load_sample_image("flower.jpg")
    return {name: pillow.fromarray(array).convert("RGB") for name, array in arrays.items()}


def preprocess(images: list[Any], model: nn.Module) -> Tensor:
    """Resizes, crops and normalises PIL images as timm does for a model: (B, 3, H, W) float32."""
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    return torch.stack([transform(image) for image in images])


def top_classes(logits: Tensor, count: int = 5) -> list[list[tuple[str, float]]]:
    """Returns for each row of (B, 1000) logits the likeliest ImageNet classes and their probabilities."""
    names = ImageNetInfo("imagenet-1k")
    values, indices = logits.softmax(1).topk(count)
    return [
        [(names.index_to_description(int(i)).split(",")[0], float(v)) for v, i in zip(row, index, strict=True)]
        for row, index in zip(values, indices, strict=True)
    ]
