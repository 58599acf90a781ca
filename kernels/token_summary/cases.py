"""Sizes of the token summary for tests and benchmarks, and its programs for compiling ahead of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from longtake.kernels.bench.case import Case, Inputs, Suite, Work
from longtake.kernels.targets import Program, TargetName
from longtake.kernels.token_summary import reference, settings
from longtake.kernels.token_summary.op import by_program, kind_of

if TYPE_CHECKING:
    from longtake.kernels.token_summary.launch import Launch

HIDDEN = 64
SOURCES = ("memory", "input", "output")
PARAMETERS = ("norm_weight", "norm_bias", "up_weight", "up_bias", "down_weight", "down_bias")
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.bool: "*i1"}


def _case(
    batch: int,
    tokens: int,
    width: int,
    summaries: int,
    *,
    memory: int = 0,
    output: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    fills: bool = False,
) -> Case:
    """A summary of `tokens` in the weights' dtype, one in ten of them hidden; beside a float32 memory, to float32."""
    counts = {"memory": memory, "input": tokens, "output": output}
    counts = {name: count for name, count in counts.items() if count}
    dtypes = {"memory": torch.float32, "input": dtype, "output": dtype}

    def make(device: torch.device, seed: int) -> Inputs:
        generator = torch.Generator(device).manual_seed(seed)

        def random(*shape: int, scale: float = 1.0, dtype: torch.dtype = dtype) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).mul(scale).to(dtype)

        inputs: Inputs = {name: random(batch, count, width, dtype=dtypes[name]) for name, count in counts.items()}
        inputs["norm_weight"] = 1 + random(width, scale=0.1)
        inputs["norm_bias"] = random(width, scale=0.1)
        inputs["up_weight"] = random(HIDDEN, width, scale=width**-0.5)
        inputs["up_bias"] = random(HIDDEN, scale=0.1)
        inputs["down_weight"] = random(summaries, HIDDEN, scale=HIDDEN**-0.5)
        inputs["down_bias"] = random(summaries, scale=0.1)
        for tensor in inputs.values():
            tensor.requires_grad_()
        inputs["input_mask"] = torch.rand(batch, tokens, generator=generator, device=device) < 0.9
        return inputs

    form, forward, backward = _work(batch, counts, dtypes, width, summaries)
    return Case(
        name=f"{batch} x {'+'.join(map(str, counts.values()))} tokens, k {summaries}, width {width}, {form}",
        sizes={"batch": batch, "tokens": sum(counts.values()), "summaries": summaries, "width": width},
        dtype=dtype,
        make=make,
        forward=forward,
        backward=backward,
        fills=fills,
    )


def _work(
    batch: int, counts: dict[str, int], dtypes: dict[str, torch.dtype], width: int, summaries: int
) -> tuple[str, Work, Work]:
    """The form that is taken on sm_90, and the least work in it.

    Two passes read the tokens twice, and write and read float32 logits. The backward reads the tokens twice, as their
    own gradients need all of their width and the weights' all tokens; between lies the gradient of the first layer.
    """
    weights = dtypes["input"]
    tokens = batch * sum(counts.values())
    sources = sum(batch * count * width * dtypes[name].itemsize for name, count in counts.items())
    result = batch * summaries * width * (4 if "memory" in counts else weights.itemsize)
    parameters = (HIDDEN * (width + summaries + 1) + 2 * width + summaries) * weights.itemsize
    mask = batch * counts["input"]
    kinds = [kind_of(torch.empty(0, dtype=dtypes[name]), weights, None, False) for name in counts]
    one_pass = settings.one_pass("sm_90", width, summaries, kinds) is not None
    read = sources if one_pass else 2 * sources + 2 * tokens * summaries * 4
    layers = 2 * tokens * HIDDEN * (width + summaries)
    mix = 2 * tokens * summaries * width
    between = 2 * tokens * HIDDEN * weights.itemsize
    return (
        "one pass" if one_pass else "two passes",
        Work(bytes=read + mask + result + parameters, flops=layers + mix),
        # The layers once more, and for each of both layers two products; the result's gradient with tokens, weights.
        Work(bytes=3 * sources + between + mask + 2 * result + 2 * parameters, flops=3 * layers + 2 * mix),
    )


def _lists(inputs: Inputs) -> tuple[list[Tensor], list[Tensor | None], list[Tensor], torch.dtype]:
    names = [name for name in SOURCES if name in inputs]
    sources: list[Tensor] = [inputs[name] for name in names]
    masks: list[Tensor | None] = [inputs.get(f"{name}_mask") for name in names]
    out_dtype = inputs["memory"].dtype if "memory" in inputs else inputs["input"].dtype
    return sources, masks, [inputs[name] for name in PARAMETERS], out_dtype


def _ours(inputs: Inputs) -> Tensor:
    sources, masks, parameters, out_dtype = _lists(inputs)
    return by_program(sources, masks, parameters, None, eps=1e-6, out_dtype=out_dtype)


def _reference(inputs: Inputs) -> Tensor:
    sources, masks, parameters, out_dtype = _lists(inputs)
    return reference.token_summary(sources, masks, *parameters, eps=1e-6, out_dtype=out_dtype)


