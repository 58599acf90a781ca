"""How a snippet's tokens lie in the snippets table: int8 with a scale a token, or float32.

Shapes: T rows, m tokens a row, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import torch

from longtake.kernels.token_codec.op import decode, encode

# In int8 each token has a float32 scale of its own.
TokenStore = Literal["int8", "float32"]


class Stored(Protocol):
    """What an index's metadata says of its tokens."""

    @property
    def tokens(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def token_store(self) -> TokenStore: ...


def token_fields(stored: Stored) -> list[pa.Field]:
    """The columns that hold the tokens."""
    kind = pa.int8() if stored.token_store == "int8" else pa.float32()
    fields = [pa.field("tokens", pa.list_(kind, stored.tokens * stored.width), nullable=False)]
    if stored.token_store == "int8":
        fields.append(pa.field("scales", pa.list_(pa.float32(), stored.tokens), nullable=False))
    return fields


def to_columns(tokens_TmD: np.ndarray, stored: Stored) -> dict[str, pa.Array]:
    """float32 tokens as these columns."""
    if stored.token_store == "float32":
        return {"tokens": _fixed(tokens_TmD)}
    codes_TmD, scales_Tm1 = encode(torch.from_numpy(tokens_TmD))
    return {"tokens": _fixed(codes_TmD.numpy()), "scales": _fixed(scales_Tm1.numpy())}


def from_columns(columns: Mapping[str, Any], stored: Stored) -> np.ndarray:
    """What `to_columns` stored, as float32 [T, m, D]."""
    numbers_TmD = _flat(columns["tokens"]).reshape(-1, stored.tokens, stored.width)
    if stored.token_store == "float32":
        return numbers_TmD
    scales_Tm1 = _flat(columns["scales"]).reshape(-1, stored.tokens, 1)
    return decode(torch.from_numpy(numbers_TmD), torch.from_numpy(scales_Tm1), torch.float32).numpy()


def _fixed(numbers: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers[0].size)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    parts = [np.asarray(chunk.flatten()) for chunk in column.chunks]
    kind = column.type.value_type.to_pandas_dtype()
    return np.concatenate(parts) if parts else np.zeros(0, kind)
