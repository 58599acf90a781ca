"""A loaded public model, and what indexing asks of it: a snippet's pictures and sound to tokens.

Shapes: L clips, F pictures, H rows, W columns of pixels, N mel frames, M mels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.operators.hub.mel_front import MelFront
from longtake.operators.vlm.combiners import combine
from longtake.operators.vlm.family import MOST_TOKENS_A_STEP, Family
from longtake.operators.vlm.sound import raise_to_peak
from longtake.operators.vlm.tokens import SnippetTokens, whole_places


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a snippet shows and sounds like.

    `frames_FHWC` are uint8 pictures of the size that `VLM.frame_size` gave, at `times_s` on the video's clock. `mel_NM`
    are mel frames of the same window, of `sound.MelStream`, and `peak` the loudest value of the whole video's; None
    where there is no sound. `start_s` is the window's start.
    """

    frames_FHWC: Tensor
    times_s: tuple[float, ...]
    start_s: float = 0.0
    mel_NM: Tensor | None = None
    peak: float | None = None

    def __post_init__(self) -> None:
        if self.frames_FHWC.dtype != torch.uint8 or self.frames_FHWC.ndim != 4 or self.frames_FHWC.shape[-1] != 3:
            raise ValueError(
                f"pictures are {self.frames_FHWC.dtype} {tuple(self.frames_FHWC.shape)}; wanted uint8 [F, H, W, 3]"
            )
        if len(self.times_s) != len(self.frames_FHWC) or not self.times_s:
            raise ValueError(
                f"{len(self.frames_FHWC)} pictures with {len(self.times_s)} times; wanted as many, and some"
            )
        if (self.mel_NM is None) != (self.peak is None):
            raise ValueError("mel frames and their peak come together")


@dataclass(frozen=True, kw_only=True)
class VLM:
    """A public vision-language model, ready to use. `end_ids` are the token ids that end an answer; `fingerprint`
    changes with the config, the preprocessor or the weights, not with the dtype."""

    family: Family
    path: Path
    fingerprint: str
    end_ids: frozenset[int]

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, of transformers."""
        return self.family.prompt.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return torch.device(self.family.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = self.family.model.dtype
        return dtype

    @property
    def width(self) -> int:
        """D of the tokens that are stored."""
        return self.family.width

    @property
    def pictures_a_step(self) -> int:
        """Snippets hold a multiple of so many pictures (the last one may be short)."""
        return self.family.preparation.step

    @property
    def front(self) -> MelFront | None:
        """The sound front end; None where the model does not hear."""
        return self.family.front

    @property
    def sound_chunk_s(self) -> float:
        """Snippets with sound last a multiple of so many seconds (the last one may be short); 0 of a deaf model."""
        return self.family.sound_chunk_s

    @property
    def trained_positions(self) -> int:
        """How many positions the language model was made for; a longer prefix is read less well."""
        return int(self.family.language.config.max_position_embeddings)

    def frame_size(self, height: int, width: int, most_tokens: int = MOST_TOKENS_A_STEP) -> tuple[int, int]:
        """The (height, width) to bring a video's pictures to, so that a step takes at most `most_tokens` tokens.

        It is fixed for the whole video; `pictures.resize` does it on any device.
        """
        return self.family.frame_size(height, width, most_tokens)

    def encode_snippet(self, clip: Clip, *, combiner: str = "none", tokens: int | None = None) -> SnippetTokens:
        """One snippet to tokens; see `encode_snippets`."""
        return self.encode_snippets([clip], combiner=combiner, tokens=tokens)[0]

    @torch.no_grad()
    def encode_snippets(
        self, clips: Sequence[Clip], *, combiner: str = "none", tokens: int | None = None
    ) -> list[SnippetTokens]:
        """Snippets of one shape to tokens in one pass of the tower, the tokens on the CPU in the model's dtype.

        A snippet's tokens do not depend on the others, bit by bit as far as the device's matrix products do not
        depend on the number of rows; use one batch shape for a whole index.

        Args:
            combiner, tokens: as of `combiners.combine`.
        Raises:
            ValueError: no clip, clips of different shapes, a size that `frame_size` did not give, sound for a model
                that does not hear, sound for some clips only, or what `combine` refuses.
        """
        if not clips:
            raise ValueError("no clip to encode")
        shapes = {(tuple(c.frames_FHWC.shape), None if c.mel_NM is None else tuple(c.mel_NM.shape)) for c in clips}
        if len(shapes) > 1:
            raise ValueError(f"clips of one pass have one shape, not {sorted(map(str, shapes))}")
        frames_LFHWC = torch.stack([clip.frames_FHWC for clip in clips]).to(self.device)
        features_LTRCD = self.family.picture_features(frames_LFHWC)
        sound_LnD = self._sound(clips)
        _, steps, rows, columns, _ = features_LTRCD.shape
        made = []
        for number, clip in enumerate(clips):
            tokens_ND = features_LTRCD[number].flatten(0, 2)
            sounds = 0
            if sound_LnD is not None:
                tokens_ND, sounds = torch.cat([tokens_ND, sound_LnD[number]]), sound_LnD.shape[1]
            whole = SnippetTokens(
                tokens_ND=tokens_ND,
                places_N4=whole_places((steps, rows, columns), sounds),
                step_s=self.family.step_times(clip.times_s),
                rows=rows,
                columns=columns,
                sounds=sounds,
                sound_hz=self.family.sound_hz if sounds else 0.0,
                start_s=clip.start_s,
            )
            made.append(_on_cpu(combine(whole, combiner, tokens)))
        return made

    def _sound(self, clips: Sequence[Clip]) -> Tensor | None:
        mels = [
            raise_to_peak(clip.mel_NM.to(self.device).float(), clip.peak)
            for clip in clips
            if clip.mel_NM is not None and clip.peak is not None
        ]
        if not mels:
            return None
        if self.family.front is None:
            raise ValueError(f"{self.path.name} does not hear: encode its snippets without sound")
        if mels[0].shape[-1] != self.family.front.mels:
            raise ValueError(f"mel frames have {mels[0].shape[-1]} mels; wanted {self.family.front.mels}")
        if self.family.sound_count(mels[0].shape[0]) < 1:
            # The end of a video can hold less sound than one token takes.
            return None
        return self.family.sound_features(torch.stack(mels))


def _on_cpu(snippet: SnippetTokens) -> SnippetTokens:
    # A copy, so that a few kept tokens do not hold the whole snippet's memory.
    return replace(snippet, tokens_ND=snippet.tokens_ND.cpu().clone(), places_N4=snippet.places_N4.cpu())
