"""The demo's page: what it says, where it puts it, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longtake.jobs.demo.page.content import (
    MOST_EMBEDDED_BYTES,
    Asked,
    Cell,
    Page,
    Shown,
    Span,
    cell_spans,
    video_source,
)
from longtake.jobs.demo.page.render import place, render

EVIL = """<script>alert("x")</script> & 'quoted' "double" </style><!--"""


class Tree(HTMLParser):
    """All elements of a page with their attributes, and the text inside each."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of_class(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.elements if name in attributes.get("class", "").split()]


def asked(**changes: object) -> Asked:
    values: dict[str, object] = {
        "question": "What was shown?",
        "answer": "red star",
        "probability": 0.9,
        "moments": (Span(start_s=12.0, stop_s=13.0, weight=0.8), Span(start_s=2.0, stop_s=4.0, weight=0.2)),
        "truth": "red star",
        "evidence": (Span(start_s=12.25, stop_s=12.75),),
    }
    return Asked(**{**values, **changes})  # type: ignore[arg-type]


def shown(*questions: Asked, **changes: object) -> Shown:
    values: dict[str, object] = {
        "name": "v0000.mp4",
        "source": "data:video/mp4;base64,AAAA",
        "duration_s": 16.0,
        "width": 256,
        "height": 192,
        "details": ("16 s",),
        "cells": tuple(Cell(start_s=float(k), stop_s=k + 1.0, jpeg=b"\xff\xd8") for k in range(16)),
        "asked": questions,
    }
    return Shown(**{**values, **changes})  # type: ignore[arg-type]


def page_of(*videos: Shown) -> str:
    return render(Page(shown=videos, facts=(("3", "videos"),), notes=("A note.",)))


def test_every_text_is_escaped() -> None:
    question = asked(question=EVIL, answer=EVIL, truth=EVIL, unknown_words=(EVIL,))
    video = shown(question, name=EVIL, details=(EVIL,), note=EVIL, source=f"a{EVIL}.mp4")
    page = render(Page(shown=(video,), facts=((EVIL, EVIL),), notes=(EVIL,)))
    tree = Tree(page)
    assert [tag for tag, _ in tree.elements].count("script") == 1
    assert [tag for tag, _ in tree.elements].count("style") == 1
    # Each of them arrives as text, whole: name, detail, note, question, answer, unknown word, two facts, a foot note.
    assert sum(text == EVIL for text in tree.texts) == 8
    assert f"truth: {EVIL}" in tree.texts
    assert next(attributes["src"] for tag, attributes in tree.elements if tag == "video") == f"a{EVIL}.mp4"


def test_the_page_needs_nothing_from_anywhere() -> None:
    page = page_of(shown(asked()), shown(asked(truth=None, evidence=())))
    assert not re.search(r"https?:", page, re.IGNORECASE)
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|importScripts", page)
    for tag, attributes in Tree(page).elements:
        for name in ("src", "href", "poster", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)


def test_the_policy_allows_this_script_and_no_network() -> None:
    page = page_of(shown(asked()))
    [policy] = [
        attributes["content"]
        for tag, attributes in Tree(page).elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    script = page[page.index("<script>") + len("<script>") : page.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def styles(element: dict[str, str]) -> dict[str, float]:
    found = re.findall(r"([\w-]+): ([\d.]+)%", element["style"])
    return {name: float(value) for name, value in found}


def test_moments_evidence_and_span_lie_where_they_are_on_the_timeline() -> None:
    tree = Tree(page_of(shown(asked(from_s=4.0, to_s=14.0))))
    first, second = tree.of_class("moment")
    # In the order of time; the stronger one, which comes second, is brighter.
    assert styles(first) == {"left": 12.5, "width": 12.5, "--weight": 25.0}
    assert styles(second) == {"left": 75.0, "width": 6.25, "--weight": 80.0}
    assert (second["data-start"], second["data-stop"]) == ("12.000", "13.000")
    assert second["aria-label"] == "Play 0:12.0-0:13.0, 80 % of the attention"
    [evidence] = tree.of_class("evidence")
    assert styles(evidence) == pytest.approx({"left": 76.562, "width": 3.125}, abs=1e-3)
    before, after = tree.of_class("outside")
    assert styles(before) == {"left": 0.0, "width": 25.0}
    assert styles(after) == {"left": 87.5, "width": 12.5}
    assert "only 0:04 to 0:14" in tree.texts


def test_the_first_question_is_lit_on_the_strip() -> None:
    tree = Tree(page_of(shown(asked())))
    cells = tree.of_class("cell")
    assert [k for k, cell in enumerate(cells) if "lit" in cell["class"].split()] == [2, 3, 12]
    assert [k for k, cell in enumerate(cells) if "true" in cell["class"].split()] == [12]
    # One stop of the Tab key for the whole strip.
    assert [cell["tabindex"] for cell in cells].count("0") == 1


def test_verdicts_and_the_count_of_right_answers() -> None:
    wrong = asked(answer="blue moon", moments=())
    open_one = asked(truth=None, evidence=(), answer="nothing", moments=())
    page = page_of(shown(asked(answer="Red star."), wrong), shown(open_one))
    tree = Tree(page)
    assert "1 of 2 questions answered right" in tree.texts
    assert [len(tree.of_class(name)) for name in ("right", "wrong", "open")] == [1, 1, 1]
    assert tree.texts.count("looked at no moment") == 2
    assert "truth not known" in tree.texts


def test_found_is_whether_the_strongest_moment_shows_the_evidence() -> None:
    assert asked().found is True
    assert asked(evidence=(Span(start_s=2.5, stop_s=3.0),)).found is False
    assert asked(evidence=()).found is None


@given(
    duration_s=st.floats(0.1, 100_000),
    start=st.floats(0, 1),
    length=st.floats(0.0001, 1),
)
def test_places_stay_on_the_timeline(duration_s: float, start: float, length: float) -> None:
    start_s = start * duration_s
    found = styles({"style": place(start_s, start_s + length * duration_s, duration_s)})
    assert 0 <= found["left"] <= 100
    assert found["left"] + found["width"] <= 100.001
    assert found["left"] == pytest.approx(100 * start, abs=1e-2)


@given(count=st.integers(1, 500), most=st.integers(1, 100))
def test_strip_windows_tile_the_snippets(count: int, most: int) -> None:
    start_ns, stop_ns = list(range(0, 10 * count, 10)), list(range(10, 10 * count + 10, 10))
    spans = cell_spans(start_ns, stop_ns, most)
    assert len(spans) == min(count, most)
    assert spans[0][0] == 0 and spans[-1][1] == 10 * count
    assert all(a[1] == b[0] for a, b in pairwise(spans))


def test_a_small_video_is_inside_and_a_large_one_is_linked(tmp_path: Path) -> None:
    small = tmp_path / "small.webm"
    small.write_bytes(b"webm!")
    page = tmp_path / "out" / "demo.html"
    assert video_source(small, page) == "data:video/webm;base64,d2VibSE="
    large = tmp_path / "a b#c?100%.mp4"
    with large.open("wb") as file:
        file.truncate(MOST_EMBEDDED_BYTES + 1)
    assert video_source(large, page) == "../a%20b%23c%3F100%25.mp4"


def test_spans_are_checked() -> None:
    with pytest.raises(ValueError, match="empty or negative"):
        Span(start_s=2.0, stop_s=2.0)
    with pytest.raises(ValueError, match="duration"):
        shown(duration_s=0.0)
