"""Tokens as the snippets table holds them: float32 bit for bit, bfloat16 rounded, int8 in a quarter of the room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from longtake.errors import IndexMismatchError
from longtake.pipeline.indexing.index import IndexOptions, index
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import IndexReader
from longtake.pipeline.table.token_columns import TokenStore, from_columns, to_columns
from longtake.pipeline.table.writer import Committer, SnippetRow, write_snippets


def metadata(store: TokenStore, tokens: int = 4, width: int = 96) -> IndexMetadata:
    return IndexMetadata(model="tiny", fingerprint="aa", tokens=tokens, width=width, rate_hz=8.0, token_store=store)


def made(rows: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 4, 96), dtype=np.float32)


def test_float32_comes_back_bit_for_bit_and_int8_to_half_a_step() -> None:
    tokens = made(5)
    for store in ("float32", "bfloat16", "int8"):
        told = metadata(store)  # type: ignore[arg-type]
        # Two chunks, as a scan of two fragments gives them.
        halves = [to_columns(part, told) for part in (tokens[:2], tokens[2:])]
        columns = {name: pa.chunked_array([half[name] for half in halves]) for name in halves[0]}
        back = from_columns(columns, told)
        assert (back.dtype, back.shape) == (np.float32, tokens.shape)
        if store == "float32":
            assert np.array_equal(back, tokens)
        elif store == "bfloat16":
            assert np.array_equal(back, torch.from_numpy(tokens).bfloat16().float().numpy())
        else:
            step = np.abs(tokens).max(axis=-1, keepdims=True) / 127
            assert (np.abs(back - tokens) <= step * 0.501).all()


def test_zeros_stay_zeros_and_a_broken_token_stays_visible() -> None:
    tokens = made(2)
    tokens[0, 0] = 0.0
    tokens[1, 2, 5] = np.inf
    told = metadata("int8")
    back = from_columns({k: pa.chunked_array([v]) for k, v in to_columns(tokens, told).items()}, told)
    assert not back[0, 0].any()
    assert np.isnan(back[1, 2]).all() and np.isfinite(np.delete(back[1], 2, axis=0)).all()


def test_int8_takes_about_a_quarter_of_the_room(tmp_path: Path) -> None:
    sizes = {}
    for store in ("float32", "int8"):
        folder = tmp_path / store
        committer = Committer(str(folder), metadata(store))  # type: ignore[arg-type]
        rows = [
            SnippetRow(
                video_id="a",
                snippet=n,
                start_ns=n,
                stop_ns=n + 1,
                pictures=8,
                tokens=tokens,
                text="",
                memory=b"" if n == 511 else None,
            )
            for n, tokens in enumerate(made(512))
        ]
        committer.commit_snippets([write_snippets(committer.uri, committer.metadata, rows, {"a": -1})])
        assert IndexReader.open(str(folder)).tokens("a")[0].shape == (512, 4, 96)
        data = folder / "snippets.lance" / "data"
        sizes[store] = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
    print(f"512 snippets: {sizes['float32']} bytes in float32, {sizes['int8']} in int8")
    assert sizes["int8"] < 0.3 * sizes["float32"]


def test_an_index_keeps_to_the_way_it_was_begun(tmp_path: Path, media: Path, index_writer) -> None:
    into = tmp_path / "index"
    index_writer.create(into, {"/a.mp4": 3})
    assert IndexReader.open(str(into)).metadata.token_store == "int8"
    model = str(index_writer.checkpoint)
    options = IndexOptions(into=str(into), model=model, token_store="float32")
    with pytest.raises(IndexMismatchError, match="stores tokens as int8, not float32; use another index, or --rebuild"):
        index([str(media / "pancake.mkv")], options)
