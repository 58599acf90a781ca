"""The cache: appending in place gives what concatenation gives, and a fork leaves its origin alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", minversion="5.18")

from transformers import DynamicCache, Qwen2Config, Qwen3_5TextConfig

from longtake.operators.vlm.cache import ROOM, fork, new_cache, size_bytes


def rows(count: int, seed: int) -> Tensor:
    """Keys or values of `count` tokens."""
    return torch.randn(1, 2, count, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("room", [1, 5, 64])
def test_appending_gives_what_concatenation_gives(room: int) -> None:
    config = Qwen2Config(num_hidden_layers=2)
    ours, stock = new_cache(config, room), DynamicCache(config=config)
    for number, count in enumerate((3, 1, 1, 7, 1)):
        for layer in (0, 1):
            given = rows(count, number), rows(count, 99 + number)
            assert all(map(torch.equal, ours.update(*given, layer), stock.update(*given, layer)))
        assert ours.get_seq_length() == stock.get_seq_length()
        assert ours.get_mask_sizes(4, 0) == stock.get_mask_sizes(4, 0)


@pytest.mark.parametrize("room", [8, 64])
def test_forks_and_their_origin_do_not_see_each_other(room: int) -> None:
    origin = new_cache(Qwen2Config(num_hidden_layers=1), room)
    origin.update(rows(5, 0), rows(5, 1), 0)
    caches = [*(fork(origin) for _ in range(3)), origin]
    # Token by token in turn, so that each writes where another has just written.
    for step in range(4):
        for number, one in enumerate(caches):
            one.update(rows(1, 10 * number + step), rows(1, 500 + 10 * number + step), 0)
    for number, one in enumerate(caches):
        layer = one.layers[0]
        assert torch.equal(layer.keys, torch.cat([rows(5, 0), *(rows(1, 10 * number + n) for n in range(4))], dim=2))
        said = [rows(1, 500 + 10 * number + n) for n in range(4)]
        assert torch.equal(layer.values, torch.cat([rows(5, 1), *said], dim=2))
        assert one.get_seq_length() == 9


def test_a_fork_copies_once_and_not_for_each_token() -> None:
    origin = new_cache(Qwen2Config(num_hidden_layers=1), 8)
    origin.update(rows(8, 0), rows(8, 1), 0)
    forked: Any = fork(origin)
    assert forked.layers[0].keys is origin.layers[0].keys
    places = set()
    for step in range(ROOM):
        keys, _ = forked.update(rows(1, step), rows(1, step), 0)
        places.add(keys.data_ptr())
    assert len(places) == 1 and keys.data_ptr() != origin.layers[0].keys.data_ptr()
    forked.update(rows(1, 0), rows(1, 0), 0)
    assert forked.layers[0].keys.data_ptr() not in places


def test_what_a_cache_takes() -> None:
    cache = new_cache(Qwen2Config(num_hidden_layers=3), 10)
    for layer in range(3):
        cache.update(rows(6, 0), rows(6, 1), layer)
    # Three layers of keys and values, with room for ten.
    assert size_bytes(cache) == 3 * 2 * 2 * 10 * 4 * 4


def test_linear_attention_keeps_its_own_layers() -> None:
    config = Qwen3_5TextConfig(num_hidden_layers=4, full_attention_interval=2)
    kinds = [type(layer).__name__ for layer in new_cache(config).layers]
    assert kinds == ["LinearAttentionLayer", "GrowingLayer"] * 2
