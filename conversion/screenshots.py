"""The app in a real browser: Chromium, which is installed beside the package, driven by playwright."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from conversion.docs_pictures import IMAGES
from i2p_zoo import data
from i2p_zoo._extras import require
from i2p_zoo.errors import NotFoundError
from i2p_zoo.staging import replacing

WAIT = 120_000  # milliseconds for a step of a page: a machine without a GPU draws in software
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_DROP = """([zone, name, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    for (const kind of ["dragenter", "dragover", "drop"]) {
        zone.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
    }
}"""


def find_chromium() -> str | None:
    """Returns the path of an installed Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Gives playwright's browser; raises NotFoundError where no Chromium is installed."""
    program = find_chromium()
    if program is None:
        raise NotFoundError(f"None of {', '.join(_PROGRAMS)} is installed; Debian's package is `chromium`.")
    with require("playwright.sync_api", extra="dev").sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments, timeout=WAIT)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def serve(*command: str) -> Iterator[str]:
    """Runs Python with arguments that serve the app, such as `-m i2p_zoo app`; gives the address, and ends it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, *command]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as server:  # noqa: S603
        try:
            line = next((line for line in server.stdout or () if "http://" in line), None)
            if line is None:
                raise NotFoundError(f"{' '.join(command)} ended before it served anything.")
            yield "http://" + line.split("http://")[1].split()[0]
        finally:
            server.terminate()


def drop_file(page: Any, zone: str, path: Path) -> None:
    """Drops a file onto an element, as a hand does."""
    element = page.wait_for_selector(zone, timeout=WAIT)
    content = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(_DROP, [element, path.name, content])


def draw_screenshot(model: str, path: Path = IMAGES / "app.png", cloud: int = 9) -> None:
    """Writes a picture of the app with a cloud of kicad-mini's test split dropped into it.

    Args:
        model: a folder of a network that was trained on kicad-mini, as `make demo` writes it.
        path: of the PNG, of 128 colours, which is a fourth of the size and looks the same.
        cloud: the number of the cloud.
    """
    _, test_set = data.load_data("kicad-mini")
    with tempfile.TemporaryDirectory() as folder, serve("-m", "i2p_zoo", "app", model) as address, open_browser() as browser:
        file = Path(folder) / "part.npy"
        np.save(file, test_set.points[cloud])
        page = browser.new_page(viewport={"width": 1200, "height": 820})
        page.goto(address, timeout=WAIT)
        drop_file(page, "#cloud-file button", file)
        page.wait_for_selector("#cloud-classes .bartext", timeout=WAIT)
        choose_stage(page, "#cloud-figure", "stride 1")
        page.wait_for_timeout(1000)  # the last frame
        shot = page.screenshot(timeout=WAIT)
    image = require("PIL.Image", extra="demo").open(io.BytesIO(shot)).convert("RGB").quantize(128)
    with replacing(path) as temporary:
        image.save(temporary, format="png", optimize=True)


def choose_stage(page: Any, figure: str, label: str) -> str:
    """Moves the slider of a figure to the mark of a stride; returns the figure's title then."""
    place = page.locator(f"{figure} .slider-label", has_text=label).bounding_box(timeout=WAIT)
    rail = page.locator(f"{figure} .slider-rail-touch-rect").bounding_box(timeout=WAIT)
    page.mouse.click(place["x"] + place["width"] / 2, rail["y"] + rail["height"] / 2)
    title = page.locator(f"{figure} .gtitle", has_text=label)
    return str(title.text_content(timeout=WAIT))
