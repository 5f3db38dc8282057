"""Pictures of the repository, made small."""

from __future__ import annotations

import io

from i2p_zoo._extras import require


def shrink_png(content: bytes) -> bytes:
    """Returns a PNG in 128 colours, which mostly is a third of the size and looks the same, or as it is where that is smaller.

    Raises:
        MissingExtraError: pillow is not installed.
    """
    with require("PIL.Image", extra="demo").open(io.BytesIO(content)) as image:
        if image.mode == "P":
            return content
        small = io.BytesIO()
        image.convert("RGB").quantize(128).save(small, format="png", optimize=True)
    return min(content, small.getvalue(), key=len)
