"""combine_attention: a few queries attend to several separate sources, without concatenating them.

Shapes: B batch, m queries, N keys of a source, H heads, E head width, P parts that the keys are divided into.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longtake.kernels.combine_attention.reference import combine_attention as reference
from longtake.kernels.combine_attention.settings import (
    MOST_PARTS,
    backward_settings,
    choose,
    forward_settings,
    obstacle,
)
from longtake.kernels.dispatch import dtype_obstacle, use_triton
from longtake.kernels.targets import target_of

MOST_SOURCES = 4


def combine_attention(
    q_BmHE: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None], *, scale: float | None = None
) -> Tensor:
    """Softmax attention of m queries to the keys of all sources together.

    A batch of 1 stands for one that is the same for every B. Gradients come in the shapes of the inputs; in a source
    those of keys and values lie together, as its dense layer's backward wants them.

    Args:
        q_BmHE: [B, m, H, E]; the last two dimensions contiguous.
        sources: 1 to 4 of [B, N, 2, H, E]: for each token its key and its value, as one dense layer gives them. N may
            differ and may be 0; the last three dimensions contiguous; dtype and device those of the queries.
        masks: for each source None or bool [B, N]; where False a key takes no part. Rows that are not contiguous are
            copied.
        scale: of the products of queries and keys, positive; by default 1 / sqrt(E).
    Returns:
        [B, m, H, E], dtype of the queries; zeros where every key is masked.
    Raises:
        ValueError: shapes, dtypes, strides, devices or the scale are not these.
        KernelUnavailableError: the Triton program was asked for and cannot run (see `settings.obstacle`).
    """
    batch = _check(q_BmHE, sources, masks)
    scale = q_BmHE.shape[-1] ** -0.5 if scale is None else float(scale)
    if not scale > 0:
        raise ValueError(f"the scale is {scale}; a positive one is wanted")
    _, queries, _, width = q_BmHE.shape
    reason = dtype_obstacle(queries=q_BmHE) or obstacle(queries, width)
    if not use_triton("combine_attention", q_BmHE, reason):
        return reference(q_BmHE, sources, masks, scale)
    out_BmHE: Tensor = forward_op(
        q_BmHE.expand(batch, -1, -1, -1),
        [source.expand(batch, -1, -1, -1, -1) for source in sources],
        [
            None if mask is None else (mask if _dense(mask, 1) else mask.contiguous()).expand(batch, -1)
            for mask in masks
        ],
        scale,
    )[0]
    return out_BmHE


def _check(q_BmHE: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None]) -> int:
    """The batch, after a look at everything that a program relies on."""
    if not 1 <= len(sources) <= MOST_SOURCES or len(masks) != len(sources):
        raise ValueError(
            f"1 to {MOST_SOURCES} sources with a mask or None each are wanted, not {len(sources)} with {len(masks)}"
        )
    if q_BmHE.dim() != 4 or not _dense(q_BmHE, 2):
        raise ValueError(f"queries are {_layout(q_BmHE)}; wanted [B, m, H, E], the last two contiguous")
    for number, source in enumerate(sources):
        if source.dim() != 5 or source.shape[2:] != (2, *q_BmHE.shape[2:]) or not _dense(source, 3):
            raise ValueError(
                f"source {number} is {_layout(source)} and queries {_layout(q_BmHE)}; "
                "wanted [B, N, 2, H, E], the last three contiguous"
            )
        if (source.dtype, source.device) != (q_BmHE.dtype, q_BmHE.device):
            raise ValueError(
                f"source {number} is {source.dtype} on {source.device}, queries {q_BmHE.dtype} on {q_BmHE.device}"
            )
    # Batches are compared one by one: torch.compile does not look for sizes that it knows by name only in a tuple.
    batches = [x.shape[0] for x in (q_BmHE, *sources)]
    batch = max(batches)
    if any(each != 1 and each != batch for each in batches):
        raise ValueError(f"the batches of queries and sources are {batches}; one number is wanted, beside 1")
    for number, (source, mask) in enumerate(zip(sources, masks, strict=True)):
        if mask is None:
            continue
        if mask.dtype != torch.bool or mask.device != q_BmHE.device:
            raise ValueError(f"mask {number} is {mask.dtype} on {mask.device}; wanted bool on {q_BmHE.device}")
        if mask.dim() != 2 or mask.shape[1] != source.shape[1] or (mask.shape[0] != 1 and mask.shape[0] != batch):
            raise ValueError(f"mask {number} is {tuple(mask.shape)}; wanted {(batch, source.shape[1])}")
    return batch


def _dense(x: Tensor, dimensions: int) -> bool:
    """Whether the last dimensions are contiguous."""
    step = 1
    for size, stride in zip(reversed(x.shape[-dimensions:]), reversed(x.stride()[-dimensions:]), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True


def _layout(x: Tensor) -> str:
    return f"{tuple(x.shape)} with strides {x.stride()}"


@torch.library.custom_op("longtake::combine_attention", mutates_args=())
def forward_op(
    q: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None], scale: float
) -> tuple[Tensor, Tensor]:
    """Run the Triton program: output and, for the backward, log-sum-exp [B, m, H] in base 2. All batches are alike."""
    from longtake.kernels.combine_attention import kernel

    batch, queries, heads, width = q.shape
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    if not out.numel():
        return out, lse
    settings = choose(forward_settings(target_of(q), q.dtype), queries, width)
    parts, part_blocks = settings.parts(batch * heads, tuple(source.shape[1] for source in sources))
    part_outs, part_lses = out, lse
    if parts > 1:
        part_outs = q.new_empty((parts, *q.shape), dtype=torch.float32)
        part_lses = q.new_empty((parts, *lse.shape), dtype=torch.float32)
    with torch.cuda.device_of(q):
        kernel.forward_program[(batch * heads * parts,)](
            q,
            part_outs,
            part_lses,
            **_source_arguments(out, sources, masks),
            **_size_arguments(q),
            parts=parts,
            part_blocks=part_blocks,
            scale=scale,
            BLOCK_M=settings.block_m,
            BLOCK_N=settings.block_n,
            BLOCK_E=settings.block_e,
            num_warps=settings.warps,
            num_stages=settings.stages,
        )
    if parts > 1:
        rows = batch * queries * heads
        with torch.cuda.device_of(q):
            kernel.merge_program[(rows,)](
                part_outs,
                part_lses,
                out,
                lse,
                rows,
                parts,
                E=width,
                BLOCK_P=MOST_PARTS,
                BLOCK_E=settings.block_e,
                num_warps=1,
            )
    return out, lse


@forward_op.register_fake
def _(q: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None], scale: float) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("longtake::combine_attention_backward", mutates_args=())
def backward_op(
    grad: Tensor,
    q: Tensor,
    sources: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> list[Tensor]:
    """The gradients of the queries and of each source, contiguous."""
    from longtake.kernels.combine_attention import kernel

    batch, queries, heads, width = q.shape
    dsources = [source.new_empty(source.shape) for source in sources]
    if not q.numel():
        return [q.new_empty(q.shape), *(dsource.zero_() for dsource in dsources)]
    settings = choose(backward_settings(target_of(q), q.dtype), queries, width)
    parts, part_blocks = settings.parts(batch * heads, tuple(source.shape[1] for source in sources))
    dq = q.new_empty((parts, *q.shape), dtype=q.dtype if parts == 1 else torch.float32)
    with torch.cuda.device_of(q):
        kernel.backward_program[(batch * heads * parts,)](
            q,
            out,
            lse,
            grad.contiguous(),
            dq,
            **_four("dkv", dsources, absent=out),
            **_source_arguments(out, sources, masks),
            **_size_arguments(q),
            parts=parts,
            part_blocks=part_blocks,
            scale=scale,
            BLOCK_M=settings.block_m,
            BLOCK_N=settings.block_n,
            BLOCK_E=settings.block_e,
            num_warps=settings.warps,
            num_stages=settings.stages,
        )
    return [dq[0] if parts == 1 else dq.sum(dim=0).to(q.dtype), *dsources]


@backward_op.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    sources: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> list[Tensor]:
    return [q.new_empty(q.shape), *(source.new_empty(source.shape) for source in sources)]


def _four(name: str, values: Sequence[Any], absent: Any) -> dict[str, Any]:
    """The arguments of four sources; the absent ones' are never read."""
    return {
        f"{name}{number}": value for number, value in enumerate([*values, *[absent] * (MOST_SOURCES - len(values))])
    }


