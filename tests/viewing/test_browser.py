"""The app and a page in a real Chromium: a file is dropped, its class read; nothing is asked of any other machine."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from conversion import screenshots
from i2p_zoo import InvalidInputError
from i2p_zoo.cli import main
from i2p_zoo.data import load_data, read_cloud
from i2p_zoo.experiments.classification import classify, normalize
from i2p_zoo.experiments.photographs import load_photographs
from i2p_zoo.viewing import view_cloud, write_page
from i2p_zoo.viewing.spaces import write_space

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(screenshots.find_chromium() is None, reason="no Chromium; Debian's package is `chromium`"),
]


@pytest.fixture(scope="module")
def browser():
    with screenshots.open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(classifier, tmp_path_factory):
    """The app as a Space runs it."""
    place = tmp_path_factory.mktemp("space")
    classifier.save_pretrained(place / "network")
    folder = write_space(place / "space", str(place / "network"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        with screenshots.serve("app.py") as address:
            yield address


@pytest.fixture
def page(browser, address):
    """A page of the app that notes what it asks of others, and errors of its code."""
    page = browser.new_page(viewport={"width": 1200, "height": 820})
    page.set_default_timeout(screenshots.WAIT)
    strangers, errors = [], []
    page.on("request", lambda request: strangers.append(request.url) if not request.url.startswith(LOCAL) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    yield page
    assert strangers == []
    assert errors == []
    page.close()


LOCAL = ("http://127.0.0.1", "http://localhost", "data:", "blob:", "file:")


def colors_of(page, figure):
    """How many colours the picture of a cloud in a figure has."""
    canvas = page.locator(f"{figure} .gl-container canvas").first
    image = Image.open(io.BytesIO(canvas.screenshot(timeout=screenshots.WAIT))).convert("RGB")
    return len(image.getcolors(image.width * image.height))


def test_a_dropped_file_is_shown_with_its_classes_and_a_bad_one_with_the_readers_message(page, classifier, tmp_path):
    cloud = load_data("kicad-mini")[1].points[0]
    np.save(tmp_path / "part.npy", cloud)
    classes = classify(classifier, normalize(read_cloud(tmp_path / "part.npy")), 3)
    screenshots.drop_file(page, "#cloud-file button", tmp_path / "part.npy")
    page.wait_for_selector("#cloud-classes .bartext")
    assert page.locator("#cloud-classes .ytick").all_text_contents() == list(classes)
    assert page.locator("#cloud-classes .bartext").all_text_contents() == [f"{100 * share:.1f} %" for share in classes.values()]
    assert f"part.npy: {len(cloud):,} points" in page.text_content("#cloud-status")
    title = screenshots.choose_stage(page, "#cloud-figure", "stride 2")
    assert title.startswith("stride 2: ")
    assert colors_of(page, "#cloud-figure") > 20
    page.reload()
    (tmp_path / "broken.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 3\n")
    screenshots.drop_file(page, "#cloud-file button", tmp_path / "broken.ply")
    message = page.wait_for_selector("#cloud-status .refused").text_content()
    with pytest.raises(InvalidInputError) as caught:
        read_cloud(tmp_path / "broken.ply")
    assert message == str(caught.value).replace(str(tmp_path / "broken.ply"), "broken.ply")
    assert page.locator("#cloud-classes .bartext").count() == 0


def test_an_example_and_an_image(page):
    page.locator("#cloud-file ~ *").get_by_text("chair.off").click()
    page.wait_for_selector("#cloud-classes .bartext")
    assert "chair.off: 2,048 points" in page.text_content("#cloud-status")
    page.get_by_role("tab", name="Image").click()
    picture = io.BytesIO()
    load_photographs()["coffee"].save(picture, "PNG")
    file = {"name": "a.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    page.set_input_files("#image-file input[type=file]", file)
    page.wait_for_selector("#image-3d .bartext")
    assert "holds." in page.text_content("#image-status")
    for part in (".ytick", ".bartext"):
        left, right = (page.locator(f"{plot} {part}").all_text_contents() for plot in ("#image-2d", "#image-3d"))
        assert left == right
    assert len(left) == 5


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_page_is_drawn_without_a_network(browser, classifier, tmp_path, width, scheme):
    write_page(tmp_path / "page.html", view_cloud(load_data("kicad-mini")[1].points[0], classifier))
    context = browser.new_context(viewport={"width": width, "height": 820}, color_scheme=scheme, offline=True)
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith(LOCAL) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri(), timeout=screenshots.WAIT)
    page.wait_for_selector(".gl-container canvas", timeout=screenshots.WAIT)
    assert page.locator(".bartext").count() == 3
    assert colors_of(page, "main") > 20
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (asked, errors) == ([], [])
    context.close()


def test_the_command_serves(classifier, tmp_path, browser):
    classifier.save_pretrained(tmp_path / "network")
    assert CliRunner().invoke(main, ["app", "--help"]).exit_code == 0
    with screenshots.serve("-m", "i2p_zoo", "app", str(tmp_path / "network")) as address:
        page = browser.new_page()
        page.goto(address, timeout=screenshots.WAIT)
        page.wait_for_selector("#cloud-file", timeout=screenshots.WAIT)
        page.close()
