"""Errors, interrupts and odd terminals: one line, the right exit code, nothing lost of a batch."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conversion.__main__ import main as workshop
from i2p_zoo.cli import main
from i2p_zoo.cli.error_lines import BatchErrors, ErrorLines
from i2p_zoo.cli.shared_options import OutputPath
from i2p_zoo.errors import InvalidInputError
from i2p_zoo.zoo import ledger
from tests.cli.conftest import fail, run, subprocess_of

ROOT = Path(__file__).parents[2]


def raising(action):
    """A group of one command that does something."""

    @click.group("tool", cls=ErrorLines)
    def tool():
        pass

    tool.command("work")(action)
    return CliRunner().invoke(tool, ["work"], prog_name="tool")


def test_an_interrupt_is_one_line_with_the_code_of_shells():
    def interrupted(words=()):
        raise KeyboardInterrupt(*words)

    plain = raising(interrupted)
    assert (plain.exit_code, plain.stdout, plain.stderr) == (130, "", "tool: interrupted.\n")
    advised = raising(lambda: interrupted(["go on with --resume."]))
    assert (advised.exit_code, advised.stderr) == (130, "tool: interrupted: go on with --resume.\n")


def test_what_the_package_logs_of_long_work_is_a_line_and_python_stays_quiet():
    logger = logging.getLogger("i2p_zoo.zoo.pretrained")
    assert raising(lambda: logger.info("%s is converted.", "x")).stderr == "tool: x is converted.\n"
    assert not logger.isEnabledFor(logging.INFO)
    assert not logging.getLogger("i2p_zoo").handlers


def test_termination_puts_in_order_what_was_begun_and_has_its_own_code():
    cleared = []

    def terminated():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleared.append(True)

    result = raising(terminated)
    assert (result.exit_code, result.stderr, cleared) == (143, "tool: interrupted.\n", [True])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_path_keeps_its_spaces_in_an_error_and_the_line_is_one():
    def failing():
        raise InvalidInputError("two  spaces.ply: no\n  such file.\n")

    assert raising(failing).stderr == "tool: two  spaces.ply: no such file.\n"


def call(*command, **environment):
    """Runs a command in a process of its own and reads bytes."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *command], env=variables, capture_output=True, timeout=300)


WARNING = """
import click, sys, warnings
from i2p_zoo.cli import main
main.add_command(click.Command("say", callback=lambda: warnings.warn("a.ply: 1 point\\n  left out.")))
try:
    main()
finally:
    warnings.warn("Python's")
"""


