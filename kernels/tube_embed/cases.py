"""Sizes of tube_embed for tests and benchmarks, and its programs for compiling ahead of time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.kernels.bench.case import Case, Inputs, Suite, Work
from longtake.kernels.targets import Program, TargetName
from longtake.kernels.tube_embed.op import constants, forward_op
from longtake.kernels.tube_embed.reference import TubeShape, show
from longtake.kernels.tube_embed.reference import tube_embed as reference
from longtake.kernels.tube_embed.settings import Settings, large_settings, tiles

Clip = tuple[int, int, int]

# TubeViT's own tubes (arXiv 2212.03229) on its clip, and those of the preset `base`, of half the length.
TUBEVIT_CLIP: Clip = (32, 224, 224)
TUBEVIT = (
    TubeShape((8, 8, 8), (16, 32, 32)),
    TubeShape((16, 4, 4), (6, 32, 32), (4, 8, 8)),
    TubeShape((4, 12, 12), (16, 32, 32), (0, 16, 16)),
    TubeShape((1, 16, 16), (32, 16, 16)),
)
BASE_CLIP: Clip = (16, 224, 224)
BASE = (
    TubeShape((4, 8, 8), (8, 32, 32)),
    TubeShape((8, 4, 4), (3, 32, 32), (2, 8, 8)),
    TubeShape((2, 12, 12), (8, 32, 32), (0, 16, 16)),
    TubeShape((1, 16, 16), (16, 16, 16)),
)
# Those of the shipped presets.
TINY_PRESET_CLIP: Clip = (8, 48, 64)
TINY_PRESET = (TubeShape((1, 16, 16), (4, 8, 8), (1, 0, 0)), TubeShape((4, 16, 16), (4, 24, 24), (0, 4, 0)))
SMALL_PRESET_CLIP: Clip = (8, 64, 80)
SMALL_PRESET = (TubeShape((1, 20, 20), (4, 10, 10), (1, 2, 0)), TubeShape((4, 16, 16), (4, 24, 32)))
SMALL_CLIP: Clip = (4, 24, 32)
SMALL = (TubeShape((2, 8, 8), (2, 8, 12), (0, 4, 4)), TubeShape((1, 16, 16), (4, 8, 8)))
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def _tokens(tube: TubeShape, clip: Clip) -> int:
    t, y, x = tube.grid(clip)
    return t * y * x


def _pixels_read(tubes: tuple[TubeShape, ...], clip: Clip) -> int:
    """How many pixels of a clip some tube holds."""
    held = torch.zeros(clip, dtype=torch.bool)
    for tube in tubes:
        views = held
        for axis, (kernel, stride, offset) in enumerate(zip(*tube, strict=True)):
            views = views.narrow(axis, offset, views.shape[axis] - offset).unfold(axis, kernel, stride)
        views.fill_(True)
    return int(held.sum())


def _case(
    snippets: int,
    width: int,
    tubes: tuple[TubeShape, ...],
    clip: Clip,
    *,
    indexed: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    fills: bool = False,
) -> Case:
    """All tubes of `snippets` clips; `indexed` finds pictures by an index, as the encoder does."""

    def make(device: torch.device, seed: int) -> Inputs:
        generator = torch.Generator(device).manual_seed(seed)

        def random(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(shape, generator=generator, device=device) * scale).to(dtype)

        shape = (snippets, *clip, 3)
        inputs: Inputs = {
            "tubes": tubes,
            "frames": torch.randint(0, 256, shape, generator=generator, device=device, dtype=torch.uint8),
        }
        for number, tube in enumerate(tubes):
            inputs[f"weight_{number}"] = random(width, tube.depth, scale=tube.depth**-0.5).requires_grad_()
            inputs[f"bias_{number}"] = random(width).requires_grad_()
            inputs[f"position_{number}"] = random(_tokens(tube, clip), width)
        if indexed:
            shown = torch.randint(0, clip[0], (snippets, clip[0]), generator=generator, device=device)
            inputs["frame_index"] = shown.int()
        return inputs

    size = dtype.itemsize
    tokens = sum(_tokens(tube, clip) for tube in tubes)
    depth = sum(tube.depth for tube in tubes)
    pixels = snippets * _pixels_read(tubes, clip) * 3
    made, parameters, positions = snippets * tokens * width * size, (depth + len(tubes)) * width * size, tokens * width
    flops = 2 * snippets * width * sum(_tokens(tube, clip) * tube.depth for tube in tubes)
    kind = ", by index" if indexed else ""
    return Case(
        name=f"{snippets} x {clip[0]} x {clip[1]} x {clip[2]}, {tokens} tokens, width {width}{kind}",
        sizes={"snippets": snippets, "frames": clip[0], "tokens": tokens, "width": width},
        dtype=dtype,
        make=make,
        forward=Work(bytes=pixels + parameters + positions * size + made, flops=flops),
        backward=Work(bytes=pixels + parameters + made, flops=flops),
        fills=fills,
    )


def _lists(inputs: Inputs) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    count = range(len(inputs["tubes"]))
    weights, biases, positions = ([inputs[f"{name}_{n}"] for n in count] for name in ("weight", "bias", "position"))
    return weights, biases, positions


def _ours(inputs: Inputs) -> Tensor:
    numbers = [number for tube in inputs["tubes"] for part in tube for number in part]
    out: Tensor = forward_op(inputs["frames"], inputs.get("frame_index"), *_lists(inputs), numbers)
    return out


def _reference(inputs: Inputs) -> Tensor:
    return reference(inputs["frames"], inputs["tubes"], *_lists(inputs), inputs.get("frame_index"))


def normalise_and_convolve(inputs: Inputs) -> Tensor:
    """What one writes without this op: float pictures, and PyTorch's 3D convolution for each kind of tube."""
    weights, biases, positions = _lists(inputs)
    frames = inputs["frames"]
    if "frame_index" in inputs:
        frames = show(frames, inputs["frame_index"])
    clip_SCFHW = (frames.to(weights[0].dtype) / 127.5 - 1.0).permute(0, 4, 1, 2, 3)
    made = []
    for tube, weight, bias, position in zip(inputs["tubes"], weights, biases, positions, strict=True):
        t, y, x = tube.offset
        kernel = weight.view(-1, *tube.kernel, 3).permute(0, 4, 1, 2, 3)
        tokens_SDtyx = F.conv3d(clip_SCFHW[:, :, t:, y:, x:], kernel, bias, stride=tube.stride)
        made.append(tokens_SDtyx.flatten(2).transpose(1, 2) + position)
    return torch.cat(made, dim=1)


