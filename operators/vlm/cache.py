"""The language model's cache, made for one prefix and many questions.

The stock layers of full attention grow by concatenation, which copies all keys and values for each new token. Here a
layer appends in place, in a buffer with room to spare; a fork shares the keys and values until its first token and
copies them then, once. The state of linear attention is written in place by the model and is copied at the fork: a
few hundred kilobytes a layer, whatever the video's length.

Shapes: G groups of heads, K keys, E head width.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from torch import Tensor

# Tokens that a question and its answer may add before a buffer is copied again.
ROOM = 512


def new_cache(config: Any, room: int = ROOM) -> Any:
    """An empty cache for a language model's config, with room for so many tokens."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache(config=config)
    # Sliding windows and linear attention keep their own layers.
    cache.layers = [_growing(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def fork(cache: Any) -> Any:
    """A cache that goes on from another one, which stays as it is."""
    forked = copy.copy(cache)
    forked.layers = [_fork_layer(layer) for layer in cache.layers]
    return forked


def size_bytes(cache: Any) -> int:
    """What a cache takes on its device."""
    storages = [tensor.untyped_storage() for layer in cache.layers for tensor in _tensors(layer)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _fork_layer(layer: Any) -> Any:
    if hasattr(layer, "recurrent_states"):
        return copy.deepcopy(layer)
    forked = copy.copy(layer)
    if isinstance(layer, _growing_class()):
        forked.room, forked.held = ROOM, None
    return forked


def _tensors(layer: Any) -> list[Tensor]:
    values = list(vars(layer).values())
    values += [one for value in values if isinstance(value, dict) for one in value.values()]
    return [value for value in values if isinstance(value, Tensor)]


def _append(layer: Any, key_1GKE: Tensor, value_1GKE: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """`update` of a growing layer: all keys and values so far, as views of its buffers."""
    if not layer.is_initialized:
        layer.lazy_initialization(key_1GKE, value_1GKE)
    before, after = layer.get_seq_length(), layer.get_seq_length() + key_1GKE.shape[2]
    if layer.held is None or after > layer.held[0].shape[2]:
        capacity = max(after, before + layer.room)
        held = tuple(new.new_empty(*new.shape[:2], capacity, new.shape[3]) for new in (key_1GKE, value_1GKE))
        if before:
            held[0][:, :, :before], held[1][:, :, :before] = layer.keys, layer.values
        layer.held, layer.room = held, ROOM
    layer.held[0][:, :, before:after] = key_1GKE
    layer.held[1][:, :, before:after] = value_1GKE
    layer.keys, layer.values = (buffer[:, :, :after] for buffer in layer.held)
    return layer.keys, layer.values


@functools.cache
def _growing_class() -> Any:
    from transformers.cache_utils import DynamicLayer

    return type("GrowingLayer", (DynamicLayer,), {"update": _append})


def _growing(room: int) -> Any:
    layer = _growing_class()()
    layer.room, layer.held = room, None
    return layer
