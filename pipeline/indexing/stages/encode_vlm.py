"""The encode stage of a public vision-language model: its tower and projector, and a training-free combiner.

Every snippet stands for itself: no memory goes from one to the next.

Shapes: F pictures, N mel frames.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch

from longtake.operators.vlm.loading import load_vlm
from longtake.operators.vlm.model import Clip
from longtake.pipeline.indexing.model import vlm_input
from longtake.pipeline.indexing.stages.lanes import Lane, LaneStage
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.table.metadata import IndexMetadata, vlm_path
from longtake.pipeline.table.vlm_columns import Places, floats, start_s


class VLMStage(LaneStage):
    """One encoder with `lanes` lanes. On a GPU, lanes with snippets of one shape go through the tower together.

    On the CPU each goes alone, so that its tokens do not depend on what else is under way.

    Args:
        model: "vlm:PATH".
        threads: of PyTorch on the CPU. Results are the same from run to run only for the same number.
    Raises:
        CheckpointError: the model cannot be loaded.
        RuntimeError: it is not the model that the index is to be written with.
    """

    def __init__(
        self, model: str, lanes: int, device: str, threads: int, index_uri: str, metadata: IndexMetadata
    ) -> None:
        torch.set_num_threads(threads)
        model_input = vlm_input(metadata, model)
        if model_input.model.fingerprint != metadata.fingerprint:
            raise RuntimeError(f"{model} is {model_input.model.fingerprint} here, not {metadata.fingerprint}")
        super().__init__(lanes, model_input, index_uri, metadata)
        self._alone = device == "cpu"
        self._vlm = load_vlm(vlm_path(model), "float32" if self._alone else "bfloat16", device)
        self._vlm.family.forget_language()

    def step(self, ready: list[tuple[int, Lane, Snippet]]) -> None:
        """Encode one snippet of each of these lanes."""
        batches: dict[Hashable, list[tuple[Lane, Snippet, Clip]]] = {}
        for number, lane, snippet in ready:
            clip = clip_of(lane, snippet)
            mel = None if clip.mel_NM is None else clip.mel_NM.shape
            shape = number if self._alone else (clip.frames_FHWC.shape, mel)
            batches.setdefault(shape, []).append((lane, snippet, clip))
        for batch in batches.values():
            made = self._vlm.encode_snippets(
                [clip for *_, clip in batch], combiner=self._metadata.combiner, tokens=self._metadata.tokens or None
            )
            for (lane, snippet, _), one in zip(batch, made, strict=True):
                self.keep(lane, snippet, floats(one.tokens_ND), b"", Places.of(one))


def clip_of(lane: Lane, snippet: Snippet) -> Clip:
    """A snippet as the model takes it: the pictures that are there with their times, and the sound up to its end."""
    plan, seen = lane.work.plan, np.flatnonzero(snippet.frame_mask_F)
    first = snippet.index * plan.snippet_frames
    heard = np.flatnonzero(snippet.mel_mask_A)
    mel_NM = torch.from_numpy(snippet.sound_AM[: heard[-1] + 1]) if len(heard) else None
    return Clip(
        frames_FHWC=torch.from_numpy(snippet.frames_FHWC[seen]),
        times_s=tuple(plan.sample_ns(first + int(frame)) / 1e9 for frame in seen),
        start_s=start_s(snippet.start_ns),
        mel_NM=mel_NM,
        peak=lane.work.sound_peak if mel_NM is not None else None,
    )
