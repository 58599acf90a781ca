"""What the pages show is what happens: their commands and Python are run, and their paths and terms are looked up.

A fenced block is run when it is `python`, `console` (commands behind `$ `, each with the output that the page shows) or
`sh` (commands without output). A block that cannot be run here stands below a comment `<!-- not run: WHY -->`. In shown
output `...` stands for anything, and as a line of its own for any lines.

The blocks of a page run in one folder, top to bottom. Pages that are about the same made videos share one.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = tuple(sorted(["README.md", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]))
# Pages that go on with what the quickstart made; all else stands alone.
IN_THE_QUICKSTART = ("README.md", "docs/quickstart.md", "docs/python.md")
FENCE = re.compile(r"^(?:<!-- not run: (?P<why>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
RUN = ("python", "console", "sh")
PATH = re.compile(r"(?<![\w./-])(?:benchmarks|docs|jobs|kernels|operators|pipeline|src|tests)/[\w./*-]*\w")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: where it is, what it is, and why it is not run ("" where it is)."""

    page: str
    line: int
    language: str
    body: str
    not_run: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """The blocks of a page that somebody could run."""
    text = (ROOT / page).read_text()
    found = [
        Block(
            page=page,
            line=text.count("\n", 0, match.start("language")) + 1,
            language=match["language"],
            body=match["body"],
            not_run=match["why"] or "",
        )
        for match in FENCE.finditer(text)
    ]
    assert len(found) == len(re.findall(r"^```", text, re.M)) / 2, f"{page}: a fence that this test does not understand"
    return [block for block in found if block.language in RUN]


class Folder:
    """A folder in which commands run, each of them once: the same command on another page has the same output."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._said: dict[str, str] = {}

    def run(self, words: list[str]) -> str:
        """Standard output and errors, as a person sees them."""
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
            "COLUMNS": "200",
        }
        done = subprocess.run(
            words,
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{shlex.join(words)}: exit code {done.returncode}\n{done.stdout}"
        # How far a job is, it says every few seconds: no page shows it.
        return re.sub(r"^longtake: \d+%, .*\n", "", done.stdout, flags=re.M)

    def command(self, line: str, times: int) -> str:
        """The output of a shell's line; `times` tells a command given again on one page from one of another page."""
        key = f"{line} #{times}"
        if key not in self._said:
            words = shlex.split(line)
            assert words[0] == "longtake", f"{line}: only longtake is run"
            self._said[key] = self.run([sys.executable, "-m", "longtake.jobs.main", *words[1:]])
        return self._said[key]


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a `console` or `sh` block with the output shown, "" where none is."""
    if block.language == "sh":
        for line in block.body.splitlines():
            yield line, ""
        return
    for part in re.split(r"^\$ ", block.body, flags=re.M)[1:]:
        line, _, shown = part.partition("\n")
        yield line, shown


def agrees(shown: str, said: str) -> bool:
    """Whether `said` is what a page shows, whose `...` stand for anything; lines' ends do not count."""
    lines = [line.rstrip() for line in shown.strip().splitlines()]
    pattern = ""
    for line in lines:
        pattern += r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r" *\n"
    return re.fullmatch(pattern, "\n".join(line.rstrip() for line in said.strip().splitlines()) + "\n") is not None


@pytest.fixture(scope="session")
def quickstart_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Where the quickstart has been run, and the pages that go on with it are."""
    folder = Folder(tmp_path_factory.mktemp("quickstart"))
    run_page("docs/quickstart.md", folder)
    return folder


def run_page(page: str, folder: Folder) -> tuple[int, int]:
    """Run all blocks of a page that can be; returns how many commands and Python blocks were run."""
    times: dict[str, int] = {}
    python = 0
    for block in blocks(page):
        if block.not_run:
            continue
        if block.language == "python":
            folder.run([sys.executable, "-c", block.body])
            python += 1
            continue
        for line, shown in commands(block):
            times[line] = times.get(line, 0) + 1
            said = folder.command(line, times[line])
            assert not shown or agrees(shown, said), f"{block.place}: {line}\nshows\n{shown}\nbut it says\n{said}"
    return sum(times.values()), python


@pytest.mark.parametrize("page", [page for page in PAGES if any(not block.not_run for block in blocks(page))])
def test_what_a_page_shows_is_what_happens(
    page: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = page in IN_THE_QUICKSTART
    folder: Folder = request.getfixturevalue("quickstart_folder") if shared else Folder(tmp_path)
    ran, python = run_page(page, folder)
    left = [f"{block.place} ({block.not_run})" for block in blocks(page) if block.not_run]
    with capsys.disabled():
        print(f"\n{page}: {ran} commands and {python} blocks of Python run; not run: {', '.join(left) or 'none'}")
    assert ran + python > 0


def test_output_that_differs_is_noticed() -> None:
    assert agrees("a 1\n...\nz ...\n", "a 1\nb\nc\nz 26 \n")
    assert agrees("...\nz\n", "z\n")
    assert not agrees("a 1\n", "a 2\n")
    assert not agrees("a\nz\n", "a\nb\nz\n")
    assert not agrees("a.b\n", "axb\n")


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md", "kernels/README.md"])
def test_paths_that_a_page_names_are_there(page: str) -> None:
    named = set(PATH.findall((ROOT / page).read_text()))
    # A folder that a run on a GPU will write.
    named.discard("benchmarks/results/gpu")
    missing = sorted(path for path in named if not list(ROOT.glob(path)) and not list((ROOT / page).parent.glob(path)))
    assert not missing, f"{page} names {missing}"


def test_the_readme_can_be_read_in_one_sitting() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"\]\(([\w/.-]+)", text))


def test_links_to_glossary_terms_are_defined() -> None:
    terms = re.findall(r"^### (.+)$", (ROOT / "docs/glossary.md").read_text(), re.M)
    assert terms == sorted(terms, key=str.lower)
    anchors = {term.lower().replace(" ", "-") for term in terms}
    for page in PAGES:
        used = set(re.findall(r"glossary\.md#([\w-]+)", (ROOT / page).read_text()))
        assert used <= anchors, f"{page}: {used - anchors}"
