"""Sizes of combine_attention for tests and benchmarks, and its programs for compiling ahead of time.

Video, audio and history have masks, as in the model; the m learned tokens, which are a source of their own, have none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.kernels.bench.case import Case, Inputs, Suite, Work
from longtake.kernels.combine_attention.op import MOST_SOURCES, forward_op
from longtake.kernels.combine_attention.reference import combine_attention as reference
from longtake.kernels.combine_attention.settings import MOST_PARTS, Settings, backward_settings, forward_settings
from longtake.kernels.targets import Program, TargetName

HEAD_WIDTH = 64
SOURCES = ("video", "audio", "history", "tokens")
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


def _case(
    batch: int,
    video: int,
    audio: int,
    queries: int,
    width: int,
    *,
    history: int = 0,
    tokens: bool = True,
    masked: bool = True,
    head_width: int = HEAD_WIDTH,
    dtype: torch.dtype = torch.bfloat16,
    fills: bool = False,
) -> Case:
    """A combiner's last layer over `batch` snippets; without `tokens` the queries are no keys, as in pooling."""
    counts = {"video": video, "audio": audio, "history": history, "tokens": queries if tokens else 0}
    counts = {name: count for name, count in counts.items() if count}
    heads = width // head_width

    def make(device: torch.device, seed: int) -> Inputs:
        generator = torch.Generator(device).manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_()

        inputs: Inputs = {"queries": random(batch, queries, heads, head_width)}
        for name, count in counts.items():
            inputs[name] = random(batch, count, 2, heads, head_width)
            if masked and name != "tokens":
                mask = torch.rand(batch, count, generator=generator, device=device) < 0.9
                mask[:, 0] = True
                inputs[f"{name}_mask"] = mask
        return inputs

    keys = sum(counts.values())
    size = dtype.itemsize
    tile, table = batch * queries * width * size, 2 * batch * keys * width * size
    mask_bytes = batch * sum(count for name, count in counts.items() if name != "tokens") if masked else 0
    flops = 2 * batch * queries * keys * width
    kind = "" if tokens else ", pooling"
    return Case(
        name=f"{batch} x {'+'.join(map(str, counts.values()))} keys, m {queries}, width {width}{kind}",
        sizes={"batch": batch, "keys": keys, "queries": queries, "width": width, "sources": len(counts)},
        dtype=dtype,
        make=make,
        # The products: queries with keys and weights with values; backward both again and one for each of dq, dk, dv.
        forward=Work(bytes=table + 2 * tile + mask_bytes, flops=2 * flops),
        backward=Work(bytes=2 * table + 4 * tile + mask_bytes, flops=5 * flops),
        fills=fills,
    )


def _arguments(inputs: Inputs) -> tuple[Tensor, list[Tensor], list[Tensor | None], float]:
    names = [name for name in SOURCES if name in inputs]
    masks = [inputs.get(f"{name}_mask") for name in names]
    queries = inputs["queries"]
    return queries, [inputs[name] for name in names], masks, queries.shape[-1] ** -0.5


def _ours(inputs: Inputs) -> Tensor:
    out: Tensor = forward_op(*_arguments(inputs))[0]
    return out


def _reference(inputs: Inputs) -> Tensor:
    return reference(*_arguments(inputs))


def concatenated_sdpa(inputs: Inputs) -> Tensor:
    """What one writes without this op: sources and masks concatenated, then PyTorch's fused attention."""
    q_BmHE, sources, masks, scale = _arguments(inputs)
    k_BHSE, v_BHSE = torch.cat(sources, dim=1).permute(2, 0, 3, 1, 4).unbind(0)
    mask_B11S = None
    if any(mask is not None for mask in masks):
        seen = [
            torch.ones(source.shape[:2], dtype=torch.bool, device=source.device) if mask is None else mask
            for source, mask in zip(sources, masks, strict=True)
        ]
        mask_B11S = torch.cat(seen, dim=1)[:, None, None]
    out_BHmE = F.scaled_dot_product_attention(q_BmHE.transpose(1, 2), k_BHSE, v_BHSE, mask_B11S, scale=scale)
    return out_BHmE.transpose(1, 2)


