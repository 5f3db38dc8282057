"""The app: files of clouds and images are dropped into a page and looked at there; also what a Hugging Face Space runs."""

from __future__ import annotations

import functools
import html
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from i2p_zoo._extras import require
from i2p_zoo.data.files.cloud_files import SUFFIXES, is_cloud_file
from i2p_zoo.data.files.paths import sort_paths
from i2p_zoo.errors import I2PError, InvalidInputError, MissingExtraError
from i2p_zoo.experiments.classification import name_classes
from i2p_zoo.experiments.photographs import load_photographs
from i2p_zoo.finetune.devices import find_device
from i2p_zoo.networks.unet import UNet
from i2p_zoo.viewing.cloud_views import view_file
from i2p_zoo.viewing.example_shapes import write_shapes
from i2p_zoo.viewing.figures import draw_classes, draw_cloud
from i2p_zoo.viewing.image_views import IMAGE_NETWORK, ImageNetworks, load_image_networks, view_image
from i2p_zoo.wording import count_of, join_words
from i2p_zoo.zoo.pretrained import from_pretrained

Shown = tuple[Any, ...]
"""The text, as HTML, and figures; None for a figure that is not shown."""
LARGEST_FILE = "200mb"
_STYLE = """
.js-plotly-plot svg text { fill: var(--body-text-color) !important; }
.js-plotly-plot .modebar-btn--logo { display: none !important; }
.status p { margin: 0; overflow-wrap: anywhere; }
.status p.refused { border-left: 4px solid var(--error-border-color); background: var(--error-background-fill);
  color: var(--error-text-color); padding: 0.5rem 0.75rem; }
"""


def show_cloud(path: str | None, columns: str | None = None, *, model: Any = None, extent: ArrayLike | None = None) -> Shown:
    """Returns what the page shows of a file: a text, the cloud and the classes; of a bad file what the reader says.

    Args:
        path: of the file as the page keeps it; None for none.
        columns: as `i2p_zoo.data.read_cloud`; empty or None for none.
        model: as `i2p_zoo.viewing.view_cloud`.
        extent: of a U-Net's blocks.
    """
    if path is None:
        return "", None, None
    name = Path(path).name
    try:
        view = view_file(path, model, columns=(columns or "").strip() or None, extent=extent)
    except (I2PError, OSError) as error:
        return _refuse(str(error).replace(str(path), name)), None, None
    bars = draw_classes(view.classes, view.meaning) if view.classes else None
    return _paragraph(f"{name}: {view.summary()}"), draw_cloud(view), bars


def show_image(image: Any, *, load: Callable[[], ImageNetworks]) -> Shown:
    """Returns what the page shows of an image: a text, the image as voxels, and the classes of the 2D and of the 3D network.

    Args:
        image: a PIL image; None for none.
        load: returns the networks.
    """
    if image is None:
        return "", None, None, None
    try:
        networks = load()
    except (I2PError, OSError) as error:
        return _refuse(str(error)), None, None, None
    view = view_image(image, networks)
    bars = (draw_classes(view.flat, f"2D: timm's {networks.name}"), draw_classes(view.solid, "3D: the same on voxels"))
    return _paragraph(view.summary()), draw_cloud(view.plane), *bars


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _refuse(text: str) -> str:
    return f'<p class="refused" role="alert">{html.escape(text)}</p>'


def build_app(
    model: Any = None,
    *,
    image_network: str = IMAGE_NETWORK,
    examples: str | os.PathLike[str] | None = None,
    extent: ArrayLike | None = None,
    device: str = "auto",
) -> Any:
    """Builds the page.

    Args:
        model: a classifier or a U-Net, or what `i2p_zoo.from_pretrained` loads it by; None to show clouds without classes.
        image_network: a zoo name, of ImageNet's 1,000 classes, for images; it is loaded with the first of them.
        examples: a folder of clouds and meshes to try; by default a table, a chair and stairs.
        extent: edge of the blocks in which a U-Net segments; None for whole scenes.
        device: where a model that is given by name runs: "auto", "cpu" or such as "cuda:1".

    Returns:
        A `gradio.Blocks`, which `launch_app` serves.

    Raises:
        MissingExtraError: gradio or plotly is not installed.
        InvalidInputError: a folder without a file that is read, or blocks without a U-Net.
        I2PError: as `i2p_zoo.from_pretrained`.
    """
    gradio = require("gradio", extra="app")
    require("plotly.graph_objects", extra="view")
    if isinstance(model, str | os.PathLike):
        model = from_pretrained(model).to(find_device(device))
    if extent is not None and not isinstance(model, UNet):
        raise InvalidInputError("Blocks are of scenes, which a U-Net segments: leave out the edge of the blocks.")
    with (
        tempfile.TemporaryDirectory() as folder,
        gradio.Blocks(title="i2p-zoo", analytics_enabled=False, fill_width=True) as page,
    ):
        gradio.Markdown("# i2p-zoo\nImage networks of timm on point clouds. " + _describe(model))
        with gradio.Tab("Cloud or mesh"):
            shown = functools.partial(show_cloud, model=model, extent=extent)
            _add_clouds(gradio, shown, find_examples(Path(folder), examples), has_classes=model is not None)
        with gradio.Tab("Image"):
            load = functools.cache(functools.partial(load_image_networks, image_network))
            _add_images(gradio, functools.partial(show_image, load=load), _write_photographs(Path(folder)), image_network)
    return page


