"""A video read once: the language model's state after the video, kept for any number of questions.

Shapes: S entries of the prefix, D width, A axes of position, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from longtake.operators.vlm.cache import fork, new_cache, size_bytes
from longtake.operators.vlm.family import Family
from longtake.operators.vlm.layout import NEWLINE, STORED, Layout, Positions
from longtake.operators.vlm.model import VLM
from longtake.operators.vlm.tokens import VideoTokens

# Entries a pass of the language model: bounds the memory of activations and masks; the result is the same.
CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The kept state. `cache` is never run on itself: `fork` gives each question its own.

    `snippet_S` is the number of the snippet that each entry belongs to, -1 of text; `snippets` how many the video has.
    """

    layout: Layout
    cache: Any
    snippet_S: Tensor
    snippets: int
    before: str
    system: str | None
    positions: Positions

    def __len__(self) -> int:
        return len(self.layout)

    @property
    def size_bytes(self) -> int:
        """What the kept state takes on its device."""
        return size_bytes(self.cache)

    def fork(self) -> Any:
        """A cache that goes on from here."""
        return fork(self.cache)


@torch.no_grad()
def read_video(
    vlm: VLM,
    video: VideoTokens,
    *,
    keep_S: Tensor | None = None,
    positions: Positions = "trained",
    system: str | None = None,
    chunk: int = CHUNK,
) -> Prefix:
    """Read a video, or a part of it, once.

    Args:
        keep_S: bool, the stored tokens that take part (`VideoTokens.span`, `VideoTokens.of_snippets`); None for all.
            The others are as if they had been dropped: those that take part keep their positions.
        positions: "trained", as the model was trained; "hf", as the installed transformers lays a video out.
        system: a system message, where the model's template takes one.
        chunk: entries a pass of the language model.
    Raises:
        ValueError: tokens of another model's width, a mask of another length, or nothing to read.
    """
    family = vlm.family
    stored = len(video.snippet_S)
    if video.tokens_SD.shape[1] != vlm.width:
        raise ValueError(f"tokens are {video.tokens_SD.shape[1]} wide; {vlm.path.name} wants {vlm.width}")
    keep_S = torch.ones(stored, dtype=torch.bool) if keep_S is None else keep_S.cpu()
    if keep_S.shape != (stored,) or keep_S.dtype != torch.bool:
        raise ValueError(f"the mask is {keep_S.dtype} {tuple(keep_S.shape)}; wanted bool [{stored}]")
    if not bool(keep_S.any()):
        raise ValueError("the span holds no token")
    around = family.prompt.around("?", system)
    layout = family.layout(video, keep_S, around, positions)
    cache = new_cache(family.language.config, len(layout))
    embeddings_SD = embed(family, layout, video)
    for start in range(0, len(layout), chunk):
        part = slice(start, start + chunk)
        run(family, cache, embeddings_SD[part], layout.positions_AS[:, part])
    inside_S = layout.stored_S >= 0
    snippet_S = torch.where(inside_S, video.snippet_S[layout.stored_S.clamp_min(0)], -1)
    return Prefix(
        layout=layout,
        cache=cache,
        snippet_S=snippet_S,
        snippets=len(video.snippets),
        before=around.before,
        system=system,
        positions=positions,
    )


def embed(family: Family, layout: Layout, video: VideoTokens) -> Tensor:
    """What the language model reads at each entry of a layout, [S, D] on its device and in its dtype."""
    table = family.model.get_input_embeddings()
    device = table.weight.device
    embeddings_SD: Tensor = table(layout.ids_S.clamp_min(0).to(device)).clone()
    stored_S = (layout.ids_S == STORED).to(device)
    numbers_K = layout.stored_S[layout.ids_S == STORED]
    embeddings_SD[stored_S] = video.tokens_SD[numbers_K].to(device, embeddings_SD.dtype)
    newline_S = layout.ids_S == NEWLINE
    if bool(newline_S.any()):
        embeddings_SD[newline_S.to(device)] = family.extra_vector().to(embeddings_SD.dtype)
    return embeddings_SD


def run(family: Family, cache: Any, embeddings_SD: Tensor, positions_AS: Tensor) -> Tensor:
    """One pass of the language model that extends `cache`; its last hidden states, [S, D]."""
    position_ids = positions_AS.to(embeddings_SD.device)
    hidden: Tensor = family.language(
        inputs_embeds=embeddings_SD[None],
        # One axis: [1, S]; several: [A, 1, S].
        position_ids=position_ids if family.axes == 1 else position_ids[:, None],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return hidden[0]


def logits(family: Family, hidden_SD: Tensor) -> Tensor:
    """The head's logits, float32 [S, V]."""
    made: Tensor = family.model.lm_head(hidden_SD)
    return made.float()