SUITE = Suite(
    op="combine_attention",
    ours=_ours,
    reference=_reference,
    compiled=concatenated_sdpa,
    libraries={"cat + SDPA": concatenated_sdpa},
    cases=(
        _case(1, 160, 40, 8, 256),
        _case(1, 539, 128, 32, 1536),
        _case(4, 400, 100, 16, 512),
        _case(16, 539, 128, 32, 1024),
        _case(16, 1568, 400, 64, 2048),
        _case(16, 539, 128, 32, 576, dtype=torch.float32),
        _case(64, 539, 128, 32, 1536, fills=True),
        _case(64, 539, 128, 32, 1024, history=96, fills=True),
        _case(256, 539, 128, 32, 576, fills=True),
        _case(128, 800, 200, 16, 1024, fills=True),
        _case(256, 160, 40, 8, 1024, fills=True),
        _case(32, 1600, 400, 64, 2048, fills=True),
        # Without masks SDPA may take its fastest form.
        _case(64, 800, 200, 32, 1024, tokens=False, masked=False, fills=True),
    ),
    small_cases=(
        _case(2, 70, 20, 4, 128, dtype=torch.float32),
        _case(1, 33, 9, 8, 64, history=16, dtype=torch.float32),
        _case(1, 40, 10, 4, 64, tokens=False, masked=False, dtype=torch.float32),
    ),
    # The combiners of `tiny`, `small` and `base`: of several layers, and so over one sequence of all tokens. 8 lanes
    # are what indexing has on a GPU.
    product_cases=(
        _case(8, 94, 0, 4, 96, tokens=False, head_width=24),
        _case(8, 108, 0, 4, 128, tokens=False, head_width=32),
        _case(8, 611, 0, 32, 576, tokens=False),
        _case(16, 611, 0, 32, 576, tokens=False),
        _case(64, 611, 0, 32, 576, tokens=False, fills=True),
    ),
)


def programs(target: TargetName) -> list[Program]:
    """Every program with every setting, for heads as wide as its tile."""
    made = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32) if target == "sm_90" else (torch.bfloat16,):
        for settings in forward_settings(target, dtype):
            made += [_program("forward", settings, dtype, result) for result in _results(settings, dtype)]
        for settings in backward_settings(target, dtype):
            made += [_program("backward", settings, dtype, result) for result in _results(settings, dtype)]
        made.append(_merge(dtype))
    return made


def _results(settings: Settings, dtype: torch.dtype) -> list[torch.dtype]:
    """Where the keys are divided into parts these give float32; told once, for the usual width of a head."""
    return [dtype] if dtype == torch.float32 or settings.block_e != HEAD_WIDTH else [dtype, torch.float32]


def _program(direction: str, settings: Settings, dtype: torch.dtype, result: torch.dtype) -> Program:
    from longtake.kernels.combine_attention import kernel

    function = getattr(kernel, f"{direction}_program")
    constants = {
        "E": settings.block_e,
        "BLOCK_M": settings.block_m,
        "BLOCK_N": settings.block_n,
        "BLOCK_E": settings.block_e,
    }
    tensors = {"q", "out", "grad", *(f"{kind}{number}" for kind in ("kv", "dkv") for number in range(MOST_SOURCES))}
    types = {
        **dict.fromkeys(function.arg_names, "i32"),
        **dict.fromkeys(tensors, TYPES[dtype]),
        **{f"mask{number}": "*u8" for number in range(MOST_SOURCES)},
        "lse": "*fp32",
        "scale": "fp32",
        "dq" if direction == "backward" else "out": TYPES[result],
    }
    names = [name for name in function.arg_names if name not in constants]
    label = f"{TYPES[dtype][1:]}, {settings.block_m} queries, head {settings.block_e}"
    return Program(
        function,
        label if result == dtype else f"{label}, parts",
        {name: types[name] for name in names},
        constants,
        settings.warps,
        settings.stages,
        frozenset(name for name in names if name.startswith(("kv_batch", "kv_row", "q_batch", "q_row"))),
    )


def _merge(dtype: torch.dtype) -> Program:
    from longtake.kernels.combine_attention import kernel

    floats = {"part_outs": "*fp32", "part_lses": "*fp32", "out": TYPES[dtype], "lse": "*fp32"}
    signature = {**floats, "rows": "i32", "parts": "i32"}
    constants = {"E": HEAD_WIDTH, "BLOCK_P": MOST_PARTS, "BLOCK_E": HEAD_WIDTH}
    return Program(kernel.merge_program, TYPES[dtype][1:], signature, constants, 1, 1)
