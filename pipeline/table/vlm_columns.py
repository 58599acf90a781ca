"""How a public model's snippets lie in the snippets table: any number of tokens each, and where each one belongs.

What `operators.vlm.SnippetTokens` holds comes back exactly, but for the rounding of the tokens themselves.

Shapes: N tokens of a snippet, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from longtake.operators.vlm.tokens import SnippetTokens
from longtake.pipeline.table.token_columns import NUMBERS, TokenStore, flat, pack, unpack


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where a snippet's tokens belong; see `SnippetTokens`. `places_N4` is int16, without its tensor."""

    places_N4: np.ndarray
    step_s: tuple[float, ...]
    rows: int
    columns: int
    sounds: int

    @staticmethod
    def of(snippet: SnippetTokens) -> Places:
        """Those of a snippet."""
        return Places(
            places_N4=snippet.places_N4.numpy(),
            step_s=snippet.step_s,
            rows=snippet.rows,
            columns=snippet.columns,
            sounds=snippet.sounds,
        )


def vlm_fields(store: TokenStore) -> list[pa.Field]:
    """The columns that hold tokens and places."""
    kinds: dict[str, pa.DataType] = {"tokens": pa.large_list(NUMBERS[store])}
    if store == "int8":
        kinds["scales"] = pa.large_list(pa.float32())
    kinds |= {"places": pa.large_list(pa.int16()), "step_s": pa.large_list(pa.float64())}
    kinds |= {name: pa.int32() for name in ("grid_rows", "grid_columns", "sounds")}
    return [pa.field(name, kind, nullable=False) for name, kind in kinds.items()]


def to_vlm_columns(tokens: Sequence[np.ndarray], places: Sequence[Places], store: TokenStore) -> dict[str, pa.Array]:
    """float32 tokens [N, D] of each row, with their places, as these columns."""
    packed = pack(np.concatenate(tokens), store)
    made = {name: _lists(numbers, [row.shape[0] for row in tokens]) for name, numbers in packed.items()}
    made["places"] = _lists(np.concatenate([row.places_N4 for row in places]), [len(row.places_N4) for row in places])
    steps = [len(row.step_s) for row in places]
    made["step_s"] = _lists(np.array([time_s for row in places for time_s in row.step_s], np.float64), steps)
    whole: dict[str, Callable[[Places], int]] = {
        "grid_rows": lambda row: row.rows,
        "grid_columns": lambda row: row.columns,
        "sounds": lambda row: row.sounds,
    }
    return made | {name: pa.array([read(row) for row in places], pa.int32()) for name, read in whole.items()}


def from_vlm_columns(
    columns: Mapping[str, Any], start_ns: np.ndarray, *, store: TokenStore, width: int, sound_hz: float,
    dtype: torch.dtype,
) -> list[SnippetTokens]:  # fmt: skip
    """What `to_vlm_columns` stored, row by row.

    Args:
        start_ns: where each row's snippet starts; its `start_s` follows from it.
        sound_hz: sound tokens a second, of snippets that have any.
        dtype: of the tokens.
    """
    numbers = {name: flat(columns[name]) for name in ("tokens", "scales") if name in columns}
    tokens_SD = unpack(numbers, store, width, dtype)
    counts = [count // width for count in _lengths(columns["tokens"])]
    places_S4 = torch.from_numpy(flat(columns["places"]).reshape(-1, 4).copy())
    steps, step_s = _lengths(columns["step_s"]), flat(columns["step_s"]).tolist()
    rows, columns_, sounds = (columns[name].to_pylist() for name in ("grid_rows", "grid_columns", "sounds"))
    made, token, step = [], 0, 0
    for row, count in enumerate(counts):
        made.append(
            SnippetTokens(
                tokens_ND=tokens_SD[token : token + count],
                places_N4=places_S4[token : token + count],
                step_s=tuple(step_s[step : step + steps[row]]),
                rows=rows[row],
                columns=columns_[row],
                sounds=sounds[row],
                sound_hz=sound_hz if sounds[row] else 0.0,
                start_s=start_s(int(start_ns[row])),
            )
        )
        token, step = token + count, step + steps[row]
    return made


def start_s(start_ns: int) -> float:
    """A snippet's start in seconds: one way to round, for writing and for reading."""
    return start_ns / 1e9


def floats(tokens_ND: Tensor) -> np.ndarray:
    """Tokens of any dtype as float32, which holds every one of the narrower dtypes' numbers."""
    made: np.ndarray = tokens_ND.float().contiguous().numpy()
    return made


def _lists(numbers: np.ndarray, counts: Sequence[int]) -> pa.LargeListArray:
    """Rows of `counts` items each, an item being all numbers of one entry of the first axis."""
    each = numbers.size // max(1, len(numbers))
    edges = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]) * each
    return pa.LargeListArray.from_arrays(pa.array(edges, pa.int64()), pa.array(numbers.reshape(-1)))


def _lengths(column: pa.ChunkedArray) -> list[int]:
    lengths: list[int] = [int(one) for chunk in column.chunks for one in chunk.value_lengths().to_pylist()]
    return lengths
