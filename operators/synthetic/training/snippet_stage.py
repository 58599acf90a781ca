"""The first stage: snippets one by one, each with a full description of what happens in it.

A question gives a few bits about a whole video; a description gives some twenty about every snippet, so the encoders
and the combiner learn an order of magnitude faster. The description is read off by linear heads that are thrown away
afterwards: off the encoders' features (whichever token of a half says "red" most), and off the combined tokens, which
must also say what was on screen while a sound was heard.

Shapes: S snippets, N feature tokens, m combined tokens, D width, F pictures, A mel frames.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from longtake.operators.model.combiners import Features
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.encoders.own import centre_positions
from longtake.operators.model.feature_layout import FeatureLayout
from longtake.operators.synthetic.script import BEAT_S
from longtake.operators.synthetic.training.render import render_clips
from longtake.operators.synthetic.training.task import Part, Task


class SnippetHeads(nn.Module):
    """Linear readers of descriptions, for training only. `layout` is the one of the features that they will read."""

    def __init__(self, config: ModelConfig, layout: FeatureLayout, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        for name, second_N in (("video", _second_pictures(config, layout)), ("audio", _second_sound(config, layout))):
            # Where one token spans the whole snippet, it is read for both halves.
            whole = not second_N.any()
            self.register_buffer(f"first_{name}_N", ~second_N, persistent=False)
            self.register_buffer(f"second_{name}_N", ~second_N if whole else second_N, persistent=False)
        self.readers = nn.ModuleDict()
        for part in self.parts:
            if part.reader is not None and part.reader not in self.readers:
                self.readers[part.reader] = nn.Linear(config.width, part.values)
        self.tokens = nn.Linear(config.width * config.combiner.tokens, sum(part.values for part in self.parts))

    def forward(
        self, features: Features, tokens_SmD: Tensor, truth_SP: Tensor, sound_S: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        """The losses of the features' and of the tokens' descriptions.

        Args:
            truth_SP: int64, the descriptions.
            sound_S: bool, False where the snippet came without sound: what was heard is not asked there.
        Returns:
            two scalar losses, and for each part the share of snippets that the tokens describe rightly.
        """
        truth = truth_SP.unbind(1)
        read = [
            self._loss(part, self._read(part, features), truth_S, sound_S)
            for part, truth_S in zip(self.parts, truth, strict=True)
            if part.reader is not None
        ]
        joint = self.tokens(tokens_SmD.flatten(1)).split([part.values for part in self.parts], dim=1)
        told = [
            self._loss(part, logits_SC, truth_S, sound_S)
            for part, logits_SC, truth_S in zip(self.parts, joint, truth, strict=True)
        ]
        # What is "none" most of the time would flatter the share: it is taken where there is something.
        right = {}
        for part, logits_SC, truth_S in zip(self.parts, joint, truth, strict=True):
            there_S = (truth_S > 0) & (sound_S | (not part.of_sound))
            if bool(there_S.any()):
                right[part.name] = (logits_SC.argmax(1) == truth_S)[there_S].float().mean().item()
        return torch.stack(read).mean(), torch.stack(told).mean(), right

    def hear(self, features_SND: Tensor, truth_SP: Tensor) -> Tensor:
        """The loss of descriptions of snippets with sound, of the parts that are heard, off the sound's features."""
        losses = [
            self._loss(part, self._read_sense(part, features_SND), truth_S, truth_S >= 0)
            for part, truth_S in zip(self.parts, truth_SP.unbind(1), strict=True)
            if part.reader is not None and part.sense == "audio"
        ]
        return torch.stack(losses).mean()

    def _read(self, part: Part, features: Features) -> Tensor:
        """A part's logits [S, C] off the features of its sense and half."""
        return self._read_sense(part, features.video_BND if part.sense == "video" else features.audio_BND)

    def _read_sense(self, part: Part, features_SND: Tensor) -> Tensor:
        if part.half is not None:
            features_SND = features_SND[:, self.get_buffer(f"{part.half}_{part.sense}_N")]
        assert part.reader is not None
        if part.reads == "mean":
            logits_SC: Tensor = self.readers[part.reader](features_SND.mean(1))
            return logits_SC
        return self._loudest(self.readers[part.reader](features_SND))

    @staticmethod
    def _loudest(logits_SNC: Tensor) -> Tensor:
        """Logits of a set of tokens: a value counts where any token says so; "none" (the first) where all do."""
        something = logits_SNC[..., 1:].float().logsumexp(1)
        nothing = logits_SNC[..., :1].float().mean(1)
        return torch.cat([nothing, something], dim=-1)

    @staticmethod
    def _loss(part: Part, logits_SC: Tensor, truth_S: Tensor, sound_S: Tensor) -> Tensor:
        losses_S = F.cross_entropy(logits_SC.float(), truth_S, reduction="none")
        if part.of_sound:
            return (losses_S * sound_S).sum() / sound_S.sum().clamp_min(1)
        return losses_S.mean()


def _second_pictures(config: ModelConfig, layout: FeatureLayout) -> Tensor:
    """Which video tokens are centred in the snippet's second half; bool [N]."""
    video = config.video
    if video.pretrained is None:
        return torch.cat([centre_positions(tube, video.clip)[:, 0] for tube in video.tubes]) >= video.frames / 2
    ((steps, rows, columns),) = layout.video
    return (torch.arange(steps) + 0.5 > steps / 2).repeat_interleave(rows * columns)


def _second_sound(config: ModelConfig, layout: FeatureLayout) -> Tensor:
    """Which sound tokens lie in the beat's second half; bool [N]."""
    times, bands = layout.audio
    # A public encoder may have room for more than a beat.
    beat = 1.0 if config.audio.pretrained is None else BEAT_S * config.audio.sample_rate_hz / config.audio.frames
    return (torch.arange(times) >= times * beat / 2).repeat_interleave(bands)


@dataclass(frozen=True, kw_only=True)
class SnippetStage:
    """How the batches of the first stage are made: `videos` short videos of `beats` beats."""

    videos: int
    beats: int


@dataclass(frozen=True, kw_only=True)
class Ears:
    """Beats that are heard and not seen."""

    audio: Tensor  # what the sound encoder takes, as it is stored
    audio_mask: Tensor
    truth_SP: Tensor  # int64, their description


@dataclass(frozen=True, kw_only=True)
class SnippetBatch:
    """A batch of the first stage."""

    clips: Any  # `Clips`, or `StoredClips` of a run on stored beats
    truth_SP: Tensor  # int64, the snippets' description
    ears: Ears | None = None


class SnippetDataset(Dataset[SnippetBatch]):
    """Item n is the batch of step n."""

    def __init__(self, config: ModelConfig, task: Task[Any], stage: SnippetStage, steps: int, seed: int) -> None:
        self.config, self.task, self.stage, self.steps, self.seed = config, task, stage, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> SnippetBatch:
        rng = random.Random(f"snippets {self.seed} {step}")
        world = self.task.world
        scripts = [world.script(rng.randrange(2**62), self.stage.beats) for _ in range(self.stage.videos)]
        clips = render_clips(scripts, self.config, np.random.default_rng(rng.randrange(2**62)), world)
        return SnippetBatch(clips=clips, truth_SP=torch.cat([self.task.describe(script) for script in scripts]))
