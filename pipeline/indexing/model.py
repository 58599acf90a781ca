"""The model of an index, LongTake's own or a public one, as indexing needs it: without holding its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from longtake.errors import InputError
from longtake.operators.model.checkpoint import load_model
from longtake.operators.vlm.combiners import CombinerName
from longtake.operators.vlm.describe import describe_vlm
from longtake.operators.vlm.family import MOST_TOKENS_A_STEP
from longtake.pipeline.media.model_input import ModelInput, NativeInput
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.vlm_input import VLMInput
from longtake.pipeline.table.metadata import IndexMetadata, is_vlm, vlm_path
from longtake.pipeline.table.token_columns import TokenStore

# How a public model is read unless the caller or the index says otherwise: 16 tokens a picture.
VLM_RATE_HZ, VLM_FRAMES, VLM_COMBINER, VLM_TOKENS = 2.0, 8, "pool", 128


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How a public model's snippets are compressed, as far as the caller says: None leaves it to the index, or to the
    defaults. `combiner` "none" keeps every token."""

    combiner: str | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.combiner is not None and self.combiner not in get_args(CombinerName):
            raise InputError(f"combiner {self.combiner!r}: wanted {', '.join(get_args(CombinerName))}")
        if self.tokens is not None and self.tokens < 1:
            raise InputError(f"{self.tokens} tokens a snippet: wanted at least 1")
        if self.tokens is not None and self.combiner == "none":
            raise InputError(f"the combiner none keeps every token, so {self.tokens} tokens a snippet mean nothing")


@dataclass(frozen=True, kw_only=True)
class IndexModel:
    """What a job is made of on the side of its model."""

    model_input: ModelInput
    metadata: IndexMetadata
    sampling: Sampling
    encode_stage: str


def index_model(
    model: str,
    compression: Compression,
    sampling: Sampling | None,
    token_store: TokenStore | None,
    told: IndexMetadata | None,
) -> IndexModel:
    """The model that is to write an index.

    Args:
        model: a checkpoint's directory, a shipped name, or "vlm:PATH".
        sampling, token_store: None means the index's own, or the model's rate and int8.
        told: what the index says of itself, if there is one.
    Raises:
        CheckpointError: the model cannot be read.
        InputError: it cannot be used in this way.
    """
    if sampling is None and told is not None:
        sampling = Sampling(rate_hz=told.rate_hz, frames=told.frames)
    made = _public if is_vlm(model) else _own
    found = made(model, compression, sampling, token_store or "int8", told)
    found.model_input.require_sampling(found.sampling)
    return found


def _own(
    model: str, compression: Compression, sampling: Sampling | None, store: TokenStore, told: IndexMetadata | None
) -> IndexModel:
    if compression != Compression():
        raise InputError(f"model {model} has a combiner of its own; another one is for public models, vlm:PATH")
    loaded = load_model(model, encoders=False)
    config = loaded.config
    sampling = sampling or Sampling(rate_hz=config.rate_hz)
    metadata = IndexMetadata(
        model=model,
        fingerprint=loaded.fingerprint,
        tokens=config.combiner.tokens,
        width=config.width,
        rate_hz=sampling.rate_hz,
        frames=sampling.frames,
        token_store=store,
    )
    return IndexModel(
        model_input=NativeInput(config=config),
        metadata=metadata,
        sampling=sampling,
        encode_stage="longtake.pipeline.indexing.stages.encode:EncodeStage",
    )


def _public(
    model: str, compression: Compression, sampling: Sampling | None, store: TokenStore, told: IndexMetadata | None
) -> IndexModel:
    described = describe_vlm(vlm_path(model))
    sampling = sampling or Sampling(rate_hz=VLM_RATE_HZ)
    own = told if told is not None and told.kind == "vlm" else None
    combiner = compression.combiner or (own.combiner if own else VLM_COMBINER)
    tokens = compression.tokens
    if tokens is None:
        tokens = own.tokens if own and own.combiner == combiner else 0 if combiner == "none" else VLM_TOKENS
    if combiner == "none" and tokens:
        raise InputError(f"this index keeps every token (combiner none), so {tokens} tokens a snippet mean nothing")
    if described.front is not None and tokens == 1:
        raise InputError(f"{described.path.name} hears: a snippet needs 2 tokens at least, one of them of sound")
    metadata = IndexMetadata(
        model=model,
        fingerprint=described.fingerprint,
        tokens=tokens,
        width=described.width,
        rate_hz=sampling.rate_hz,
        frames=sampling.frames,
        token_store=store,
        kind="vlm",
        combiner=combiner,
        snippet_frames=own.snippet_frames if own else VLM_FRAMES,
        most_tokens_a_step=own.most_tokens_a_step if own else MOST_TOKENS_A_STEP,
        sound_hz=described.sound_hz,
    )
    return IndexModel(
        model_input=VLMInput(model=described, frames=metadata.snippet_frames, most_tokens=metadata.most_tokens_a_step),
        metadata=metadata,
        sampling=sampling,
        encode_stage="longtake.pipeline.indexing.stages.encode_vlm:VLMStage",
    )


def vlm_input(metadata: IndexMetadata, model: str) -> VLMInput:
    """The input of an index that a public model writes.

    Raises:
        CheckpointError: the model cannot be read.
    """
    described = describe_vlm(vlm_path(model))
    return VLMInput(model=described, frames=metadata.snippet_frames, most_tokens=metadata.most_tokens_a_step)
