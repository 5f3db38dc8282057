"""The app's functions, from a file to figures, and its page, without a browser and without a server."""

from __future__ import annotations

import html
import shutil
import sys

import numpy as np
import pytest
import timm
from PIL import Image

import i2p_zoo
from i2p_zoo import InvalidInputError, MissingExtraError, NotFoundError
from i2p_zoo.data import read_cloud
from i2p_zoo.viewing.app import build_app, find_examples, show_cloud, show_image
from i2p_zoo.viewing.image_views import ImageNetworks

pytest.importorskip("gradio")


def test_a_file_becomes_a_text_a_cloud_and_bars(classifier, tmp_path):
    np.save(tmp_path / "part.npy", np.random.default_rng(0).random((100, 3)))
    text, cloud, bars = show_cloud(str(tmp_path / "part.npy"), "", model=classifier)
    assert text.startswith("<p>part.npy: 100 points, ")
    assert "&lt;b&gt;table&lt;/b&gt;" in text
    assert [step.label for step in cloud.layout.sliders[0].steps][:3] == ["points", "stride 1", "stride 2"]
    assert sum(bars.data[0].x) == pytest.approx(100, abs=1e-3)
    text, cloud, bars = show_cloud(str(tmp_path / "part.npy"))
    assert "%" not in text
    assert bars is None
    assert show_cloud(None, None, model=classifier) == ("", None, None)


def test_a_scene_is_shown_in_the_colors_of_its_classes(unet, tmp_path):
    np.savetxt(tmp_path / "scan.xyz", np.random.default_rng(0).random((300, 3)) * 5)
    text, cloud, bars = show_cloud(str(tmp_path / "scan.xyz"), None, model=unet, extent=3.0)
    assert "scan.xyz: 300 points" in text
    assert cloud.layout.sliders[0].active == 1
    assert {trace.name for trace in cloud.data if trace.name} == set(bars.layout.yaxis.ticktext)
    assert bars.layout.title.text == "shares of the points"


@pytest.mark.parametrize("name", ["broken.ply", "notes.docx", "empty.off", "word.csv"])
def test_a_bad_file_shows_what_the_reader_says_without_the_pages_folder(name, tmp_path, classifier):
    path = tmp_path / name
    path.write_bytes(b"" if name == "empty.off" else b"<ply & nothing>")
    with pytest.raises(InvalidInputError) as caught:
        read_cloud(path)
    text, cloud, bars = show_cloud(str(path), "", model=classifier)
    assert 'class="refused"' in text
    assert str(tmp_path) not in text
    assert html.escape(str(caught.value).replace(str(path), name)) in text
    assert (cloud, bars) == (None, None)


def test_columns_are_the_readers(tmp_path):
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).random((20, 5)).astype(np.float32))
    assert "refused" in show_cloud(str(tmp_path / "cloud.npy"), "x,y")[0]
    assert "20 points" in show_cloud(str(tmp_path / "cloud.npy"), " x,y,z,a,b ")[0]


def test_an_image_shows_both_networks_side_by_side():
    flat = timm.create_model("test_resnet").eval()
    networks = ImageNetworks("test_resnet", flat, i2p_zoo.inflate(flat).eval())
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    text, plane, left, right = show_image(image, load=lambda: networks)
    assert "holds." in text
    assert left.layout.yaxis.ticktext == right.layout.yaxis.ticktext
    assert list(left.data[0].x) == pytest.approx(list(right.data[0].x), rel=1e-3)
    assert "2D" in left.layout.title.text
    assert plane.data[1].type == "mesh3d"
    assert show_image(None, load=lambda: networks) == ("", None, None, None)


def test_networks_that_are_not_to_be_had_are_told():
    def load():
        raise NotFoundError("no weights <anywhere>")

    text, *figures = show_image(Image.new("RGB", (8, 8)), load=load)
    assert "no weights &lt;anywhere&gt;" in text
    assert figures == [None] * 3


def test_the_page_has_what_its_network_gives(built):
    _, pages = built
    texts = {name: str([component["props"].get("value") for component in page["components"]]) for name, page in pages.items()}
    assert "gives a cloud one of 3 classes: chair, &lt;b&gt;table&lt;/b&gt; and sofa" in texts["classifier"]
    assert "gives each point one of 2 classes: ground and tree" in texts["unet"]
    assert "with their voxels and no classes" in texts["none"]
    page = pages["classifier"]
    assert {"file", "image", "plot", "html", "dataset"} <= {component["type"] for component in page["components"]}
    assert "chair.off" in str(page["components"])
    assert page["title"] == "i2p-zoo"
    assert page["analytics_enabled"] is False


def test_examples_are_a_folders_files_or_shapes(tmp_path):
    shapes = find_examples(tmp_path, None)
    assert [path.name for path in shapes] == ["table.off", "chair.off", "stairs.off"]
    for path in shapes:
        points = read_cloud(path)["points"]
        assert len(points) == 2048
        assert np.ptp(points, axis=0).min() >= 0.75
    (tmp_path / "mine").mkdir()
    with pytest.raises(InvalidInputError, match="mine has no file"):
        find_examples(tmp_path, tmp_path / "mine")
    with pytest.raises(InvalidInputError, match="is no folder"):
        find_examples(tmp_path, shapes[0])
    (tmp_path / "mine" / "readme.md").write_text("not a cloud")
    shutil.copy(shapes[0], tmp_path / "mine" / "b.off")
    shutil.copy(shapes[0], tmp_path / "mine" / "a.off")
    assert [path.name for path in find_examples(tmp_path, tmp_path / "mine")] == ["a.off", "b.off"]


def test_what_the_page_lacks_is_told_before_it_is_built(classifier, monkeypatch):
    with pytest.raises(InvalidInputError, match="U-Net"):
        build_app(classifier, extent=3.0)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r"i2p-zoo\[app\]"):
        build_app()
