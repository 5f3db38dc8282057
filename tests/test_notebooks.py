"""The notebooks of the site: kept as a run from a clean kernel leaves them, and such a run goes through."""

from __future__ import annotations

import base64
import io
import json
import re

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image

import i2p_zoo
from conversion.notebook_pages import link_pages, render_notebook
from conversion.notebooks import FOLDER, METADATA, list_notebooks, run_notebook, tidy, write_notebooks

NOTEBOOKS = list_notebooks()
LARGEST = 1_000_000  # bytes of a notebook with its pictures
MACHINE = re.compile(r"/(?:root|home|tmp|Users|opt|work)/|[A-Z]:\\|site-packages|ipykernel_\d+| at 0x[0-9a-f]+")


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def texts_of(notebook):
    for output in outputs_of(notebook):
        yield from [output["text"]] if "text" in output else []
        yield from (text for kind, text in output.get("data", {}).items() if not kind.startswith("image/"))


def pictures_of(notebook):
    return [output["data"]["image/png"] for output in outputs_of(notebook) if "image/png" in output.get("data", {})]


def complaints(notebook):
    """What a reader would be puzzled by: errors, and all that cells wrote to stderr."""
    return [output for output in outputs_of(notebook) if output.output_type == "error" or output.get("name") == "stderr"]


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["convert-and-certify", "finetune-on-your-meshes", "segment-a-scene"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_as_a_clean_run_leaves_it(path):
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert complaints(notebook) == []
    assert notebook.metadata == METADATA
    assert not any(cell.metadata for cell in notebook.cells)
    assert not [text for text in texts_of(notebook) if MACHINE.search(text)]
    assert notebook.cells[0].source.startswith("# ")
    assert len(pictures_of(notebook)) >= 3
    for picture in pictures_of(notebook):
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(2**24)) > 10, "no empty axes"


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_a_clean_kernel(path, tmp_path):
    notebook = run_notebook(path, tmp_path)
    kept = nbformat.read(path, as_version=4)
    assert complaints(notebook) == []
    assert len(pictures_of(notebook)) == len(pictures_of(kept))
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in kept.cells]
    assert list(tmp_path.rglob("model.safetensors")), "it leaves a network"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_page_of_a_notebook_has_its_cells_and_pictures(path):
    notebook = nbformat.read(path, as_version=4)
    page, pictures = render_notebook(path)
    assert f"\n---\n{notebook.cells[0].source.splitlines()[0]}\n" in page
    assert f'({path.name} "{path.name}")' in link_pages(page), "it can be downloaded"
    for cell in notebook.cells:
        assert cell.source.splitlines()[-1] in page
    assert sorted(pictures) == sorted(re.findall(r"!\[[^]]+\]\((\S+)\)", page))
    assert list(pictures.values()) == [base64.b64decode(text) for text in pictures_of(notebook)]
    for target in set(re.findall(r"\]\((?!https?:)([^)\s#]+)", page)) - set(pictures):
        assert (FOLDER / target).is_file(), target


def make_notebook(path, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata["authors"] = [{"name": "somebody"}]
    notebook.cells[0].metadata["collapsed"] = True
    nbformat.write(notebook, path)
    return path


def test_notebook_runs_alone_and_nothing_of_the_machine_is_kept(tmp_path, monkeypatch):
    """In a folder of its own, with no network by any way that the environment tells, and pictures within the notebook."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    path = make_notebook(
        tmp_path / "a.ipynb",
        "import os\nfrom pathlib import Path\nprint(Path.cwd().name)\nprint(os.environ['HF_HUB_OFFLINE'])",
        "import urllib.request as web\ntry:\n    web.urlopen('http://a.example')\nexcept OSError as error:\n    print(error)",
        "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()",
        "import i2p_zoo\nPath('kept.txt').write_text(i2p_zoo.__version__)",
    )
    write_notebooks([path], tmp_path / "run")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"] == METADATA
    assert [cell["metadata"] for cell in notebook["cells"]] == [{}] * 4
    assert [cell["execution_count"] for cell in notebook["cells"]] == [1, 2, 3, 4]
    first, second, third, fourth = (cell["outputs"] for cell in notebook["cells"])
    assert first == [{"name": "stdout", "output_type": "stream", "text": ["a\n", "1\n"]}]
    assert "Connection refused" in second[0]["text"][0]
    assert [(list(output["data"]), output["metadata"]) for output in third] == [(["image/png"], {})]
    assert fourth[0]["data"] == {"text/plain": [str(len(i2p_zoo.__version__))]}
    assert (tmp_path / "run" / "a" / "kept.txt").read_text() == i2p_zoo.__version__


def test_notebook_that_fails_stays_as_it_was(tmp_path):
    path = make_notebook(tmp_path / "a.ipynb", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        write_notebooks([path], tmp_path / "run")
    assert path.read_bytes() == before


def test_tidy_notebook_stays_as_it_is():
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        assert tidy(nbformat.read(path, as_version=4)) == notebook
