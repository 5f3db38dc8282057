"""The commands together: help, examples, version, misuse."""

from __future__ import annotations

import shlex
import sys

import pytest

import i2p_zoo
from i2p_zoo.cli import main
from tests.cli.conftest import run, subprocess_of, succeed

COMMANDS = list(main.commands)


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_shows_an_example(command, flag):
    result = succeed(*filter(None, [command]), flag)
    assert f"Example: i2p-zoo {command or ''}" in result.stdout
    assert result.stderr == ""


def example_of(command):
    words = " ".join(main.commands[command].help.split("Example: i2p-zoo ")[1].split())
    return shlex.split(words)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_each_command_is_accepted_by_it(command):
    name, *arguments = example_of(command)
    assert name == command
    main.commands[command].make_context(command, arguments)


def test_help_lists_every_command_with_its_purpose():
    lines = succeed("--help").stdout.splitlines()
    for command in COMMANDS:
        (line,) = [line for line in lines if line.strip().startswith(f"{command} ")]
        assert len(line.split()) > 3


def test_help_does_not_load_torch(tmp_path):
    lines = (
        "import sys",
        "from i2p_zoo.cli import main",
        "segment = [['segment', name] for name in main.commands['segment'].commands]",
        "for words in ([], *([name] for name in main.commands), *segment):",
        "    main([*words, '--help'], standalone_mode=False)",
        "print({'torch', 'timm', 'numpy'} & set(sys.modules))",
    )
    done = subprocess_of([sys.executable, "-c", "\n".join(lines)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


def test_version_is_the_packages(tmp_path):
    found = subprocess_of([sys.executable, "-W", "error", "-m", "i2p_zoo", "--version"], tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"i2p-zoo, version {i2p_zoo.__version__}\n", "")


MISUSES = {
    "no command that we have": ["frobnicate"],
    "no name": ["info"],
    "nothing to certify": ["certify"],
    "unknown inflation": ["convert", "resnet18", "--inflation", "fancy"],
    "unknown axis": ["certify", "resnet18", "--axis", "w"],
    "no depth": ["convert", "resnet18", "--depth", "0"],
    "no steps": ["demo", "--steps", "0"],
    "no seeds": ["demo", "--seeds", "0"],
    "an unknown option": ["list", "--frobnicate"],
    "a folder as the report": ["convert", "resnet18", "--report", "."],
    "a file as the folder": ["convert", "resnet18", "--out", sys.executable],
    "a seed that is too large": ["finetune", "--model", "a", "--data", "b", "--out", "c", "--seed", "99999999999999999999"],
    "passes over few clouds": ["fewshot", "--model", "a", "--data", "b", "--out", "c", "--epochs", "1"],
    "a negative block": ["segment", "predict", "a", "b.npy", "--block", "-1"],
    "no block": ["segment", "train", "--model", "a", "--data", "b", "--out", "c", "--block", "0"],
    "no crop": ["segment", "train", "--model", "a", "--data", "b", "--out", "c", "--crop", "0"],
    "blocks that are all overlap": ["segment", "eval", "a", "--data", "b", "--overlap", "1"],
}


@pytest.mark.parametrize("arguments", MISUSES.values(), ids=MISUSES.keys())
def test_misuse_is_told_with_the_usage_and_exit_code_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: i2p-zoo")
    assert "Error: " in result.stderr.splitlines()[-1]