@pytest.mark.parametrize("options", [(), ("--debug",)], ids=["plain", "debug"])
def test_a_warning_is_one_line_without_code_except_under_debug(options):
    done = call("-c", WARNING, *options, "say")
    first, _, rest = done.stderr.decode().partition("\n")
    assert done.returncode == 0
    assert first == ("<string>:4: UserWarning: a.ply: 1 point" if options else "i2p-zoo: a.ply: 1 point left out.")
    assert "<string>:8: UserWarning: Python's" in rest, "as before, once the command has ended"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_names_that_the_terminal_lacks_are_escaped_and_not_a_traceback(encoding):
    say = "click.Command('say', callback=lambda: click.echo('\\u6905'))"
    code = f"from i2p_zoo.cli import main; import click; main.add_command({say}); main(['say'])"
    done = call("-c", code, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split() == ["\u6905".encode(encoding, errors="backslashreplace")]


def test_a_file_name_that_is_no_text_is_told():
    done = call("-m", "i2p_zoo", "info", os.fsdecode(b"./caf\xe9/net"))
    assert done.returncode == 2
    assert done.stderr.startswith(b"i2p-zoo: ./caf")
    assert b"Traceback" not in done.stderr


def test_a_reader_that_went_away_is_no_error(tmp_path):
    """As in `i2p-zoo list | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "i2p_zoo", "list"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=300,
        )
    assert b"Traceback" not in done.stderr


def test_a_home_that_nobody_has_is_no_matter():
    done = call("-m", "i2p_zoo", "info", "resnet18", HOME="/nonexistent", COLUMNS="10", NO_COLOR="1", LANG="C", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert b"i2p-resnet18" in done.stdout


# Batches


def test_each_of_a_batch_is_done_and_the_errors_name_their_items():
    errors = BatchErrors(["a", "b.ply", "c"], "file")
    done = []
    for item, error in zip(
        errors.items, (None, FileNotFoundError(2, "No such file"), InvalidInputError("c is empty.")), strict=True
    ):
        with errors.held(item):
            if error:
                raise error
            done.append(item)
    assert done == ["a"]
    with pytest.raises(InvalidInputError, match=r"^2 of 3 files failed: b\.ply: .*No such file\. c is empty\.$"):
        errors.tell()


def test_what_is_no_users_error_ends_a_batch():
    errors = BatchErrors(["a"], "file")
    with pytest.raises(RuntimeError, match="a bug"), errors.held("a"):
        raise RuntimeError("a bug")
    errors.tell()


# Outputs of every command, the workshop's too


def outputs(group, words=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from outputs(command, (*words, name))
        for parameter in command.params:
            if isinstance(parameter.type, OutputPath):
                yield (*words, name), parameter


OUTPUTS = [(group, words, option) for group in (main, workshop) for words, option in outputs(group)]


def test_no_command_writes_where_nobody_looked():
    """A path that a command takes is one that it reads or one of `OutputPath`."""
    assert {words[-1] for _, words, _ in OUTPUTS} >= {
        "convert",
        "finetune",
        "fewshot",
        "predict",
        "demo",
        "publish",
        "torchvision",
    }
    written = {"out", "report", "picture", "work", "space"}
    for _, words, option in OUTPUTS:
        assert option.name in written, words


@pytest.mark.parametrize(("group", "words", "option"), OUTPUTS, ids=[f"{' '.join(w)} {o.opts[0]}" for _, w, o in OUTPUTS])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(group, words, option, tmp_path, monkeypatch):
    command = group
    for word in words:
        command = command.commands[word]
    monkeypatch.setattr(command, "callback", lambda **values: pytest.fail("the work has begun"))
    (tmp_path / "file").write_text("in the way")
    required = [
        str(__file__) if isinstance(p.type, click.Path) else "x" for p in command.params if isinstance(p, click.Argument)
    ]
    for other in command.params:
        if isinstance(other, click.Option) and other.required and other is not option:
            required += [other.opts[0], "elsewhere"]
    for value, words_of_error in (
        ("", "the path is empty"),
        ("file/below/it", "is no folder"),
        ("file" if option.type.dir_okay else ".", "is a "),
    ):
        result = CliRunner().invoke(group, [*words, *required, option.opts[0], value], prog_name="tool")
        assert result.exit_code == 2, result.output
        assert words_of_error in result.stderr
        assert option.opts[0] in result.stderr


def test_a_folder_that_may_not_be_written_is_told_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    result = run("convert", "test_resnet", "--out", "new/folder")
    assert (result.exit_code, result.stderr) == (2, "i2p-zoo: --out new/folder: the folder . cannot be written.\n")
    result = run("convert", "test_resnet")
    assert (result.exit_code, result.stderr) == (2, "i2p-zoo: --out i2p-test_resnet: the folder . cannot be written.\n")


def test_streams_that_are_no_files_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    main(["list", "resnet18"], standalone_mode=False)
    assert sys.stdout.getvalue() == "i2p-resnet18\n"


ERRORS = {
    "unknown name": (["info", "resnet999"], r"no architecture 'resnet999'.*i2p-resnet"),
    "unknown zoo name": (["convert", "i2p-resnet999", "--out", "x"], "no architecture 'resnet999'"),
    "missing folder": (["info", "./missing/folder"], r"\./missing/folder"),
    "certify of an unknown name": (["certify", "resnet999"], "no architecture 'resnet999'"),
    "missing clouds": (["demo", "--data", "missing.npz"], r"missing\.npz: no such file"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_are_one_line_with_exit_code_2(arguments, message):
    found = fail(*arguments)
    assert "\n" not in found
    assert re.search(message, found), found


@pytest.mark.parametrize("arguments", [["info", "resnet999"], ["convert", "resnet18", "--out", "net"]], ids=["info", "convert"])
def test_debug_shows_the_traceback_and_then_the_line(arguments):
    result = run("--debug", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    trace, _, line = result.stderr.rpartition("i2p-zoo: ")
    assert "Traceback (most recent call last)" in trace
    assert "NotFoundError" in trace
    assert line


def test_a_bug_of_ours_is_not_dressed_up_as_a_users_error(monkeypatch):
    def broken(pattern):
        raise RuntimeError("a bug")

    monkeypatch.setattr(ledger, "list_models", broken)
    result = run("list")
    assert isinstance(result.exception, RuntimeError)
    assert result.stderr == ""


def test_a_reader_that_stops_reading_is_no_error_to_tell(monkeypatch):
    def closed(pattern):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(ledger, "list_models", closed)
    assert run("list").stderr == "", "as in `i2p-zoo list | head -1`"


def test_the_installed_script_prints_one_line_for_an_error(tmp_path):
    found = subprocess_of([Path(sys.executable).parent / "i2p-zoo", "info", "resnet999"], tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    (line,) = found.stderr.splitlines()
    assert line.startswith("i2p-zoo: timm ")