SUITE = Suite(
    op="token_summary",
    ours=_ours,
    reference=_reference,
    compiled=_reference,
    cases=(
        _case(1, 2000, 1024, 64),
        _case(4, 600, 576, 32),
        _case(16, 576, 1536, 32, memory=96),
        _case(16, 576, 1536, 96, memory=96, output=32),
        _case(32, 200, 512, 8),
        _case(64, 600, 1024, 64, dtype=torch.float32),
        _case(256, 700, 1024, 64, memory=64, output=32),
        _case(256, 1000, 1024, 64, fills=True),
        _case(256, 1000, 1024, 16, fills=True),
        _case(128, 1000, 2048, 32, fills=True),
        _case(64, 2000, 1536, 64, fills=True),
        _case(256, 2000, 512, 64, fills=True),
        _case(256, 2000, 256, 16, fills=True),
        _case(256, 2000, 256, 64, fills=True),
    ),
    small_cases=(
        _case(2, 50, 64, 8, dtype=torch.float32),
        _case(1, 33, 96, 5, memory=8, dtype=torch.float32),
    ),
    # Read and write of the Token Turing Machine of `mirasol_3b`, and of one in `base`, which `bench step` times.
    product_cases=(
        _case(8, 667, 1536, 32, memory=96),
        _case(8, 667, 1536, 96, memory=96, output=32),
        _case(16, 579, 576, 32, memory=96),
        _case(16, 579, 576, 96, memory=96, output=32),
        _case(64, 667, 1536, 32, memory=96, fills=True),
        _case(64, 667, 1536, 96, memory=96, output=32, fills=True),
    ),
)


def programs(target: TargetName) -> list[Program]:
    """Every program with the settings of the usual sizes, taken from the launches themselves."""
    bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
    launches = [
        *_launches(target, [bf16], bf16, (1024,), 1024, 64, backward=False),
        *_launches(target, [bf16], bf16, (1024,), 1024, 64),
        *_launches(target, [bf16], bf16, (1008,), 256, 16),
        *_launches(target, [bf16], bf16, (1008,), 256, 64, backward=False),
        # The write of a Token Turing Machine, and a summary with a position.
        *_launches(target, [fp32, bf16, bf16], bf16, (96, 576, 32), 1536, 96, lanes=16),
        *_launches(target, [bf16], bf16, (608,), 576, 32, position=True),
    ]
    if target == "sm_90":
        launches += _launches(target, [fp16], fp16, (1024,), 1024, 64)
        launches += _launches(target, [fp32], fp32, (1024,), 1024, 64)
    found: dict[tuple[object, ...], Program] = {}
    for launch, sizes in launches:
        program = _program(launch, sizes)
        key = (program.function, *program.signature.items(), *program.constants.items(), program.warps, program.stages)
        found.setdefault(key, program)
    return list(found.values())


def _launches(
    target: TargetName,
    dtypes: Sequence[torch.dtype],
    weights: torch.dtype,
    counts: Sequence[int],
    width: int,
    summaries: int,
    *,
    lanes: int = 256,
    position: bool = False,
    backward: bool = True,
) -> list[tuple[Launch, str]]:
    """The launches of one forward and its backward, on tensors without memory, and the sizes in words."""
    from longtake.kernels.token_summary import launch, launch_backward, launch_forward

    def empty(*shape: int, dtype: torch.dtype = weights) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    sources = [empty(lanes, count, width, dtype=dtype) for count, dtype in zip(counts, dtypes, strict=True)]
    place = empty(sum(counts), width) if position else None
    tokens = launch.Tokens(
        sources=sources,
        # A memory has no mask.
        masks=[empty(lanes, count, dtype=torch.bool) if count != 96 else None for count in counts],
        position=place,
        kinds=[kind_of(source, weights, place, False) for source in sources],
        target=target,
    )
    parameters = launch.Parameters(
        norm_weight=empty(width),
        norm_bias=empty(width),
        up=empty(HIDDEN, width),
        up_bias=empty(HIDDEN),
        down=empty(summaries, HIDDEN),
        down_bias=empty(summaries),
        eps=1e-6,
    )
    launched: list[Launch] = []
    made = launch_forward.forward(tokens, parameters, dtypes[0], differentiable=backward, run=launched.append)
    if backward:
        launch_backward.backward(
            made.result, made, tokens, parameters, [True] * len(sources), position, launched.append
        )
    names = "+".join(TYPES[dtype][1:] for dtype in dtypes)
    where = (", position" if position else "") + ("" if backward else ", no gradient")
    return [(one, f"{names}, k {summaries}, width {width}{where}") for one in launched]


def _program(launch: Launch, sizes: str) -> Program:
    """A launch as it is compiled: its tensors' and numbers' types."""
    # Those whose value a program is not compiled for.
    general = launch.program.do_not_specialize or ()
    signature: dict[str, str] = {}
    divisible = set()
    for name, value in launch.arguments.items():
        if isinstance(value, Tensor):
            signature[name] = TYPES[value.dtype]
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0 and name not in general:
                divisible.add(name)
        elif isinstance(value, float):
            signature[name] = "fp32"
    missing = {name: None for name, value in launch.arguments.items() if value is None}
    tokens = launch.arguments.get("tokens")
    mine = f", {TYPES[tokens.dtype][1:]} tokens" if isinstance(tokens, Tensor) else ""
    return Program(
        function=launch.program,
        label=sizes + mine,
        signature=signature,
        constants={**launch.constants, **missing},
        warps=launch.tile.warps,
        stages=launch.tile.stages,
        divisible=frozenset(divisible),
    )