SUITE = Suite(
    op="tube_embed",
    ours=_ours,
    reference=_reference,
    compiled=normalise_and_convolve,
    libraries={"normalise + conv3d": normalise_and_convolve},
    cases=(
        _case(1, 576, BASE, BASE_CLIP),
        _case(1, 1536, TUBEVIT, TUBEVIT_CLIP),
        _case(4, 576, BASE, BASE_CLIP, indexed=True),
        _case(16, 576, BASE, BASE_CLIP),
        _case(16, 768, TUBEVIT, TUBEVIT_CLIP),
        _case(16, 576, BASE, BASE_CLIP, dtype=torch.float32),
        _case(64, 1536, TUBEVIT, TUBEVIT_CLIP, fills=True),
        _case(64, 768, TUBEVIT, TUBEVIT_CLIP, fills=True),
        _case(64, 576, BASE, BASE_CLIP, fills=True),
        _case(64, 576, BASE, BASE_CLIP, indexed=True, fills=True),
        _case(256, 576, BASE, BASE_CLIP, fills=True),
    ),
    small_cases=(
        _case(2, 96, SMALL, SMALL_CLIP, dtype=torch.float32),
        _case(1, 40, SMALL, SMALL_CLIP, indexed=True, dtype=torch.float32),
    ),
    # Through the index, as the encoder finds pictures; 8 lanes are what indexing has on a GPU.
    product_cases=(
        _case(8, 96, TINY_PRESET, TINY_PRESET_CLIP, indexed=True),
        _case(8, 128, SMALL_PRESET, SMALL_PRESET_CLIP, indexed=True),
        _case(8, 576, BASE, BASE_CLIP, indexed=True),
        _case(8, 1536, TUBEVIT, TUBEVIT_CLIP, indexed=True),
        _case(64, 576, BASE, BASE_CLIP, indexed=True, fills=True),
    ),
)


def programs(target: TargetName) -> list[Program]:
    """What runs on the tubes of `base` through an index, as in the encoder, and on TubeViT's directly."""
    made = []
    for tube in BASE:
        made.append(_forward(target, torch.bfloat16, tube, indexed=True))
        made.append(_gradient(target, torch.bfloat16, tube, indexed=True))
    made += [_forward(target, torch.bfloat16, tube, indexed=False) for tube in TUBEVIT]
    made.append(_gradient(target, torch.bfloat16, TUBEVIT[0], indexed=False))
    made.append(_forward(target, torch.bfloat16, BASE[0], indexed=True, few=True))
    if target == "sm_90":
        for dtype in (torch.float16, torch.float32):
            made += [make(target, dtype, BASE[0], indexed=True) for make in (_forward, _gradient)]
    return made


def _forward(target: TargetName, dtype: torch.dtype, tube: TubeShape, *, indexed: bool, few: bool = False) -> Program:
    from longtake.kernels.tube_embed import kernel

    settings = tiles(target, dtype).small if few else large_settings(target, dtype, tube, indexed=indexed)
    pointers = dict.fromkeys(("weight", "bias", "position", "out"), f"*{TYPES[dtype]}")
    return _program(kernel.forward_kernel, "forward", settings, dtype, tube, pointers, indexed)


def _gradient(target: TargetName, dtype: torch.dtype, tube: TubeShape, *, indexed: bool) -> Program:
    from longtake.kernels.tube_embed import kernel

    pointers = {"gradient": f"*{TYPES[dtype]}", "partial": "*fp32", "chunk": "i32"}
    settings = tiles(target, dtype).gradient
    return _program(kernel.weight_gradient_kernel, "gradient", settings, dtype, tube, pointers, indexed)


def _program(
    function: Any,
    what: str,
    settings: Settings,
    dtype: torch.dtype,
    tube: TubeShape,
    pointers: dict[str, str],
    indexed: bool,
) -> Program:
    import triton.language as tl

    clip, width = (BASE_CLIP, 576) if tube in BASE else (TUBEVIT_CLIP, 1536)
    operand = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]
    strides = ["stride_s", "stride_f", "stride_i", "stride_o" if what == "forward" else "stride_g"]
    t, y, x = tube.kernel
    tile = f"{settings.rows}x{settings.columns}x{settings.depth}"
    return Program(
        function=function,
        label=f"{what} {TYPES[dtype]} {tile}, tube {t}x{y}x{x}, width {width}{', by index' if indexed else ''}",
        signature={
            "frames": "*u8",
            **({"index": "*i32"} if indexed else {}),
            **pointers,
            **dict.fromkeys(["snippets", *strides], "i32"),
        },
        constants={
            **({} if indexed else {"index": None}),
            **constants(tube, clip, width, settings),
            "OPERAND": operand,
        },
        warps=settings.warps,
        stages=settings.indexed_stages if indexed else settings.stages,
        divisible=frozenset([*strides, "chunk"]),
    )
