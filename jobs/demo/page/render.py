"""The page as one HTML file: styles, script, pictures and videos inside, and a policy that forbids any network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

from longtake.jobs.clock import format_moment, format_span
from longtake.jobs.demo.page.content import Asked, Cell, Page, Shown, Span

HERE = Path(__file__).resolve().parent
# Below this share of the attention a moment would be too pale to be seen.
LEAST_TINT = 0.25
MARKS = {True: ("right", "✓", "Right"), False: ("wrong", "✗", "Wrong"), None: ("open", "?", "Truth not known")}
LOGO = (
    '<svg width="34" height="22" viewBox="0 0 34 22" aria-hidden="true">'
    '<rect class="film" x="0" y="4" width="6" height="14" rx="1.5"/><rect class="film" x="9" y="4" width="6" '
    'height="14" rx="1.5"/><rect class="take" x="18" y="0" width="7" height="22" rx="1.8"/>'
    '<rect class="film" x="28" y="4" width="6" height="14" rx="1.5"/></svg>'
)


def render(page: Page) -> str:
    """The HTML of a page. Every text is escaped; nothing is fetched from anywhere."""
    style, script = (HERE / "page.css").read_text("utf-8"), (HERE / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; media-src data: 'self' file:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    title = _headline(page)
    facts = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for value, label in page.facts)
    notes = "".join(f"<p>{escape(note)}</p>" for note in page.notes)
    videos = "\n".join(_video(shown, number) for number, shown in enumerate(page.shown))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>LongTake: {escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<header class="top">
<div class="brand">{LOGO}<span>LongTake</span></div>
<h1>{escape(title)}</h1>
<p class="lead">Each video was watched and heard once, and kept as a few tokens a second. Every answer below was read
from those tokens, with the moments that it came from: click one to see it.</p>
<dl class="facts">{facts}</dl>
<ul class="legend">
<li><span class="key key-moment"></span>where the answer looked (stronger is brighter)</li>
<li><span class="key key-truth"></span>where the truth is</li>
<li><span class="key key-outside"></span>outside the span that was asked about</li>
</ul>
</header>
<main>
{videos}
</main>
<footer>{notes}</footer>
<script>{script}</script>
</body>
</html>
"""


def _headline(page: Page) -> str:
    asked = len(page.judged)
    if not asked:
        count = sum(len(shown.asked) for shown in page.shown)
        return f"{count} question{'' if count == 1 else 's'} asked"
    return f"{page.right} of {asked} questions answered right"


def _video(shown: Shown, number: int) -> str:
    details = "".join(f"<span>{escape(detail)}</span>" for detail in shown.details)
    note = f'<p class="note">{escape(shown.note)}</p>' if shown.note else ""
    linked = (
        "" if shown.embedded else '<p class="linked">This file is large: the page links to it and does not hold it.</p>'
    )
    picked = next((asked for asked in shown.asked if asked.moments), None)
    cells = "".join(_cell(cell, place, picked) for place, cell in enumerate(shown.cells))
    asked = "\n".join(_asked(one, shown, one is picked) for one in shown.asked)
    strip_class = "strip picked" if picked is not None else "strip"
    # Tall pictures in narrow cells, wide ones in wide cells: rows of about one height.
    shape = f"--shape: {shown.width} / {shown.height}; --cell: {_cell_width(shown)}px"
    return f"""<section class="video" data-duration="{shown.duration_s:.3f}" aria-labelledby="video-{number}">
<header><h2 id="video-{number}">{escape(shown.name)}</h2><p class="details">{details}</p></header>
{note}<div class="view">
<div><video controls preload="auto" playsinline src="{escape(shown.source)}"></video>{linked}</div>
<div class="{strip_class}" style="{shape}" role="group" aria-label="Snippets: arrow keys walk, Enter seeks">
{cells}</div>
</div>
<ol class="asked">
{asked}
</ol>
<div class="ruler" aria-hidden="true">{_ruler(shown.duration_s)}</div>
</section>"""


def _cell_width(shown: Shown) -> int:
    """How wide a cell of the strip is at least, in pixels, so that the strip fills the space beside the player."""
    aspect = shown.width / shown.height
    # The space is about 700 x 280 pixels.
    area = 700 * 280 / max(1, len(shown.cells))
    return max(34, min(150, int((area * aspect) ** 0.5) - 6))


