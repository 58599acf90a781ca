"""How a snippet's tokens lie in the snippets table: int8 with a scale a token, bfloat16, or float32.

LongTake's own models give every snippet as many tokens, in columns of fixed size. A public model's snippets hold as
many as were kept, each with its place (`vlm_columns`). bfloat16 numbers lie as their 16 bits, in uint16.

Shapes: T rows, m tokens a row, N tokens of any number, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from longtake.kernels.token_codec.op import decode, encode

# In int8 each token has a float32 scale of its own.
TokenStore: TypeAlias = Literal["int8", "bfloat16", "float32"]
NUMBERS: dict[TokenStore, pa.DataType] = {"int8": pa.int8(), "bfloat16": pa.uint16(), "float32": pa.float32()}


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
    kind = NUMBERS[stored.token_store]
    fields = [pa.field("tokens", pa.list_(kind, stored.tokens * stored.width), nullable=False)]
    if stored.token_store == "int8":
        fields.append(pa.field("scales", pa.list_(pa.float32(), stored.tokens), nullable=False))
    return fields


def to_columns(tokens_TmD: np.ndarray, stored: Stored) -> dict[str, pa.Array]:
    """float32 tokens as these columns."""
    return {name: _fixed(numbers) for name, numbers in pack(tokens_TmD, stored.token_store).items()}


def from_columns(columns: Mapping[str, Any], stored: Stored) -> np.ndarray:
    """What `to_columns` stored, as float32 [T, m, D]."""
    numbers = {name: flat(column) for name, column in columns.items()}
    tokens_ND = unpack(numbers, stored.token_store, stored.width, torch.float32)
    return tokens_ND.reshape(-1, stored.tokens, stored.width).numpy()


def pack(tokens: np.ndarray, store: TokenStore) -> dict[str, np.ndarray]:
    """float32 tokens [..., D] as what is stored of them: their numbers, and in int8 their scales [..., 1]."""
    if store == "float32":
        return {"tokens": tokens}
    if store == "bfloat16":
        return {"tokens": torch.from_numpy(tokens).bfloat16().view(torch.uint16).numpy()}
    codes, scales = encode(torch.from_numpy(tokens))
    return {"tokens": codes.numpy(), "scales": scales.numpy()}


def unpack(numbers: Mapping[str, np.ndarray], store: TokenStore, width: int, dtype: torch.dtype) -> Tensor:
    """What `pack` gave, each array flattened, as tokens [N, D] of a dtype."""
    stored_ND = torch.from_numpy(numbers["tokens"].reshape(-1, width))
    if store == "int8":
        return decode(stored_ND, torch.from_numpy(numbers["scales"].reshape(-1, 1)), dtype)
    return (stored_ND.view(torch.bfloat16) if store == "bfloat16" else stored_ND).to(dtype)


def _fixed(numbers: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.reshape(-1)), numbers[0].size)


def flat(column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists as one array of their items, which may be written to."""
    parts = [np.asarray(chunk.flatten()) for chunk in column.chunks]
    kind = column.type.value_type.to_pandas_dtype()
    return np.concatenate(parts) if parts else np.zeros(0, kind)
