"""The token summary: N tokens of up to three sources pooled into k (Token Turing Machines, arXiv 2211.09119, eq. 3).

Shapes: B batch, N tokens of all sources together, k summary tokens, D width, H hidden width of the importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longtake.kernels.dispatch import dtype_obstacle, use_triton
from longtake.kernels.targets import target_of
from longtake.kernels.token_summary import reference
from longtake.kernels.token_summary.settings import (
    MOST_EXACT_SUMMARIES,
    MOST_HIDDEN,
    MOST_SUMMARIES,
    Kind,
    parts_of,
    rest_dtype,
)

if TYPE_CHECKING:
    from longtake.kernels.token_summary.launch import Forward, Parameters, Tokens

OP = "token_summary"
MOST_SOURCES = 3


def token_summary(
    sources: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    norm_weight_D: Tensor,
    norm_bias_D: Tensor,
    up_weight_HD: Tensor,
    up_bias_H: Tensor,
    down_weight_kH: Tensor,
    down_bias_k: Tensor,
    position_ND: Tensor | None = None,
    *,
    eps: float = 1e-6,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Summarise the tokens of up to three sources, as if they were concatenated, to k tokens.

    Each summary is a convex mix of the tokens (with their position, where there is one), by importance: LayerNorm, a
    dense layer to H, tanh GELU, a dense layer to k logits, softmax over all N tokens.

    The Triton program never concatenates. It computes the importance from tokens in the weights' dtype (normalised in
    float32) and mixes in float32; its products are on half-precision operands where both weights and source are of that
    dtype, or under autocast, and in float32 otherwise: a float32 memory beside bfloat16 tokens is never rounded. It
    gives the same bits for the same input, gradients included.

    Args:
        sources: one to three of [B, N_i, D], float32, bfloat16 or float16, not necessarily the same. The batch may be
            expanded; the Triton program wants neighbours in D to lie side by side. One may be empty (N_i = 0).
        masks: for each source None, or bool [B, N_i]: False hides a token, whose weight is exactly 0. A row of the
            batch without any token left gives zeros.
        norm_weight_D, norm_bias_D, up_weight_HD, up_bias_H, down_weight_kH, down_bias_k: the importance's parameters,
            of one floating dtype. The Triton program takes up to 64 hidden units and 128 summaries (64 in float32).
        position_ND: added to the tokens of all sources, in their order, and so part of what is mixed.
        eps: of the LayerNorm.
        out_dtype: the result's, by default the promotion of the sources' dtypes.
    Returns:
        [B, k, D].
    Raises:
        ValueError: shapes, dtypes or devices disagree, or there is no token, summary, hidden unit or width.
        KernelUnavailableError: the Triton program was asked for by name and cannot take these inputs.
    """
    parameters = (norm_weight_D, norm_bias_D, up_weight_HD, up_bias_H, down_weight_kH, down_bias_k)
    _check(sources, masks, parameters, position_ND)
    dtype = out_dtype or reduce(torch.promote_types, [source.dtype for source in sources])
    device = sources[0].device.type
    # Tensors without memory, which only shapes are asked of, know no autocast.
    half = torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None
    weights = half or up_weight_HD.dtype
    if not use_triton(OP, sources[0], _obstacle(sources, parameters, position_ND, weights, dtype)):
        return reference.token_summary(sources, masks, *parameters, position_ND=position_ND, eps=eps, out_dtype=dtype)
    halved = [parameter.to(weights) for parameter in parameters]
    return by_program(sources, masks, halved, position_ND, eps=eps, out_dtype=dtype, half_products=half is not None)


def by_program(
    sources: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    position_ND: Tensor | None,
    *,
    eps: float,
    out_dtype: torch.dtype,
    half_products: bool = False,
) -> Tensor:
    """The Triton program's result, on inputs that it takes; `half_products` also for float32 sources."""
    missing = [None] * (MOST_SOURCES - len(sources))
    leaves = [*sources, *parameters, *([] if position_ND is None else [position_ND])]
    result: Tensor = torch.ops.longtake.token_summary(
        *[*sources, *missing],
        *[*(mask if mask is None else mask.contiguous() for mask in masks), *missing],
        position_ND,
        *[parameter.contiguous() for parameter in parameters],
        eps,
        out_dtype,
        half_products,
        torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves),
    )[0]
    return result


