"""The model card that stands beside a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData
from torch import Tensor

_TEMPLATE = """---
{metadata}
---

# {architecture}

timm's `{timm_name}` as a sparse 3D network for point clouds, by [Image2Point](https://arxiv.org/abs/2106.04180):
every 2D kernel is inflated to 3D ({inflation}, along {axis}), everything else is copied.

| | |
|---|---|
| parameters | {parameters:,d} |
| classes | {num_classes} |
| stem | {stem}, {in_chans} channels |
| inflation | {inflation}, axis {axis} |
| voxel size | {voxel_size} |
| voxel features | {features} |
| source of the 2D weights | {source} |
| licence of the source | {license} |
| certificate (relative error to the 2D network on images) | {certificate} |

```python
import i2p_zoo

model = i2p_zoo.from_pretrained("{architecture}", num_classes=40)
logits = model([points])  # a list of (N, 3) arrays
```

## Citation

```bibtex
@inproceedings{{xu2022image2point,
  title = {{Image2Point: 3D Point-Cloud Understanding with 2D Image Pretrained Models}},
  author = {{Xu, Chenfeng and Yang, Shijia and Galanti, Tomer and Wu, Bichen and Yue, Xiangyu and Zhai, Bohan and Zhan, Wei
            and Vajda, Peter and Keutzer, Kurt and Tomizuka, Masayoshi}},
  booktitle = {{European Conference on Computer Vision}},
  year = {{2022}}
}}
@misc{{rw2019timm,
  author = {{Ross Wightman}},
  title = {{PyTorch Image Models}},
  year = {{2019}},
  howpublished = {{https://github.com/huggingface/pytorch-image-models}}
}}
```
"""


def write_card(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Returns the text of a card.

    Args:
        config: as `i2p_zoo.checkpoint.describe_model` returns it.
        state: the network's state dict, for the number of parameters.
    """
    i2p, pretrained = config["i2p"], config["pretrained_cfg"]
    settings, source = i2p["settings"], i2p["source"]
    timm_name = ".".join(filter(None, (config["architecture"].removeprefix("i2p-"), pretrained.get("tag"))))
    licence = source.get("license") or pretrained.get("license")
    certificate = i2p["certificate"]
    figures = "not measured"
    if certificate:
        figures = ", ".join(f"{dtype} {error:.1e}" for dtype, error in certificate["errors"].items())
        if certificate.get("inflation", settings["inflation"]) != settings["inflation"]:
            figures += f" (its {certificate['inflation']}-inflated twin)"
    data = ModelCardData(
        library_name="i2p-zoo",
        license=licence,
        base_model=source.get("repo"),
        pipeline_tag="image-classification" if config["num_classes"] else "image-feature-extraction",
        tags=["point-cloud", "3d", "timm", "sparse-convolution"],
    )
    body = _TEMPLATE.format(
        metadata=data.to_yaml(),
        architecture=config["architecture"],
        timm_name=timm_name,
        inflation=settings["inflation"],
        axis=settings["axis"],
        stem=settings["stem"],
        in_chans=i2p["in_chans"],
        num_classes=config["num_classes"],
        voxel_size=settings["voxel_size"],
        features=settings["features"],
        parameters=sum(t.numel() for key, t in state.items() if t.is_floating_point() and "running_" not in key),
        source=_describe_source(source),
        license=licence or "not stated",
        certificate=figures,
    )
    return _mark(body)


def is_edited(text: str) -> bool:
    """Whether a card is not, to the letter, one that `write_card` wrote."""
    return text != _mark(text.rpartition("<!-- Written by i2p-zoo")[0])


def _mark(body: str) -> str:
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    return f"{body}<!-- Written by i2p-zoo, text {digest}. An edited card is never overwritten. -->\n"


def _describe_source(source: Mapping[str, Any]) -> str:
    if not source:
        return "none: random weights"
    name = source.get("repo") or source.get("package") or source.get("file") or "a timm model in hand"
    commit = source.get("commit") or source.get("version")
    return f"{name}{f' at {commit}' if commit else ''}, sha256 {source.get('sha256', 'not known')}"
