"""What depends on voxels far away, found in networks of which it is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from i2p_zoo import create_model, image_to_plane, inflate
from i2p_zoo.networks.locality import find_global_layer
from tests.helpers import random_cloud, seeded


class Rows(nn.Module):
    """Attention along each row of an image, or within windows of 4 x 4."""

    def __init__(self, in_windows: bool) -> None:
        super().__init__()
        self.in_windows = in_windows
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        batch, height, width, channels = x.shape
        if self.in_windows:
            x = x.reshape(batch, height // 4, 4, width // 4, 4, channels).transpose(2, 3).reshape(-1, 16, channels)
        else:
            x = x.reshape(batch * height, width, channels)
        y = self.norm(x)
        x = x + 1e-8 * nn.functional.scaled_dot_product_attention(y, y, y)  # as small as a new layer's scale makes it
        if self.in_windows:
            x = x.reshape(batch, height // 4, width // 4, 4, 4, channels).transpose(2, 3)
        return x.reshape(batch, height, width, channels)


class Network(nn.Module):
    """Convolutions and something between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.embed, self.between = nn.Conv2d(3, 8, 2, 2), between

    def forward_features(self, x):
        return self.between(self.embed(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, x):
        return self.forward_features(x).mean((2, 3))


class Gate(nn.Module):
    """Scales by the mean of all places."""

    def forward(self, x):
        return x * x.mean((1, 2), keepdim=True).sigmoid()


class Placed(nn.Module):
    """Adds a table of places."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 8, 8, 8, generator=seeded()))

    def forward(self, x):
        return x + self.table


NETWORKS = {
    "windows": (Rows(in_windows=True), None),
    "rows": (Rows(in_windows=False), "between"),
    "a mean": (Gate(), "between"),
    "a table": (Placed(), "between"),
    "nothing": (nn.Identity(), None),
}


@pytest.mark.parametrize(("between", "layer"), NETWORKS.values(), ids=NETWORKS.keys())
def test_the_layer_that_looks_far_is_found(between, layer):
    model = inflate(Network(between).double(), canvas=(16, 16)).eval()
    assert find_global_layer(model, model.prepare(random_cloud(3))) == layer


def test_looking_leaves_no_trace():
    model = create_model(
        "swin_tiny_patch4_window7_224", num_classes=5, img_size=56, embed_dim=8, depths=(2, 2), num_heads=(2, 2)
    ).train()
    calls = []
    for module in model.modules():
        module.register_forward_hook(lambda *_: calls.append(1))
    x = model.prepare(image_to_plane(torch.rand(1, 3, 56, 56, generator=seeded())))
    before, hooks = torch.get_rng_state(), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert find_global_layer(model, x) is None
    assert not calls
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