def _check(
    sources: Sequence[Tensor], masks: Sequence[Tensor | None], parameters: Sequence[Tensor], position_ND: Tensor | None
) -> None:
    shapes = [tuple(source.shape) for source in sources]
    if not 1 <= len(sources) <= MOST_SOURCES or len(masks) != len(sources):
        raise ValueError(
            f"{len(sources)} sources and {len(masks)} masks; one to {MOST_SOURCES} sources, each with a mask or None"
        )
    if any(len(shape) != 3 or (shape[0], shape[2]) != (shapes[0][0], shapes[0][2]) for shape in shapes):
        raise ValueError(f"the sources are {', '.join(map(str, shapes))}; wanted [B, N_i, D] with one B and D")
    width, count = shapes[0][2], sum(shape[1] for shape in shapes)
    for shape, mask in zip(shapes, masks, strict=True):
        if mask is not None and (tuple(mask.shape) != shape[:2] or mask.dtype != torch.bool):
            raise ValueError(f"a source {shape} has a mask {tuple(mask.shape)} of {mask.dtype}; wanted bool [B, N_i]")
    hidden, summaries = parameters[3].numel(), parameters[5].numel()
    wanted = [(width,), (width,), (hidden, width), (hidden,), (summaries, hidden), (summaries,)]
    if [tuple(parameter.shape) for parameter in parameters] != wanted:
        found = ", ".join(str(tuple(parameter.shape)) for parameter in parameters)
        raise ValueError(f"the parameters are {found}; wanted [D], [D], [H, D], [H], [k, H], [k] with D = {width}")
    if 0 in (count, width, hidden, summaries):
        raise ValueError(f"{count} tokens of width {width}, {hidden} hidden, {summaries} summaries: each must be >= 1")
    if position_ND is not None and tuple(position_ND.shape) != (count, width):
        raise ValueError(f"the position is {tuple(position_ND.shape)}; wanted {(count, width)}")
    dtypes = sorted({str(parameter.dtype) for parameter in parameters})
    if len(dtypes) > 1:
        raise ValueError(f"the parameters are of {', '.join(dtypes)}; wanted one dtype")
    devices = {str(tensor.device) for tensor in [*sources, *masks, *parameters, position_ND] if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"tensors on {', '.join(sorted(devices))}; wanted one device")


def _obstacle(
    sources: Sequence[Tensor],
    parameters: Sequence[Tensor],
    position_ND: Tensor | None,
    weights: torch.dtype,
    out_dtype: torch.dtype,
) -> str | None:
    """Why the Triton program cannot take these inputs."""
    named = {f"source {number}": source for number, source in enumerate(sources)} | {"position": position_ND}
    found = dtype_obstacle(**named, parameters=parameters[0])
    if found is not None or weights == torch.float64 or out_dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return found or f"the result is {out_dtype}; float32, bfloat16 or float16 is wanted"
    for name, tensor in named.items():
        if tensor is not None and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            return f"{name} has stride {tensor.stride(-1)} in its last dimension; 1 is wanted"
    hidden, summaries = parameters[2].shape[0], parameters[4].shape[0]
    most = MOST_EXACT_SUMMARIES if weights == torch.float32 else MOST_SUMMARIES
    if hidden > MOST_HIDDEN or summaries > most:
        return f"{hidden} hidden units and {summaries} summaries; it takes {MOST_HIDDEN} and {most} ({weights} weights)"
    return None


def kind_of(source: Tensor, weights: torch.dtype, position: Tensor | None, half_products: bool) -> Kind:
    """How the programs take a source's tokens into their products; see `settings.Kind`."""
    if weights == torch.float32:
        return "exact"
    if source.dtype == weights:
        return "direct" if position is None else "rounded"
    return "rounded" if half_products else "exact"


def _tokens(
    sources: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    position: Tensor | None,
    weights: torch.dtype,
    half_products: bool,
) -> Tokens:
    from longtake.kernels.token_summary.launch import Tokens

    there = [(source, mask) for source, mask in zip(sources, masks, strict=True) if source is not None]
    kinds = [kind_of(source, weights, position, half_products) for source, _ in there]
    return Tokens(
        sources=[source for source, _ in there],
        masks=[mask for _, mask in there],
        position=position,
        kinds=kinds,
        target=target_of(there[0][0]),
    )


def _parameters(*tensors: Tensor, eps: float) -> Parameters:
    from longtake.kernels.token_summary.launch import Parameters

    norm_weight, norm_bias, up, up_bias, down, down_bias = tensors
    return Parameters(
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        up=up,
        up_bias=up_bias,
        down=down,
        down_bias=down_bias,
        eps=eps,
    )


