"""A public model's tokens in the tables: places come back as they were, tokens up to the store's rounding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from longtake.errors import IndexMismatchError, InputError
from longtake.operators.vlm.combiners import combine
from longtake.operators.vlm.tokens import SnippetTokens, whole_places
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import IndexReader
from longtake.pipeline.table.token_columns import TokenStore
from longtake.pipeline.table.vlm_columns import Places, floats, start_s
from longtake.pipeline.table.writer import Committer, SnippetRow, write_snippets

WIDTH = 48
MADE = IndexMetadata(
    model="vlm:/models/a", fingerprint="aa", tokens=9, width=WIDTH, rate_hz=2.0, kind="vlm", combiner="drop",
    snippet_frames=4, most_tokens_a_step=256, sound_hz=25.0,
)  # fmt: skip


def snippets(count: int) -> list[SnippetTokens]:
    """Whole ones, compressed ones and one that ends early; the second has no sound."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for number in range(count):
        steps, sounds = (1, 3) if number == count - 1 else (2, 0 if number == 1 else 10)
        places_N4 = whole_places((steps, 3, 5), sounds)
        whole = SnippetTokens(
            tokens_ND=torch.randn(len(places_N4), WIDTH, generator=generator),
            places_N4=places_N4,
            step_s=tuple(number * 2.0 + 0.1 + step for step in range(steps)),
            rows=3,
            columns=5,
            sounds=sounds,
            sound_hz=25.0 if sounds else 0.0,
            start_s=start_s(number * 2_000_000_000),
        )
        made.append(combine(whole, "drop", 9))
    return made


def write(folder: Path, metadata: IndexMetadata, made: list[SnippetTokens], split: int) -> IndexReader:
    """Two commits, so that the reader meets two fragments; numbers have a gap before the last."""
    committer = Committer(str(folder), metadata)
    numbers = [*range(len(made) - 1), len(made)]
    rows = [
        SnippetRow(
            video_id="v",
            snippet=number,
            start_ns=round(one.start_s * 1e9),
            stop_ns=round(one.start_s * 1e9) + 2_000_000_000,
            pictures=4,
            tokens=floats(one.tokens_ND),
            text=f"text {number}",
            memory=b"",
            places=Places.of(one),
        )
        for number, one in zip(numbers, made, strict=True)
    ]
    for part, after in ((rows[:split], -1), (rows[split:], split - 1)):
        committer.commit_snippets([write_snippets(committer.uri, committer.metadata, part, {"v": after})])
    return IndexReader.open(str(folder))


@pytest.mark.parametrize("store", ["int8", "bfloat16", "float32"])
def test_a_video_comes_back(tmp_path: Path, store: TokenStore) -> None:
    made = snippets(6)
    reader = write(tmp_path / "index", dataclasses.replace(MADE, token_store=store), made, 2)
    video, start_ns, stop_ns, texts = reader.video_tokens("v")
    assert len(video.snippets) == 6 and [text[5:] for text in texts] == ["0", "1", "2", "3", "4", "6"]
    assert start_ns.tolist() == [n * 2_000_000_000 for n in range(6)] and (stop_ns - start_ns == 2_000_000_000).all()
    for back, one in zip(video.snippets, made, strict=True):
        assert torch.equal(back.places_N4, one.places_N4) and back.places_N4.dtype == torch.int16
        assert dataclasses.replace(back, tokens_ND=one.tokens_ND, places_N4=one.places_N4) == one
        error = (back.tokens_ND - one.tokens_ND).abs()
        if store == "int8":
            assert bool((error <= one.tokens_ND.abs().amax(1, keepdim=True) / 127 * 0.501).all())
        else:
            rounded = one.tokens_ND.bfloat16().float() if store == "bfloat16" else one.tokens_ND
            assert torch.equal(back.tokens_ND, rounded)
    part, *_ = reader.video_tokens("v", 1, 5, dtype=torch.bfloat16)
    assert len(part.snippets) == 4 and part.tokens_SD.dtype == torch.bfloat16
    assert torch.equal(part.snippets[0].places_N4, made[1].places_N4)


def test_bfloat16_tokens_of_the_tower_are_stored_without_loss(tmp_path: Path) -> None:
    made = [dataclasses.replace(one, tokens_ND=one.tokens_ND.bfloat16()) for one in snippets(3)]
    reader = write(tmp_path / "index", dataclasses.replace(MADE, token_store="bfloat16"), made, 1)
    video, *_ = reader.video_tokens("v", dtype=torch.bfloat16)
    assert torch.equal(video.tokens_SD, torch.cat([one.tokens_ND for one in made]))


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    made = snippets(3)
    reader = write(tmp_path / "index", MADE, made, 1)
    with pytest.raises(InputError, match="holds none of these snippets of video w"):
        reader.video_tokens("w")
    with pytest.raises(ValueError, match="video_tokens reads them"):
        reader.tokens("v")
    for changed in ({"combiner": "merge"}, {"tokens": 12}, {"snippet_frames": 8}, {"most_tokens_a_step": 64}):
        with pytest.raises(IndexMismatchError, match=r"holds at most 9 tokens .* not .*--rebuild") as told:
            Committer(str(tmp_path / "index"), dataclasses.replace(MADE, **changed))
        assert "\n" not in str(told.value)
    too_many = SnippetRow(
        video_id="v", snippet=0, start_ns=0, stop_ns=1, pictures=4, tokens=np.zeros((10, WIDTH), np.float32), text="",
        memory=b"", places=dataclasses.replace(Places.of(made[0]), places_N4=np.zeros((10, 4), np.int16)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="at most 9 tokens"):
        write_snippets(str(tmp_path / "index"), MADE, [too_many], {"v": -1})


def test_an_index_without_any_of_this_is_written_as_before() -> None:
    plain = IndexMetadata(model="tiny", fingerprint="aa", tokens=4, width=96, rate_hz=8.0)
    assert plain.format == 2
    assert (MADE.format, dataclasses.replace(plain, token_store="bfloat16").format) == (3, 3)
    older = {
        key.encode(): value.encode()
        for key, value in plain.to_schema().items()
        if key.removeprefix("longtake.")
        in {"model", "fingerprint", "tokens", "width", "rate_hz", "frames", "token_store", "format"}
    }
    assert len(older) == 8 and IndexMetadata.from_schema(older, "index") == plain
