"""A first look at a video: each snippet's tokens pooled to one a step, to find out what a question needs.

Shapes: N tokens of a snippet, K after pooling, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from longtake.operators.vlm.tokens import PICTURE, SOUND, SnippetTokens, VideoTokens


def coarse(video: VideoTokens) -> VideoTokens:
    """The same video with one token a step, and as many of sound as there are steps (one where there are none).

    A token is the mean of what was stored of its step and stands in the middle of the step's grid, or of its stretch of
    sound. A step of which nothing was stored has none. Positions are computed from what the snippets were, so that the
    rest of the sequence stays where it is.
    """
    return VideoTokens(snippets=tuple(_coarse_snippet(snippet) for snippet in video.snippets))


def _coarse_snippet(snippet: SnippetTokens) -> SnippetTokens:
    kind_N, step_N = snippet.places_N4[:, 0].long().cpu(), snippet.places_N4[:, 1].long().cpu()
    seen_N, heard_N = kind_N == PICTURE, kind_N == SOUND
    seen_KD, steps_K = _means(snippet.tokens_ND[seen_N], step_N[seen_N])
    stretches = min(max(1, len(snippet.step_s)), max(1, snippet.sounds))
    heard_KD, stretch_K = _means(snippet.tokens_ND[heard_N], step_N[heard_N] * stretches // max(1, snippet.sounds))
    places_K4 = torch.zeros(len(steps_K) + len(stretch_K), 4, dtype=torch.int64)
    places_K4[: len(steps_K), 1] = steps_K
    places_K4[: len(steps_K), 2], places_K4[: len(steps_K), 3] = (snippet.rows - 1) // 2, (snippet.columns - 1) // 2
    places_K4[len(steps_K) :, 0] = SOUND
    places_K4[len(steps_K) :, 1] = (2 * stretch_K + 1) * snippet.sounds // (2 * stretches)
    return replace(snippet, tokens_ND=torch.cat([seen_KD, heard_KD]), places_N4=places_K4.to(torch.int16))


def _means(tokens_ND: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each group that has members, [K, D] in the tokens' dtype, and the groups' numbers, int64 [K]."""
    groups_K, member_N = group_N.unique(return_inverse=True)
    sums_KD = tokens_ND.new_zeros(len(groups_K), tokens_ND.shape[1], dtype=torch.float32)
    sums_KD.index_add_(0, member_N.to(tokens_ND.device), tokens_ND.float())
    count_K = torch.bincount(member_N, minlength=len(groups_K)).to(tokens_ND.device)
    return (sums_KD / count_K[:, None]).to(tokens_ND.dtype), groups_K
