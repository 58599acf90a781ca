"""The first stage of a variant: its combiner learns to describe single snippets, then gives tokens to all that follows.

As in the shipped training, a description teaches a combiner far faster than questions about whole videos do. The
combiner is frozen afterwards.

Shapes: S snippets, V videos, T snippets a video, m tokens, D width, P parts of a description, B beats of the pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longtake.operators.ablation.features import SnippetFeatures
from longtake.operators.model.combiners import Combiner, Features
from longtake.operators.synthetic.training.shapes_task import DESCRIPTION

# What of a video a variant is given.
Senses = Literal["both", "no_sound", "sound_shuffled", "no_picture", "none"]
# Snippets that a pass of a frozen combiner takes at once: bounds its memory.
CHUNK = 512
WEIGHT_DECAY = 0.03


@dataclass(frozen=True, kw_only=True)
class Describing:
    """How long the first stage is: `steps` of `snippets` beats; combiners with memory see them as rows of `row`."""

    steps: int
    snippets: int = 128
    row: int = 8
    rate: float = 2e-3


def rate_at(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def optimizer_of(module: nn.Module) -> torch.optim.AdamW:
    """AdamW over a module's trainable parameters, without decay of vectors."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def update(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One step at a rate, gradients clipped to norm 1.

    Raises:
        ValueError: the loss is not finite.
    """
    if not math.isfinite(loss.item()):
        raise ValueError(f"the loss is {loss.item()}; a lower rate is wanted")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def sensed(features: Features, senses: Senses) -> Features:
    """Features with what the variant is not given taken away."""
    if senses in ("no_sound", "none"):
        features = replace(
            features,
            audio_BND=torch.zeros_like(features.audio_BND),
            audio_mask_BN=torch.zeros_like(features.audio_mask_BN),
        )
    if senses in ("no_picture", "none"):
        features = replace(
            features,
            video_BND=torch.zeros_like(features.video_BND),
            video_mask_BN=torch.zeros_like(features.video_mask_BN),
        )
    return features


def describing_loss(logits_SP: Tensor, truth_SP: Tensor, heard_S: Tensor, parts: dict[str, int]) -> Tensor:
    """Mean cross-entropy of a description's parts; what was heard is not asked where there was no sound."""
    losses = []
    split = logits_SP.float().split(list(parts.values()), dim=1)
    for name, logits_SC, truth_S in zip(parts, split, truth_SP.unbind(1), strict=True):
        loss_S = F.cross_entropy(logits_SC, truth_S, reduction="none")
        if name.startswith("sound") or name.endswith("heard"):
            loss_S = loss_S * heard_S * (len(heard_S) / heard_S.sum().clamp_min(1))
        losses.append(loss_S.mean())
    return torch.stack(losses).mean()


def train_combiner(
    combiner: Combiner,
    features: SnippetFeatures,
    truth_BP: Tensor,
    senses: Senses,
    plan: Describing,
    seed: int,
    on_step: Callable[[int, float], None],
    parts: dict[str, int] = DESCRIPTION,
) -> float:
    """Train a combiner to describe the pool's beats, and freeze it.

    Args:
        truth_BP: int64, the beats' descriptions, in the order of `parts`.
        on_step: told the step and its loss.
    Returns:
        the share of right parts among those that are not "none", over the last tenth of the steps.
    """
    device = next(combiner.parameters()).device
    torch.manual_seed(seed)
    head = nn.Linear(combiner.tokens * combiner.config.width, sum(parts.values())).to(device)
    optimizer = optimizer_of(nn.ModuleList([combiner, head]))
    generator = torch.Generator().manual_seed(seed)
    of_sound = torch.tensor([name.startswith("sound") for name in parts])
    right, asked = 0, 0
    for step in range(plan.steps):
        pictures_S = torch.randint(len(features), (plan.snippets,), generator=generator)
        sounds_S = pictures_S.roll(1) if senses == "sound_shuffled" else pictures_S
        # What is heard is what sounds, wherever it was taken from.
        truth_SP = torch.where(of_sound, truth_BP[sounds_S], truth_BP[pictures_S]).to(device)
        given = sensed(features.of(pictures_S, sounds_S, device), senses)
        rows = plan.snippets // plan.row
        start_s = torch.arange(plan.row, dtype=torch.float32, device=device).expand(rows, -1)
        tokens_VTmD, _ = combiner.sequence(given, combiner.initial_memory(rows), start_s)
        logits_SP = head(tokens_VTmD.flatten(0, 1).flatten(1))
        loss = describing_loss(logits_SP, truth_SP, given.audio_mask_BN.any(1), parts)
        update(optimizer, loss, rate_at(step, plan.steps, min(100, plan.steps // 10 + 1), plan.rate))
        on_step(step + 1, loss.item())
        if step >= plan.steps * 0.9:
            said = torch.stack([part.argmax(1) for part in logits_SP.split(list(parts.values()), dim=1)], dim=1)
            right += int(((said == truth_SP) & (truth_SP > 0)).sum())
            asked += int((truth_SP > 0).sum())
    combiner.requires_grad_(False)
    combiner.eval()
    return right / max(1, asked)


class TokenSource:
    """A frozen combiner's tokens of long videos made of a pool's beats.

    A combiner without memory gives each beat the same tokens wherever it stands: they are computed once, unless the
    sound is shuffled between the snippets of each video.
    """

    def __init__(self, combiner: Combiner, features: SnippetFeatures, senses: Senses) -> None:
        self.combiner, self.features, self.senses = combiner, features, senses
        self.device = next(combiner.parameters()).device
        self.pooled_BmD: Tensor | None = None
        if combiner.initial_memory(1).shape[1] == 0 and senses != "sound_shuffled":
            beats_B = torch.arange(len(features))
            self.pooled_BmD = torch.cat([self._tokens(part, part)[0] for part in beats_B[None].split(CHUNK, dim=1)])

    def of(self, chosen_VT: Tensor, generator: torch.Generator) -> Tensor:
        """Tokens [V, T, m, D] of videos, int64 numbers of beats [V, T]; `generator` draws the shuffles."""
        if self.pooled_BmD is not None:
            return self.pooled_BmD[chosen_VT.to(self.device)]
        sounds_VT = chosen_VT
        if self.senses == "sound_shuffled":
            order_VT = torch.rand(chosen_VT.shape, generator=generator).argsort(1)
            sounds_VT = chosen_VT.gather(1, order_VT)
        videos = max(1, CHUNK // chosen_VT.shape[1])
        pairs = zip(chosen_VT.split(videos), sounds_VT.split(videos), strict=True)
        return torch.cat([self._tokens(pictures_VT, sounds_VT) for pictures_VT, sounds_VT in pairs])

    def _tokens(self, pictures_VT: Tensor, sounds_VT: Tensor) -> Tensor:
        videos, snippets = pictures_VT.shape
        start_s = torch.arange(snippets, dtype=torch.float32, device=self.device).expand(videos, -1)
        with torch.no_grad():
            given = sensed(self.features.of(pictures_VT.flatten(), sounds_VT.flatten(), self.device), self.senses)
            return self.combiner.sequence(given, self.combiner.initial_memory(videos), start_s)[0]
