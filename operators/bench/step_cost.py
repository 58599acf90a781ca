"""What one step of the TTM combiner costs: as the encoder runs it, eager, and under torch.compile's CUDA graphs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.errors import LongTakeError
from longtake.kernels.bench.timing import Timing, cpu_timer, gpu_timer
from longtake.operators.bench.model_cost import LEAST_COSINE, references
from longtake.operators.model.combiners import Features
from longtake.operators.model.combiners.ttm import TTMCombiner
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.graphed_step import GraphedStep

REPEAT_MS = 200


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Of one step of all lanes. `ours` (kernels in one CUDA graph) and `reduce_overhead` are None on a CPU."""

    tokens_in: int
    memory: int
    eager: Timing
    ours: Timing | None = None
    reduce_overhead: Timing | None = None
    cosine: float | None = None


def with_ttm(config: ModelConfig) -> ModelConfig:
    """The config with a TTM combiner: its own, or one with the memory of the paper's default (96 tokens)."""
    combiner = config.combiner
    if combiner.name == "ttm":
        return config
    return dataclasses.replace(
        config,
        combiner=dataclasses.replace(
            combiner, name="ttm", memory_tokens=96, read_tokens=combiner.tokens, timestamp=True
        ),
    )


def measure_step(config: ModelConfig, device: torch.device, *, lanes: int) -> StepCost:
    """Time a step of random weights over a snippet's features, bfloat16 on a GPU and float32 on a CPU.

    Raises:
        LongTakeError: kernels and references give different tokens or memory.
    """
    config = with_ttm(config)
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        combiner = TTMCombiner(config).to(dtype).eval()
        grids = [tube.grid(config.video.clip) for tube in config.video.tubes]
        video = sum(frames * rows * columns for frames, rows, columns in grids)
        audio = config.audio.grid[0] * config.audio.grid[1]
        features = Features(
            video_BND=torch.randn(lanes, video, config.width, dtype=dtype),
            video_mask_BN=torch.ones(lanes, video, dtype=torch.bool),
            audio_BND=torch.randn(lanes, audio, config.width, dtype=dtype),
            audio_mask_BN=torch.ones(lanes, audio, dtype=torch.bool),
        )
        memory, start_s = combiner.initial_memory(lanes).contiguous(), torch.zeros(lanes)
    timer = gpu_timer(REPEAT_MS) if cuda else cpu_timer
    cost = partial(StepCost, tokens_in=video + audio, memory=config.combiner.memory_tokens)
    with torch.inference_mode():
        with references():
            plain = combiner(features, memory, start_s)
            eager = timer(lambda: combiner(features, memory, start_s))
        if not cuda:
            return cost(eager=eager)
        step = GraphedStep(combiner)
        cosine = _cosine(step(features, memory, start_s), plain)
        ours = timer(lambda: step(features, memory, start_s))
        with references():
            compiled = torch.compile(combiner, mode="reduce-overhead", dynamic=False)
            reduce_overhead = timer(lambda: compiled(features, memory, start_s))
    return cost(eager=eager, ours=ours, reduce_overhead=reduce_overhead, cosine=cosine)


def _cosine(ours: tuple[Tensor, Tensor], plain: tuple[Tensor, Tensor]) -> float:
    pairs = zip(ours, plain, strict=True)
    cosine = min(float(F.cosine_similarity(a.float(), b.float(), dim=-1).min()) for a, b in pairs)
    if not cosine >= LEAST_COSINE:
        raise LongTakeError(f"kernels and references give other tokens (cosine {cosine:.6f}): nothing to time")
    return cosine