def _cell(cell: Cell, place: int, picked: Asked | None) -> str:
    names = ["cell"]
    if picked is not None:
        names += ["lit"] * any(m.overlaps(cell.start_s, cell.stop_s) for m in picked.moments)
        names += ["true"] * any(e.overlaps(cell.start_s, cell.stop_s) for e in picked.evidence)
    label = escape(format_span(cell.start_s, cell.stop_s))
    if cell.jpeg is None:
        inside = '<span class="missing">no picture</span>'
    else:
        inside = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(cell.jpeg).decode("ascii")}">'
    return (
        f'<button type="button" class="{" ".join(names)}" tabindex="{0 if place == 0 else -1}" title="{label}" '
        f'aria-label="Snippet {label}" data-start="{cell.start_s:.3f}" data-stop="{cell.stop_s:.3f}">{inside}</button>'
    )


def _asked(asked: Asked, shown: Shown, picked: bool) -> str:
    name, sign, verdict = MARKS[asked.right]
    within = ""
    if asked.from_s is not None or asked.to_s is not None:
        to_s = shown.duration_s if asked.to_s is None else asked.to_s
        within = f'<span class="within">only {_short(asked.from_s or 0.0)} to {_short(to_s)}</span>'
    truth = "truth not known" if asked.truth is None else f"truth: {asked.truth}"
    unknown = ""
    if asked.unknown_words:
        words = ", ".join(asked.unknown_words)
        unknown = f'<span class="unknown">Words the model has never seen: {escape(words)}</span>'
    return f"""<li class="question {name}{" picked" * picked}" data-moments="{_plain(asked.moments)}" \
data-evidence="{_plain(asked.evidence)}">
<div class="words"><span class="mark" aria-hidden="true">{sign}</span><span class="sr">{verdict}:</span>\
<span><button type="button" class="pick" aria-pressed="{str(picked).lower()}">{escape(asked.question)}</button>\
{within}</span>\
<span class="answer"><b>{escape(asked.answer) or "(no answer)"}</b> <span class="sure">\
{100 * asked.probability:.0f} % sure</span></span>\
<span class="truth-word">{escape(truth)}</span>{unknown}</div>
<div class="track">{_track(asked, shown.duration_s)}</div>
</li>"""


def _track(asked: Asked, duration_s: float) -> str:
    parts = []
    if asked.from_s:
        parts.append(f'<span class="outside" style="{place(0.0, asked.from_s, duration_s)}"></span>')
    if asked.to_s is not None and asked.to_s < duration_s:
        parts.append(f'<span class="outside" style="{place(asked.to_s, duration_s, duration_s)}"></span>')
    # In the order of time, so that the Tab key walks from left to right.
    for moment in sorted(asked.moments, key=lambda moment: moment.start_s):
        where = format_span(moment.start_s, moment.stop_s)
        share = f"{100 * moment.weight:.0f} % of the attention"
        tint = 100 * min(1.0, max(LEAST_TINT, moment.weight))
        parts.append(
            f'<button type="button" class="moment" style="{place(moment.start_s, moment.stop_s, duration_s)}; '
            f'--weight: {tint:.0f}%" data-start="{moment.start_s:.3f}" data-stop="{moment.stop_s:.3f}" '
            f'title="{escape(where)}: {share}" aria-label="Play {escape(where)}, {share}"></button>'
        )
    parts += [
        f'<span class="evidence" style="{place(span.start_s, span.stop_s, duration_s)}"></span>'
        for span in asked.evidence
    ]
    if not asked.moments:
        left = place(asked.from_s or 0.0, duration_s, duration_s)
        parts.append(f'<span class="nowhere" style="{left}">looked at no moment</span>')
    return "".join(parts)


def place(start_s: float, stop_s: float, duration_s: float) -> str:
    """Where [start_s, stop_s) lies on a timeline of the whole video, as CSS; cut at the video's ends."""
    left = 100 * min(max(start_s / duration_s, 0.0), 1.0)
    width = 100 * min(max(stop_s / duration_s, 0.0), 1.0) - left
    return f"left: {left:.3f}%; width: {width:.3f}%"


def _plain(spans: Sequence[Span]) -> str:
    return " ".join(f"{span.start_s:.3f}-{span.stop_s:.3f}" for span in spans)


def _ruler(duration_s: float) -> str:
    """Times under the timelines, at round steps, and the video's end."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((step for step in steps if duration_s / step <= 10), 14400)
    ticks = [k * step for k in range(int(duration_s // step) + 1) if k * step < duration_s - 0.6 * step]
    marks = [f'<span style="left: {100 * t / duration_s:.3f}%">{_short(t)}</span>' for t in ticks]
    return "".join(marks) + f'<span class="end" style="left: 100%">{escape(format_moment(duration_s))}</span>'


def _short(seconds: float) -> str:
    """A moment without the tenths of a whole second."""
    return format_moment(seconds).removesuffix(".0")
