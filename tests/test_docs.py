"""README and docs: every block of Python runs, every command is one, every public name has its place, every link a target."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import huggingface_hub.constants
import pytest

import i2p_zoo
from conversion.__main__ import main as workshop
from conversion.reference import documented_names, public_names, undocumented_names
from i2p_zoo import data, errors
from i2p_zoo.cli import main
from i2p_zoo.zoo.ledger import certified_models, load_ledger

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
PYTHON = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^ *```bash\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)")
# Pages with a test of their own, which makes the files that they need.
TESTED_ELSEWHERE = {path.name for path in ROOT.joinpath("tests").rglob("test_*_page.py")}
WITH_PYTHON = [
    name
    for name, text in PAGES.items()
    if PYTHON.search(text) and f"test_{Path(name).stem}_page.py" not in TESTED_ELSEWHERE and name != "CONTRIBUTING.md"
]


def write_box(path, height):
    """A closed mesh in OFF."""
    corners = "".join(f"{x} {y} {z}\n" for z in (0, height) for x in (0, 1) for y in (0, 1))
    path.write_text("OFF\n8 6 0\n" + corners + "4 0 1 3 2\n4 4 5 7 6\n4 0 1 5 4\n4 2 3 7 6\n4 0 2 6 4\n4 1 3 7 5\n")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The cache of converted networks, which the pages share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def desk(tmp_path, monkeypatch, cache):
    """A folder with the files that pages speak of, and no network."""
    for name, height in (("box", 1.0), ("plate", 0.1)):
        for split, count in (("train", 2), ("test", 1)):
            folder = tmp_path / "my_objects" / name / split
            folder.mkdir(parents=True)
            for number in range(count):
                write_box(folder / f"{number}.off", height + 0.02 * number)
    write_box(tmp_path / "chair.off", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("I2P_ZOO_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")  # Lightning's, of torch
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_of_a_page_runs(page, desk):
    if page == "docs/start.md":  # which loads what its command trained
        model = i2p_zoo.create_model("test_resnet", num_classes=2, stem="point", voxel_size=0.1)
        train_set, _ = data.load_data("folder:my_objects")
        i2p_zoo.finetune.train(model, train_set, steps=1, batch_size=2)
        model.save_pretrained("run/model")
    names = {"__name__": "page"}
    for number, (indent, block) in enumerate(PYTHON.findall(PAGES[page])):
        code = re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)
        code = re.sub(r"\bsteps=\d+", "steps=1", code)
        exec(compile(code, f"{page}, block {number + 1}", "exec"), names)


def test_python_of_contributing_runs_in_a_process_of_its_own(desk):
    """It fills the tables of leaves and functions."""
    blocks = [block for _, block in PYTHON.findall(PAGES["CONTRIBUTING.md"])]
    code = "\n".join([*blocks, "assert 'SparseConv3d' in str(i2p_zoo.inflate(MyConv2d(3, 4, 3)))"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr


def commands_of(text):
    """The programs of the shell in a page, in fences and indented, each with its arguments."""
    shell = "\n".join([*SHELL.findall(text), *INDENTED.findall(PYTHON.sub("", text))]).replace("\\\n", " ")
    for line in shell.splitlines():
        if re.search(r"(^|[;&]|do) *(i2p-zoo|python -m|make|accelerate launch) ", line):
            words = shlex.shlex(line, posix=True, punctuation_chars=";&")
            words.whitespace_split = True
            for part in re.split(r"\n(?:;|&&|do)\n", "\n".join(["", *words, ""])):
                program, *arguments = part.strip().split("\n")
                if program in ("i2p-zoo", "make", "accelerate"):
                    yield program, *arguments
                elif program == "python" and arguments[0] == "-m":
                    yield f"python -m {arguments[1]}", *arguments[2:]


COMMANDS = sorted({(page, command) for page, text in PAGES.items() for command in commands_of(text)})


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda part: part if isinstance(part, str) else " ".join(part)[:60])
def test_command_of_a_page_is_one(page, command, monkeypatch):
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, context: value)  # files need not be there
    program, *arguments = command
    arguments = [re.sub(r"\$[a-z]", "0", word) for word in arguments if word not in ("$w", "...")]
    values = {"--mode": "all", "--precision": "no"}  # which a loop of the shell gives
    arguments = [values.get(before, word) for before, word in zip(["", *arguments], arguments, strict=False)]
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "accelerate":
        assert arguments[arguments.index("-m") + 1] == "i2p_zoo"
    elif program == "i2p-zoo":
        resolve(main, arguments)
    elif program == "python -m conversion":
        resolve(workshop, arguments)
    else:
        assert (ROOT / program.split()[-1].split(".")[0]).is_dir()


def resolve(command, arguments):
    """Parses a line as click does, down to the command that would run; raises what it would raise."""
    context = command.make_context(command.name, list(arguments))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else context.args
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def test_commands_are_seen():
    programs = {program for _, (program, *_) in COMMANDS}
    assert {"i2p-zoo", "make", "python -m conversion", "python -m benchmarks", "accelerate"} <= programs
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_have_no_quotes_that_cmd_passes_on(page):
    """Windows' cmd.exe takes single quotes for letters; double ones do in every shell."""
    shell = "\n".join([*SHELL.findall(PAGES[page]), *re.findall(r"pip install.*|i2p-zoo .*", PAGES[page])])
    assert not re.findall(r"^.*(?:pip|i2p-zoo)\b.* '.*$", shell, re.MULTILINE)


def test_a_wrong_command_is_noticed():
    with pytest.raises(click.UsageError, match="No such option"):
        resolve(main, ["finetune", "--mode", "all", "--colour", "red"])


def test_every_public_name_has_its_place_in_the_reference(tmp_path):
    assert undocumented_names() == []
    assert {f"i2p_zoo.{name}" for name in i2p_zoo.__all__ if name[0].isupper()} <= public_names()
    assert {f"i2p_zoo.data.{name}" for name in data.__all__} <= documented_names()
    assert set(undocumented_names(tmp_path)) == public_names()  # where there are no pages


def test_every_error_has_its_advice():
    page = PAGES["docs/errors.md"]
    for name in (name for name in vars(errors) if name.endswith("Error")):
        advice = page.split(f"::: i2p_zoo.{name}\n")[1].split(":::")[0].strip()
        assert advice or name == "I2PError", name


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_have_their_targets(page):
    """mkdocs checks those of the site as it builds it; GitHub and PyPI show README and the pages too."""
    for target, anchor in LINK.findall(PAGES[page]):
        if page == "docs/index.md" or target in ("zoo.csv", "../contributing.md", "contributing.md"):
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_readme_has_the_ledgers_numbers():
    models = load_ledger()["models"]
    assert certified_models() == sorted(models)
    assert f"all of timm's {len(models):,} architectures are certified" in PAGES["README.md"]
