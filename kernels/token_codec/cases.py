"""Sizes of token_codec for tests and benchmarks, both ways, and its programs for compiling ahead of time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from longtake.kernels.bench.case import Case, Inputs, Suite, Work
from longtake.kernels.targets import Program, TargetName
from longtake.kernels.token_codec import reference
from longtake.kernels.token_codec.op import decode_op, encode_op

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
# Operations a channel: sign and maximum, product, two bounds, sum; the way back is one product.
ENCODE_FLOPS, DECODE_FLOPS = 6, 1


def _tokens(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """Tokens whose sizes differ, as a normalised model's do not but its sums' do."""
    generator = torch.Generator(device).manual_seed(seed)
    sizes = torch.rand((*shape[:-1], 1), generator=generator, device=device) * 4
    return (torch.randn(shape, generator=generator, device=device) * sizes.exp2()).to(dtype)


def _case(
    what: str,
    snippets: int,
    tokens: int,
    width: int,
    *,
    group: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    fills: bool = False,
) -> Case:
    """`snippets` of `tokens` each, to codes or (`what` is "decode") back."""
    shape = (snippets, tokens, width)
    groups = width // (group or width)

    def make(device: torch.device, seed: int) -> Inputs:
        values = _tokens(shape, dtype, device, seed)
        if what == "encode":
            return {"tokens": values, "group": group or width}
        codes, scales = reference.encode(values, group)
        return {"codes": codes, "scales": scales.requires_grad_(), "dtype": dtype}

    count = snippets * tokens
    wide, stored = count * width * dtype.itemsize, count * (width + groups * 4)
    backward = Work(bytes=wide + stored, flops=2 * count * width)
    return Case(
        name=f"{what} {snippets} x {tokens} tokens, width {width}" + (f", groups of {group}" if group else ""),
        sizes={"snippets": snippets, "tokens": tokens, "width": width, "group": group or width},
        dtype=dtype,
        make=make,
        forward=Work(bytes=wide + stored, flops=count * width * (ENCODE_FLOPS if what == "encode" else DECODE_FLOPS)),
        backward=backward if what == "decode" else None,
        fills=fills,
    )


def _ours(inputs: Inputs) -> Tensor | tuple[Tensor, ...]:
    if "tokens" in inputs:
        codes, scales = encode_op(inputs["tokens"], inputs["group"], torch.float32)
        return codes, scales
    tokens: Tensor = decode_op(inputs["codes"], inputs["scales"], inputs["dtype"])
    return tokens


def _reference(inputs: Inputs) -> Tensor | tuple[Tensor, ...]:
    if "tokens" in inputs:
        return reference.encode(inputs["tokens"], inputs["group"])
    return reference.decode(inputs["codes"], inputs["scales"], inputs["dtype"])


def _both(*arguments: int, group: int | None = None, fills: bool = False) -> list[Case]:
    return [_case(what, *arguments, group=group, fills=fills) for what in ("encode", "decode")]


SUITE = Suite(
    op="token_codec",
    ours=_ours,
    reference=_reference,
    compiled=_reference,
    cases=(
        # One step of 16 lanes, an hour's snippets, and archives.
        *_both(16, 32, 576),
        *_both(256, 32, 1536),
        *_both(3600, 32, 576, fills=True),
        *_both(8192, 32, 1536, fills=True),
        *_both(8192, 32, 1024, fills=True),
        *_both(8192, 32, 2048, group=64, fills=True),
        *_both(65536, 32, 96, fills=True),
        _case("encode", 3600, 32, 576, dtype=torch.float32, fills=True),
        _case("decode", 3600, 32, 576, dtype=torch.float32, fills=True),
    ),
    small_cases=(
        _case("encode", 3, 4, 96, dtype=torch.float32),
        _case("decode", 3, 4, 96, dtype=torch.float32),
        _case("encode", 2, 3, 40, group=8, dtype=torch.float32),
    ),
    # A step of 8 lanes, and an hour of snippets.
    product_cases=(
        *_both(8, 4, 96),
        *_both(8, 4, 128),
        *_both(8, 32, 576),
        *_both(8, 32, 1536),
        *_both(3600, 4, 128),
        *_both(3600, 32, 576, fills=True),
    ),
)


def programs(target: TargetName) -> list[Program]:
    """Both ways and the gradient, for whole tokens of one tile, of two, and of the widest, and for groups."""
    made = []
    for per_token, group in ((1, 1024), (1, 576), (1, 16_384), (32, 64)):
        made += _programs(target, torch.bfloat16, per_token, group)
    if target == "sm_90":
        for dtype in (torch.float32, torch.float16):
            made += _programs(target, dtype, 1, 576)
    return made


def _programs(target: TargetName, dtype: torch.dtype, per_token: int, group: int) -> list[Program]:
    from longtake.kernels.token_codec import kernel

    kind = TYPES[dtype]
    chosen = kernel.settings(target, group)
    sizes = {"PER_TOKEN": per_token, "GROUP": group, "MAIN": chosen.main, "TAIL": chosen.tail, "ROWS": chosen.rows}
    bounds = {
        "LARGEST_SCALE": torch.finfo(torch.float32).max,
        "SMALLEST_SCALE": reference.SMALLEST_SCALE,
    }
    pointers = {"codes": "*i8", "scales": "*fp32"}
    variants: tuple[tuple[Any, dict[str, str], list[str], dict[str, float]], ...] = (
        (kernel.encode_kernel, {"tokens": kind, **pointers}, ["token_stride"], bounds),
        (kernel.decode_kernel, {**pointers, "tokens": kind}, ["code_stride", "scale_stride"], {}),
        (
            kernel.scale_gradient_kernel,
            {"gradient": kind, "codes": "*i8", "scale_gradient": "*fp32"},
            ["code_stride"],
            {},
        ),
    )
    return [
        Program(
            function=function,
            label=f"{kind[1:]} {chosen.rows} groups of {group}",
            signature={**types, **dict.fromkeys(["groups", *strides], "i32")},
            constants={**sizes, **more},
            warps=chosen.warps,
            # There are no loops to pipeline: Triton's own default.
            stages=3,
            divisible=frozenset(strides) - {"scale_stride"},
        )
        for function, types, strides, more in variants
    ]
