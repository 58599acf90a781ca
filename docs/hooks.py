"""What mkdocs cannot find in docs/ by itself: the README as the first page, files from elsewhere in the repository that
pages link to, and the reference pages, generated from argparse and from docstrings whenever the site is built.

A page links to a file as GitHub wants it (`../benchmarks/results/memory.json`); here such files join the site at the
same path below its root, and the links are shortened by their `../`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Files outside docs/ that join the site, at the same path.
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "kernels/README.md",
    "operators/weights/*/README.md",
    "benchmarks/results/*.json",
    "benchmarks/results/*.png",
)
INDEX = "longtake.pipeline.answering.index"
QUESTION = "longtake.pipeline.answering.question"
MOMENTS = "longtake.pipeline.answering.moments"
SCHEMA = "longtake.pipeline.table.schema"
ERRORS = "longtake.errors"
# The public face, in the order of the page: a module, a name of it, and how the page calls it.
PUBLIC = (
    ("longtake", "open_index", "longtake.open_index"),
    (INDEX, "Index", "Index"),
    (QUESTION, "VideoAnswer", "VideoAnswer"),
    (MOMENTS, "Moment", "Moment"),
    (QUESTION, "StreamedAnswer", "StreamedAnswer"),
    (SCHEMA, "VideoRow", "VideoRow"),
)
SECTIONS = ("Args", "Returns", "Raises", "Yields")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as index.md, and the files of `OUTSIDE`."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text()))
    for pattern in OUTSIDE:
        found = sorted(ROOT.glob(pattern))
        if not found:
            raise FileNotFoundError(f"docs/hooks.py: no file is {pattern}")
        for path in found:
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ at the files' places in the site, and fill in what is generated."""
    if "/" not in page.file.src_uri:
        # In the repository, docs/ lies between a page and such files; in the site nothing does.
        markdown = re.sub(r"\]\((?:\.\./|docs/)", "](", markdown)
    if page.file.src_uri == "commands.md":
        markdown += "\n" + "\n".join(commands())
    if page.file.src_uri == "python.md":
        markdown += "\n" + "\n".join(public_face())
    return markdown


def commands() -> Iterator[str]:
    """A section a command, with what its `--help` prints."""
    from longtake.jobs.main import build_parser

    # Argparse fits its lines to the terminal; a page has none.
    os.environ["COLUMNS"] = "100"
    os.environ["NO_COLOR"] = "1"
    yield from _command(build_parser())


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    # `longtake index` stands beside `longtake`, `longtake bench index` below `longtake bench`.
    yield f"{'#' * max(2, len(parser.prog.split()))} `{parser.prog}`\n"
    yield f"```text\n{parser.format_help().rstrip()}\n```\n"
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _command(subparser)


def public_face() -> Iterator[str]:
    """A section for each public object, with its signature and its docstring."""
    for module, name, shown in PUBLIC:
        yield from _object(getattr(importlib.import_module(module), name), shown)
    yield "### Errors\n"
    errors = importlib.import_module(ERRORS)
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    yield f"All are in `{ERRORS}`.\n"
    for kind in sorted(kinds, key=lambda kind: len(kind.__mro__)):
        bases = "" if kind.__base__ is Exception else f", a `{kind.__base__.__name__}`"
        yield f"- **`{kind.__name__}`**{bases}: {_lines(inspect.getdoc(kind) or '')}"
    yield ""


def _object(thing: Any, shown: str) -> Iterator[str]:
    yield f"### `{shown}`\n"
    if not inspect.isclass(thing):
        yield _signature(shown, thing)
        yield from _docstring(thing)
        return
    yield from _docstring(thing)
    if dataclasses.is_dataclass(thing):
        fields = [f"{field.name}: {field.type}" for field in dataclasses.fields(thing)]
        yield "```python\n" + "\n".join(fields) + "\n```\n"
    for name, member in vars(thing).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            assert member.fget is not None
            yield f"#### `{shown}.{name}`\n"
            yield f"A property: `{inspect.signature(member.fget).return_annotation}`.\n"
            yield from _docstring(member)
        elif inspect.isfunction(member):
            yield f"#### `{shown}.{name}`\n"
            yield _signature(name, member)
            yield from _docstring(member)


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    # A page's reader does not pass `self`.
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    kept = signature.replace(parameters=parameters)
    whole = f"{name}{kept}".replace("'", "")
    if len(whole) > 88:
        inside = ",\n    ".join(str(parameter).replace("'", "") for parameter in parameters)
        whole = f"{name}(\n    {inside},\n) -> {signature.return_annotation}"
    return f"```python\n{whole}\n```\n"


def _docstring(thing: Any) -> Iterator[str]:
    """A docstring as Markdown: paragraphs as they are, and the entries of `Args:` and its like as a list."""
    doc = inspect.getdoc(thing)
    if not doc:
        raise ValueError(f"docs/hooks.py: {thing!r} is public and has no docstring")
    section = None
    entries: list[str] = []
    for line in doc.splitlines():
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            yield from entries
            entries, section = [], line.rstrip(":")
            yield f"\n*{section}*\n"
        elif section is None or not line.strip():
            yield line
        elif section in ("Returns", "Yields") or line.startswith(" " * 5):
            # A line that goes on, or prose.
            text = line.strip()
            if entries and section not in ("Returns", "Yields"):
                entries[-1] += f" {text}"
            else:
                yield text
        else:
            name, _, text = line.strip().partition(": ")
            entries.append(f"- `{name}`: {text}" if text else f"- {name}")
    yield from entries
    yield ""


def _lines(text: str) -> str:
    return " ".join(text.split())
