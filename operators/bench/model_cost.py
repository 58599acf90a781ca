"""What encoding and combining costs, by the number of a video's frames, and what joint attention costs beside it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from longtake.errors import LongTakeError
from longtake.kernels.dispatch import VARIABLE
from longtake.operators.bench.joint_attention import joint_attention
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.model import LongTakeModel
from longtake.operators.model.snippet_encoder import SnippetEncoder

REPEATS = 3
# In bfloat16 two orders of the same sums agree to about this.
LEAST_COSINE = 0.999
MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one length of video. `peak_bytes` is what the allocator held at most, None on a CPU."""

    frames: int
    snippets: int  # a video
    videos: int
    seconds: float
    snippets_per_s: float
    frames_per_s: float
    us_a_frame: float
    share_of_matmul: float
    peak_bytes: int | None
    joint_videos: int
    joint_seconds: float | None
    joint_us_a_frame: float | None
    joint_peak_bytes: int | None
    joint_error: str | None

    def as_dict(self) -> dict[str, Any]:
        """As the benchmark's record keeps it."""
        return dataclasses.asdict(self)


class ModelBench:
    """A model of random weights on one device, bfloat16 on a GPU and float32 on a CPU, with inputs of its shapes."""

    def __init__(self, config: ModelConfig, device: torch.device, *, lanes: int, compiled: bool = False) -> None:
        self.config, self.device, self.lanes = config, device, lanes
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        torch.manual_seed(0)
        with torch.device(device):
            model = LongTakeModel(config)
        self.flops_a_snippet = count_flops(config)
        self.encoder = SnippetEncoder(model, lanes=lanes, device=device, dtype=dtype)
        self.inputs = _inputs(config, lanes, device)
        self.memory = self.encoder.initial_memory().to(device).expand(lanes, -1, -1).contiguous()
        if compiled:
            model.video_encoder.compile(dynamic=False)
            model.audio_encoder.compile(dynamic=False)
        size = MATMUL_SIZE[device.type]
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        self.matmul_flops_per_s = 2 * size**3 / self._seconds(lambda: torch.mm(a, b), 20)

    def check(self) -> float:
        """The smallest cosine between a step's tokens with the kernels and with the references.

        Raises:
            LongTakeError: they are not the same.
        """
        ours, _ = self.encoder.run(*self.inputs, self.memory)
        with references():
            # A captured graph would replay what it was captured with.
            plain, _ = SnippetEncoder(
                self.encoder.model, lanes=self.lanes, device=self.device, dtype=self.encoder.dtype
            ).run(*self.inputs, self.memory)
        cosine = float(F.cosine_similarity(ours.float(), plain.float(), dim=-1).min())
        if not cosine >= LEAST_COSINE:
            raise LongTakeError(f"kernels and references give other tokens (cosine {cosine:.6f}): nothing to time")
        return cosine

    def measure(self, frames: int) -> Cost:
        """The cost of `lanes` videos of so many frames, and of joint attention over as many snippets, or one video."""
        snippets = frames // self.config.video.frames
        seconds, peak = self._timed(lambda: self._encode(snippets))
        together = snippets * self.lanes
        videos = max(1, self.lanes // snippets)
        joint: tuple[float, int | None] | None = None
        error = None
        try:
            joint = self._timed(lambda: self._joint(videos, snippets))
        except torch.OutOfMemoryError:
            error = "out of memory"
            torch.cuda.empty_cache()
        return Cost(
            frames=frames,
            snippets=snippets,
            videos=self.lanes,
            seconds=seconds,
            snippets_per_s=together / seconds,
            frames_per_s=self.lanes * frames / seconds,
            us_a_frame=1e6 * seconds / (self.lanes * frames),
            share_of_matmul=self.flops_a_snippet * together / seconds / self.matmul_flops_per_s,
            peak_bytes=peak,
            joint_videos=videos,
            joint_seconds=joint[0] if joint else None,
            joint_us_a_frame=1e6 * joint[0] / (videos * frames) if joint else None,
            joint_peak_bytes=joint[1] if joint else None,
            joint_error=error,
        )

    def _encode(self, snippets: int) -> Tensor:
        memory = self.memory
        for _ in range(snippets):
            tokens, memory = self.encoder.run(*self.inputs, memory)
        return tokens

    def _joint(self, videos: int, snippets: int) -> Tensor:
        rows = torch.arange(videos * snippets, device=self.device) % self.lanes
        with torch.inference_mode():
            frames, frame_mask, mel, mel_mask = (tensor[rows] for tensor in self.inputs[:4])
            return joint_attention(self.encoder.model, videos, frames, frame_mask, mel, mel_mask)

    def _timed(self, act: Callable[[], Tensor]) -> tuple[float, int | None]:
        """Median seconds, and the most that the allocator held."""
        if self.device.type != "cuda":
            return self._seconds(act), None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        return self._seconds(act), torch.cuda.max_memory_allocated(self.device)

    def _seconds(self, act: Callable[[], Tensor], calls: int = 1) -> float:
        """Median of a few repeats after one that warms up; `calls` of a short act count as one repeat."""
        times = []
        for _ in range(1 + REPEATS):
            self._wait()
            began = time.perf_counter()
            for _ in range(calls):
                act()
            self._wait()
            times.append((time.perf_counter() - began) / calls)
        return median(times[1:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def count_flops(config: ModelConfig) -> int:
    """Operations of encoding and combining one snippet, a multiply-add counted as two; nothing is computed."""
    with torch.device("meta"), references(), torch.inference_mode():
        model = LongTakeModel(config)
        encoder = SnippetEncoder(model, lanes=1, device="meta")
        inputs = _inputs(config, 1, torch.device("meta"))
        memory = model.combiner.initial_memory(1).to("meta")
        with FlopCounterMode(display=False) as counter:
            encoder.run(*inputs, memory)
    return int(counter.get_total_flops())


def _inputs(config: ModelConfig, lanes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random pictures and sound for one snippet a lane, all of it there."""
    frames, height, width = config.video.clip
    return (
        torch.randint(0, 256, (lanes, frames, height, width, 3), dtype=torch.uint8, device=device),
        torch.ones(lanes, frames, dtype=torch.bool, device=device),
        torch.randn(lanes, config.audio.frames, config.audio.mels, device=device),
        torch.ones(lanes, config.audio.frames, dtype=torch.bool, device=device),
        torch.zeros(lanes, device=device),
    )


@contextmanager
def references() -> Iterator[None]:
    """Plain PyTorch instead of our kernels, for what is run inside."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
