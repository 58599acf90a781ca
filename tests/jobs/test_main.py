"""The command line as a process: help, one-line errors, exit codes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from longtake.jobs.main import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
LONGTAKE = [sys.executable, "-m", "longtake.jobs.main"]


def longtake(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LONGTAKE, *words], env=ENV, input=stdin, capture_output=True, text=True)


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of standard error; standard output must be empty."""
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_every_command_has_readable_help_with_examples() -> None:
    subparsers = build_parser()._subparsers
    assert subparsers is not None
    (action,) = subparsers._group_actions
    assert isinstance(action.choices, dict)
    assert list(action.choices) == [name for names in COMMANDS.values() for name in names]
    for name, parser in action.choices.items():
        text = parser.format_help()
        assert "examples:" in text and f"longtake {name}" in text.split("examples:")[1], name
        assert parser.description and "--debug" in text, name
        assert max(map(len, text.splitlines())) <= 120, name


def test_help_lists_the_commands_and_exits_with_0() -> None:
    done = longtake("--help")
    assert done.returncode == 0 and "examples:" in done.stdout
    assert all(f"\n    {name} " in done.stdout for name in ("index", "ask", "status", "evaluate"))


def test_no_command_shows_the_help_and_exits_with_2() -> None:
    done = longtake()
    assert done.returncode == 2 and done.stderr.startswith("usage: longtake")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["asks"], "invalid choice: 'asks'"),
        (["ask"], "the following arguments are required: INDEX"),
        (["ask", "x", "q", "--vote", "2"], "unrecognized arguments: --vote"),
        (["ask", "x", "q", "--from", "soon"], "argument --from: 'soon' is not a moment"),
        (["ask", "x", "q", "--votes", "many"], "argument --votes: invalid int value: 'many'"),
        (["ask", "x", "q", "--questions", "f"], "give a question or --questions, not both"),
        (["evaluate", "x", "none.jsonl"], "none.jsonl: cannot read the questions"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(words: list[str], message: str) -> None:
    done = longtake(*words)
    assert done.returncode == 2
    line = only_line(done)
    assert line.startswith("longtake: error: ") and message in line


@pytest.mark.parametrize("words", [["status"], ["failures"], ["ask", "--json"]])
def test_a_missing_index_is_bad_input(tmp_path: Path, words: list[str]) -> None:
    command, *options = words
    done = longtake(command, str(tmp_path / "none.lt"), *options)
    assert done.returncode == 2
    assert only_line(done) == f"longtake: error: {tmp_path}/none.lt: there is no index here"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for words in (["--debug", "status"], ["status", "--debug"]):
        done = longtake(*words, str(tmp_path / "none.lt"))
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("longtake: error: ")


def unread(pipe: int) -> int:
    """How many bytes in a pipe nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_ctrl_c_exits_with_130() -> None:
    # A question file that is a pipe nobody writes to: the process waits in a read, as it would in any long work.
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [*LONGTAKE, "evaluate", "x", f"/dev/fd/{reading}"],
        env=ENV,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[reading],
        # A suite that runs in the background of a shell ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(reading)
    os.write(writing, b"[")
    try:
        # What was written is read: the process waits for more.
        while unread(writing) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    finally:
        process.kill()
        os.close(writing)
    assert process.returncode == 130
    assert errors == "longtake: stopped\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = subprocess.Popen([*LONGTAKE, "models", "--json"], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"")