def _as_tuple(made: Forward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return made.result, made.rest, made.softmax, made.statistics, made.parts, made.folded


@torch.library.custom_op("longtake::token_summary", mutates_args=())
def _forward(
    source0: Tensor,
    source1: Tensor | None,
    source2: Tensor | None,
    mask0: Tensor | None,
    mask1: Tensor | None,
    mask2: Tensor | None,
    position: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    down: Tensor,
    down_bias: Tensor,
    eps: float,
    out_dtype: torch.dtype,
    half_products: bool,
    differentiable: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    from longtake.kernels.token_summary.launch_forward import forward

    tokens = _tokens((source0, source1, source2), (mask0, mask1, mask2), position, up.dtype, half_products)
    parameters = _parameters(norm_weight, norm_bias, up, up_bias, down, down_bias, eps=eps)
    return _as_tuple(forward(tokens, parameters, out_dtype, differentiable))


@_forward.register_fake
def _(
    source0: Tensor,
    source1: Tensor | None,
    source2: Tensor | None,
    mask0: Tensor | None,
    mask1: Tensor | None,
    mask2: Tensor | None,
    position: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    down: Tensor,
    down_bias: Tensor,
    eps: float,
    out_dtype: torch.dtype,
    half_products: bool,
    differentiable: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    sources = [source for source in (source0, source1, source2) if source is not None]
    batch, _, width = source0.shape
    count = sum(source.shape[1] for source in sources)
    (hidden, _), summaries = up.shape, down.shape[0]
    rest = rest_dtype(up.dtype, out_dtype) if differentiable else None
    return (
        source0.new_empty(batch, summaries, width, dtype=out_dtype),
        source0.new_empty((batch, summaries, width) if rest else (0,), dtype=rest or out_dtype),
        source0.new_empty(batch, 2, summaries, dtype=torch.float32),
        source0.new_empty(2, batch, count, dtype=torch.float32),
        up.new_empty(parts_of(width, up.dtype == torch.float32), hidden, width),
        up.new_empty(2, hidden, dtype=torch.float32),
    )


# Of the forward's arguments those that gradients may flow to: the sources, the position and the parameters.
DIFFERENTIABLE = (0, 1, 2, 6, 7, 8, 9, 10, 11, 12)


@torch.library.custom_op("longtake::token_summary_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    result: Tensor,
    rest: Tensor,
    softmax: Tensor,
    statistics: Tensor,
    parts: Tensor,
    folded: Tensor,
    source0: Tensor,
    source1: Tensor | None,
    source2: Tensor | None,
    mask0: Tensor | None,
    mask1: Tensor | None,
    mask2: Tensor | None,
    position: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    down: Tensor,
    down_bias: Tensor,
    eps: float,
    half_products: bool,
    wanted: Sequence[bool],
) -> list[Tensor]:
    from longtake.kernels.token_summary.launch import Forward
    from longtake.kernels.token_summary.launch_backward import backward

    tokens = _tokens((source0, source1, source2), (mask0, mask1, mask2), position, up.dtype, half_products)
    parameters = _parameters(norm_weight, norm_bias, up, up_bias, down, down_bias, eps=eps)
    made = Forward(result=result, rest=rest, softmax=softmax, statistics=statistics, parts=parts, folded=folded)
    found = backward(
        gradient.contiguous(), made, tokens, parameters, wanted[: len(tokens.sources)], wanted[MOST_SOURCES]
    )
    sources = [*found.sources, *[None] * (MOST_SOURCES - len(found.sources))]
    optional = [tensor if keep else None for tensor, keep in zip([*sources, found.position], wanted, strict=True)]
    return [
        *(gradient.new_empty(0) if tensor is None else tensor for tensor in optional),
        *found.parameters.values(),
    ]


@_backward.register_fake
def _(
    gradient: Tensor,
    result: Tensor,
    rest: Tensor,
    softmax: Tensor,
    statistics: Tensor,
    parts: Tensor,
    folded: Tensor,
    source0: Tensor,
    source1: Tensor | None,
    source2: Tensor | None,
    mask0: Tensor | None,
    mask1: Tensor | None,
    mask2: Tensor | None,
    position: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    down: Tensor,
    down_bias: Tensor,
    eps: float,
    half_products: bool,
    wanted: Sequence[bool],
) -> list[Tensor]:
    optional = zip((source0, source1, source2, position), wanted, strict=True)
    return [
        *(gradient.new_empty(0) if one is None or not keep else one.new_empty(one.shape) for one, keep in optional),
        *(one.new_empty(one.shape) for one in (norm_weight, norm_bias, up, up_bias, down, down_bias)),
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, eps, _, half_products, _ = inputs
    ctx.eps, ctx.half_products = eps, half_products
    ctx.save_for_backward(*output, *tensors)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _run_backward(ctx: Any, gradient: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    found: list[Tensor | None] = [None] * 17
    if gradient is None:
        return tuple(found)
    needed = [ctx.needs_input_grad[number] for number in DIFFERENTIABLE]
    wanted = needed[: MOST_SOURCES + 1]
    gradients = torch.ops.longtake.token_summary_backward(
        gradient, *ctx.saved_tensors, ctx.eps, ctx.half_products, wanted
    )
    for number, keep, value in zip(DIFFERENTIABLE, needed, gradients, strict=True):
        found[number] = value if keep else None
    return tuple(found)


torch.library.register_autograd("longtake::token_summary", _run_backward, setup_context=_setup_context)