def _source_arguments(out: Tensor, sources: Sequence[Tensor], masks: Sequence[Tensor | None]) -> dict[str, Any]:
    # A program reads masks as bytes; where there is no mask it reads none, and any address will do.
    no_mask = out.view(torch.uint8)
    return {
        **_four("kv", sources, absent=out),
        **_four("mask", [no_mask if mask is None else mask.view(torch.uint8) for mask in masks], absent=no_mask),
        **_four("n", [source.shape[1] for source in sources], absent=0),
        **_four("kv_batch", [source.stride(0) for source in sources], absent=0),
        **_four("kv_row", [source.stride(1) for source in sources], absent=0),
        **_four("mask_batch", [0 if mask is None else mask.stride(0) for mask in masks], absent=0),
        "masked": sum(1 << number for number, mask in enumerate(masks) if mask is not None),
    }


def _size_arguments(q: Tensor) -> dict[str, Any]:
    batch, queries, heads, width = q.shape
    return {
        "q_batch": q.stride(0),
        "q_row": q.stride(1),
        "batches": batch,
        "queries": queries,
        "heads": heads,
        "E": width,
    }


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, sources, masks, scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, *output, *sources, *masks)
    ctx.scale = scale


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, list[Tensor], list[None] | None, None]:
    q, out, lse, *rest = ctx.saved_tensors
    sources, masks = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    dq, *dsources = backward_op(grad, q, sources, masks, out, lse, ctx.scale)
    # A list of tensors wants a list; one with a None among them counts as a single argument.
    return dq, dsources, None if any(mask is None for mask in masks) else [None] * len(masks), None


forward_op.register_autograd(_gradients, setup_context=_save)
