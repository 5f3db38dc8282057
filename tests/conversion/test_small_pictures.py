"""Pictures made small: what they show stays."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from conversion.small_pictures import shrink_png
from i2p_zoo.pictures import make_figure


def png_of(pixels):
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, format="png")
    return whole.getvalue()


def pixels_of(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), int)


def draw_points():
    figure, axes = make_figure(1, 1, (4, 3))
    random = np.random.default_rng(0)
    axes[0, 0].scatter(*random.random((2, 3000)), c=random.random(3000), s=4)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def draw_slope():
    """Which compresses better as it is."""
    y, x = np.mgrid[:200, :256]
    return png_of(np.stack([x, y, x], 2).astype(np.uint8))


@pytest.mark.parametrize(("draw", "share"), [(draw_points, 0.5), (draw_slope, 1.0)])
def test_small_picture_shows_the_same_and_is_not_made_smaller_again(draw, share):
    picture = draw()
    small = shrink_png(picture)
    assert len(small) <= share * len(picture)
    assert np.abs(pixels_of(small) - pixels_of(picture)).mean() < 5
    assert shrink_png(small) == small
