"""The notebooks of the site: run from a clean kernel, and kept with what their cells gave and nothing of the machine."""

from __future__ import annotations

import base64
import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from conversion.small_pictures import shrink_png
from i2p_zoo.staging import replacing

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_NOWHERE = "http://127.0.0.1:9"  # where no proxy listens


def list_notebooks() -> list[Path]:
    """Returns the notebooks, sorted by name."""
    return sorted(FOLDER.glob("*.ipynb"))


def run_notebook(path: Path, folder: Path, timeout: int = 600) -> Any:
    """Runs a notebook's cells in a folder, from a clean kernel of this Python, with no network and no cache.

    Args:
        path: of the notebook, which stays as it is.
        folder: in which the kernel runs.
        timeout: seconds for a cell.

    Returns:
        The notebook with what its cells gave, as `tidy` leaves it.

    Raises:
        CellExecutionError, CellTimeoutError: a cell raises or takes longer.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=resources, record_timing=False, coalesce_streams=True
    )
    with tempfile.TemporaryDirectory() as home:
        client.execute(env=_make_environment(home))
    return tidy(notebook)


def _make_environment(home: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # the kernel has its own
    environment |= {"HF_HUB_OFFLINE": "1", "I2P_ZOO_CACHE": home, "IPYTHONDIR": home}
    environment |= dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"), _NOWHERE)
    environment |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return environment


def tidy(notebook: Any) -> Any:
    """Takes away metadata and the words beside pictures, and makes pictures small; returns the same notebook."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", ()):
                picture = shrink_png(base64.b64decode(output["data"]["image/png"]))
                output["data"] = {"image/png": base64.b64encode(picture).decode()}
            if "metadata" in output:
                output["metadata"] = {}
    return notebook


def write_notebooks(paths: list[Path], folder: Path) -> None:
    """Runs notebooks, each in a sub-folder of its own, and puts them in place of those that there were.

    Raises:
        CellExecutionError, CellTimeoutError: as `run_notebook`; that notebook stays as it was.
    """
    for path in paths:
        place = folder / path.stem
        place.mkdir(parents=True)
        notebook = run_notebook(path, place)
        nbformat.validate(notebook)
        with replacing(path) as temporary:
            nbformat.write(notebook, temporary)
