"""What a release rests on: its check of versions, the recipe for conda, and the files that tools read."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path

import pytest
import yaml

import i2p_zoo
from conversion.recipes import read_toml

ROOT = Path(__file__).parents[1]
PROJECT = read_toml(ROOT / "pyproject.toml")["project"]
RELEASE = runpy.run_path(str(ROOT / ".ci" / "release.py"))
FILES = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "i2p_zoo/_version.py")
CONDA_NAMES = {"torch": "pytorch", "huggingface-hub": "huggingface_hub"}
URL = "https://github.com/someone/i2p-zoo"


@pytest.fixture
def checkout(tmp_path):
    """The files of a release, ready: their section of the changelog has no word of being unreleased, and the URL is there."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    change(tmp_path / "CHANGELOG.md", " (unreleased)", "")
    change(tmp_path / "pyproject.toml", "[project.urls]\n", f'[project.urls]\nRepository = "{URL}"\n')
    return tmp_path


def change(path, before, after):
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(before, after), encoding="utf-8")


def test_release_that_is_ready_has_no_contradictions(checkout):
    assert RELEASE["find_contradictions"](checkout, f"v{i2p_zoo.__version__}", URL) == []


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("i2p_zoo/_version.py", i2p_zoo.__version__, "9.9.9", "the tag is"),
        ("CITATION.cff", f"version: {i2p_zoo.__version__}", "version: 9.9.9", "CITATION.cff"),
        ("CHANGELOG.md", f"## {i2p_zoo.__version__}", f"## {i2p_zoo.__version__} (unreleased)", "CHANGELOG.md"),
        ("pyproject.toml", URL, "https://github.com/another/i2p-zoo", "Repository"),
    ],
)
def test_release_that_contradicts_itself_is_told(checkout, name, before, after, message):
    change(checkout / name, before, after)
    wrong = RELEASE["find_contradictions"](checkout, f"v{i2p_zoo.__version__}", URL)
    assert any(message in line for line in wrong)


def test_each_extra_for_users_is_tried():
    extras = set(PROJECT["optional-dependencies"]) - {"dev", "docs"}
    assert set(RELEASE["EXTRAS"]) == {"", *extras}
    smoke = (ROOT / ".ci" / "smoke.py").read_text(encoding="utf-8")
    assert all(f"def smoke_{extra}(" in smoke for extra in extras)


def test_tools_of_the_tests_are_those_of_dev():
    tools = set(read_toml(ROOT / "pyproject.toml")["dependency-groups"]["tests"])
    assert tools <= set(PROJECT["optional-dependencies"]["dev"])


def test_recipe_for_conda_has_the_packages_dependencies():
    text = (ROOT / ".ci" / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert recipe["context"]["version"] == i2p_zoo.__version__
    assert PROJECT["requires-python"] == f">={recipe['context']['python_min']}"
    expected = set()
    for line in PROJECT["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(>=[\d.]+)", line).groups()
        expected.add(f"{CONDA_NAMES.get(name, name)} {bound}")
    assert set(recipe["requirements"]["run"]) == {"python >=${{ python_min }}", *expected}


def test_citation_names_the_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (i2p_zoo.__version__, PROJECT["license"])
    assert {"type": "other", "value": "arXiv:2106.04180"} in citation["preferred-citation"]["identifiers"]


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/**/*.yml")), ids=lambda path: path.name)
def test_files_of_github_are_yaml(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_workflows_give_no_rights_that_they_do_not_need():
    for path in ROOT.glob(".github/workflows/*.yml"):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {"contents": "read"}, path
        rights = {right for job in workflow["jobs"].values() for right in job.get("permissions", {})}
        assert rights <= {"id-token", "pages"}
        assert all("timeout-minutes" in job for job in workflow["jobs"].values())
