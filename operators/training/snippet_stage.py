"""The first stage: snippets one by one, each with a full description of what happens in it.

A question gives a few bits about a whole video; a description gives some twenty about every snippet, so the encoders
and the combiner learn an order of magnitude faster. The description is read off by linear heads that are thrown away
afterwards: off the encoders' features (whichever token of a half says "red" most), and off the combined tokens, which
must also say what was on screen while a sound was heard.

Shapes: S snippets, N feature tokens, m combined tokens, D width, F pictures, A mel frames.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from longtake.operators.combiners import Features
from longtake.operators.config import ModelConfig
from longtake.operators.encoders import centre_positions
from longtake.operators.feature_layout import FeatureLayout
from longtake.operators.training.batches import Clips, render_clips
from longtake.operators.world.script import BEAT_S, COLOURS, SHAPES, SOUNDS, Script, Thing, write_script

# What a description says, and how many values each part has; 0 is "none" everywhere.
PARTS = {
    "colour_first": len(COLOURS) + 1,
    "colour_second": len(COLOURS) + 1,
    "shape_first": len(SHAPES) + 1,
    "shape_second": len(SHAPES) + 1,
    "sound_first": len(SOUNDS) + 1,
    "sound_second": len(SOUNDS) + 1,
    "flash": 2,
    "colour_heard": len(COLOURS) + 1,
    "shape_heard": len(SHAPES) + 1,
}


def describe(script: Script) -> Tensor:
    """The description of every beat, int64 [beats, parts], in the order of `PARTS`."""
    rows = []
    for beat in range(script.beats):
        halves = [beat * BEAT_S + BEAT_S * part for part in (0.25, 0.75)]
        shown = [script.thing_at(time) for time in halves]
        heard: list[int] = []
        heard_with: Thing | None = None
        for time in halves:
            sounding = [s for s in script.sounds if s.name in SOUNDS and s.start_s <= time < s.stop_s]
            heard.append(SOUNDS.index(sounding[0].name) + 1 if sounding else 0)
            if sounding:
                heard_with = script.thing_at(time)
        flash = any(f.start_s < (beat + 1) * BEAT_S and f.stop_s > beat * BEAT_S for f in script.flashes)
        rows.append(
            [
                *(_colour(thing) for thing in shown),
                *(_shape(thing) for thing in shown),
                *heard,
                int(flash),
                _colour(heard_with),
                _shape(heard_with),
            ]
        )
    return torch.tensor(rows)


def _colour(thing: Thing | None) -> int:
    return COLOURS.index(thing.colour) + 1 if thing else 0


def _shape(thing: Thing | None) -> int:
    return SHAPES.index(thing.shape) + 1 if thing else 0


class SnippetHeads(nn.Module):
    """Linear readers of descriptions, for training only. `layout` is the one of the features that they will read."""

    def __init__(self, config: ModelConfig, layout: FeatureLayout) -> None:
        super().__init__()
        self.parts = dict(PARTS)
        for name, second_N in (("video", _second_pictures(config, layout)), ("audio", _second_sound(config, layout))):
            # Where one token spans the whole snippet, it is read for both halves.
            whole = not second_N.any()
            self.register_buffer(f"first_{name}_N", ~second_N, persistent=False)
            self.register_buffer(f"second_{name}_N", ~second_N if whole else second_N, persistent=False)
        self.colour = nn.Linear(config.width, PARTS["colour_first"])
        self.shape = nn.Linear(config.width, PARTS["shape_first"])
        self.sound = nn.Linear(config.width, PARTS["sound_first"])
        self.flash = nn.Linear(config.width, PARTS["flash"])
        self.tokens = nn.Linear(config.width * config.combiner.tokens, sum(PARTS.values()))

    def forward(
        self, features: Features, tokens_SmD: Tensor, truth_SP: Tensor, sound_S: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        """The losses of the features' and of the tokens' descriptions.

        Args:
            truth_SP: from `describe`.
            sound_S: bool, False where the snippet came without sound: what was heard is not asked there.
        Returns:
            two scalar losses, and for each part the share of snippets that the tokens describe rightly.
        """
        truth = dict(zip(PARTS, truth_SP.unbind(1), strict=True))
        video, audio = features.video_BND, features.audio_BND
        first_v, second_v = self.get_buffer("first_video_N"), self.get_buffer("second_video_N")
        first_a, second_a = self.get_buffer("first_audio_N"), self.get_buffer("second_audio_N")
        read = {
            "colour_first": self._loudest(self.colour(video[:, first_v])),
            "colour_second": self._loudest(self.colour(video[:, second_v])),
            "shape_first": self._loudest(self.shape(video[:, first_v])),
            "shape_second": self._loudest(self.shape(video[:, second_v])),
            "sound_first": self._loudest(self.sound(audio[:, first_a])),
            "sound_second": self._loudest(self.sound(audio[:, second_a])),
            "flash": self.flash(video.mean(1)),
        }
        of_features = torch.stack([self._loss(name, logits, truth, sound_S) for name, logits in read.items()]).mean()
        joint = dict(zip(PARTS, self.tokens(tokens_SmD.flatten(1)).split(list(PARTS.values()), dim=1), strict=True))
        of_tokens = torch.stack([self._loss(name, logits, truth, sound_S) for name, logits in joint.items()]).mean()
        # What is "none" most of the time would flatter the share: it is taken where there is something.
        right = {}
        for name, logits in joint.items():
            there = (truth[name] > 0) & (sound_S | (name.split("_")[0] in ("colour", "shape") and "heard" not in name))
            if bool(there.any()):
                right[name] = (logits.argmax(1) == truth[name])[there].float().mean().item()
        return of_features, of_tokens, right

    @staticmethod
    def _loudest(logits_SNC: Tensor) -> Tensor:
        """Logits of a set of tokens: a value counts where any token says so; "none" (the first) where all do."""
        something = logits_SNC[..., 1:].float().logsumexp(1)
        nothing = logits_SNC[..., :1].float().mean(1)
        return torch.cat([nothing, something], dim=-1)

    @staticmethod
    def _loss(name: str, logits_SC: Tensor, truth: dict[str, Tensor], sound_S: Tensor) -> Tensor:
        losses_S = F.cross_entropy(logits_SC.float(), truth[name], reduction="none")
        if name.startswith("sound") or name.endswith("heard"):
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


class SnippetDataset(Dataset[tuple[Clips, Tensor]]):
    """Item n is the batch of step n: clips, and their description int64 [S, parts]."""

    def __init__(self, config: ModelConfig, stage: SnippetStage, steps: int, seed: int) -> None:
        self.config, self.stage, self.steps, self.seed = config, stage, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Clips, Tensor]:
        rng = random.Random(f"snippets {self.seed} {step}")
        scripts = [write_script(rng.randrange(2**62), self.stage.beats) for _ in range(self.stage.videos)]
        clips = render_clips(scripts, self.config, np.random.default_rng(rng.randrange(2**62)))
        return clips, torch.cat([describe(script) for script in scripts])