def launch_app(page: Any, **options: Any) -> Any:
    """Serves what `build_app` returned; `options` are those of `gradio.Blocks.launch`, and so is what is returned."""
    gradio = require("gradio", extra="app")
    font = ("system-ui", "sans-serif")  # pages fetch nothing from elsewhere
    theme = gradio.themes.Default(primary_hue="indigo", font=font, font_mono=("ui-monospace", "monospace"))
    fixed = {"theme": theme, "css": _STYLE, "max_file_size": LARGEST_FILE, "ssr_mode": False, "footer_links": []}
    return page.launch(**{**fixed, **options})


def find_examples(folder: Path, examples: str | os.PathLike[str] | None) -> list[Path]:
    """Returns the files of a folder that are read, or shapes that it writes where none is given.

    Raises:
        InvalidInputError: there is no such folder, or no file that is read in it.
    """
    if examples is None:
        return write_shapes(folder)
    place = Path(examples)
    if not place.is_dir():
        raise InvalidInputError(f"{place} is no folder; the examples are files in a folder.")
    paths = sort_paths(path for path in place.iterdir() if path.is_file() and is_cloud_file(path))
    if not paths:
        raise InvalidInputError(f"{place} has no file of a cloud or mesh; those that are read end in {', '.join(SUFFIXES)}.")
    return paths


def _describe(model: Any) -> str:
    if model is None:
        return "Without a network clouds are shown with their voxels and no classes."
    verb = "gives each point one of" if isinstance(model, UNet) else "gives a cloud one of"
    names = name_classes(model)
    return f"{model.architecture} {verb} {count_of(len(names), 'class')}: {html.escape(join_words(names, most=12))}."


def _write_photographs(folder: Path) -> list[Path]:
    """Writes the photographs of the extra "demo", where it is installed; returns their paths."""
    try:
        photographs = load_photographs()
    except MissingExtraError:
        return []
    paths = [folder / f"{name}.jpg" for name in photographs]
    for path, image in zip(paths, photographs.values(), strict=True):
        image.save(path)
    return paths


def _add_clouds(gradio: Any, shown: Callable[..., Shown], examples: list[Path], has_classes: bool) -> None:
    with gradio.Row():
        with gradio.Column(scale=2, min_width=260):
            file = gradio.File(label="A cloud or mesh", height=160, elem_id="cloud-file")
            gradio.Examples([[str(path)] for path in examples], [file], label="Or an example", cache_examples=False)
            with gradio.Accordion("Columns of texts, .npy and .bin", open=False):
                columns = gradio.Textbox(label="Their names", placeholder="x,y,z,nx,ny,nz", lines=1)
        with gradio.Column(scale=5, min_width=300):
            text = gradio.HTML(elem_id="cloud-status", elem_classes="status")
            cloud = gradio.Plot(show_label=False, container=False, elem_id="cloud-figure")
        with gradio.Column(scale=2, min_width=260, visible=has_classes):
            bars = gradio.Plot(show_label=False, container=False, elem_id="cloud-classes")
    events = [file.change, columns.submit]
    gradio.on(events, shown, [file, columns], [text, cloud, bars], api_name="show_cloud", show_progress="minimal")


def _add_images(gradio: Any, shown: Callable[..., Shown], examples: list[Path], network: str) -> None:
    gradio.Markdown(
        f"An image is a plane of voxels, on which the inflated {html.escape(network)} must give what the 2D network does."
    )
    with gradio.Row():
        with gradio.Column(scale=2, min_width=260):
            image = gradio.Image(type="pil", label="An image", height=240, elem_id="image-file")
            if examples:
                gradio.Examples([[str(path)] for path in examples], [image], label="Or an example", cache_examples=False)
        with gradio.Column(scale=7, min_width=300):
            text = gradio.HTML(elem_id="image-status", elem_classes="status")
            with gradio.Row():
                flat = gradio.Plot(show_label=False, container=False, min_width=260, elem_id="image-2d")
                solid = gradio.Plot(show_label=False, container=False, min_width=260, elem_id="image-3d")
            plane = gradio.Plot(show_label=False, container=False, elem_id="image-plane")
    image.change(shown, [image], [text, plane, flat, solid], api_name="show_image", show_progress="minimal")
