"""uint8 pictures to the tokens of all tubes, without a float copy of the pictures: checks, launches, gradient.

Shapes: S snippets, F pictures, H rows, W columns, N tokens, K numbers of a tube, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from longtake.kernels.dispatch import dtype_obstacle, is_interpreted, use_triton
from longtake.kernels.targets import target_of
from longtake.kernels.tube_embed.reference import TubeShape
from longtake.kernels.tube_embed.reference import tube_embed as reference
from longtake.kernels.tube_embed.settings import Settings, forward_settings, gradient_settings, vector

# Programs address what a block of tokens reads and writes by 32 bits from its first snippet on.
MOST_REACH = 2**31 - 1


def tube_embed(
    frames_SFHWC: Tensor,
    tubes: Sequence[TubeShape],
    weights_DK: Sequence[Tensor],
    biases_D: Sequence[Tensor],
    positions_ND: Sequence[Tensor] | None = None,
    frame_index_SF: Tensor | None = None,
) -> Tensor:
    """Cut every tube out of the pictures, scale its pixels to -1 ... 1, and put it through its kind's dense layer.

    Gradients are those of weights, biases and positions. Under autocast the product runs in autocast's dtype, as a
    dense layer's would.

    Args:
        frames_SFHWC: uint8 [S, F, H, W, 3], each picture contiguous.
        tubes: the kinds of tubes; each yields at least one token.
        weights_DK, biases_D: of each kind [D, K] and [D], all of one floating dtype; K is ordered (t, y, x, colour).
        positions_ND: of each kind [N, D], added to its tokens of every snippet; all of one floating dtype.
        frame_index_SF: int32 [S, F], the picture to read in the place of each. Its values are not checked: all must
            lie in 0 ... F - 1.
    Returns:
        [S, sum of N, D], the kinds one after another and each one's tokens ordered (t, y, x). The dtype is what the
        weights' and the positions' promote to.
    Raises:
        ValueError: shapes, dtypes, strides or devices are not these.
        KernelUnavailableError: the Triton program was asked for and cannot run.
    """
    _check_pictures(frames_SFHWC, frame_index_SF)
    _check_kinds(frames_SFHWC, tubes, weights_DK, biases_D, positions_ND)
    obstacle = dtype_obstacle(weights=weights_DK[0], positions=positions_ND[0] if positions_ND else None)
    if not use_triton("tube_embed", frames_SFHWC, obstacle or reach_obstacle(frames_SFHWC, tubes)):
        return reference(frames_SFHWC, tubes, weights_DK, biases_D, positions_ND, frame_index_SF)
    device = frames_SFHWC.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights_DK[0].dtype
    tokens_SND: Tensor = forward_op(
        frames_SFHWC,
        frame_index_SF,
        [weight.to(dtype) for weight in weights_DK],
        [bias.to(dtype) for bias in biases_D],
        list(positions_ND or ()),
        [number for tube in tubes for part in tube for number in part],
    )
    return tokens_SND


def _check_pictures(frames: Tensor, index: Tensor | None) -> None:
    if frames.dtype != torch.uint8 or frames.dim() != 5 or frames.shape[-1] != 3:
        raise ValueError(f"pictures are {_kind(frames)}; wanted uint8 [S, F, H, W, 3]")
    if frames.numel() and not frames[0, 0].is_contiguous():
        raise ValueError(f"pictures have strides {frames.stride()}; wanted each picture contiguous")
    if index is not None and (index.dtype != torch.int32 or index.shape != frames.shape[:2]):
        raise ValueError(f"the frame index is {_kind(index)}; wanted int32 {tuple(frames.shape[:2])}")
    if index is not None and index.device != frames.device:
        raise ValueError(f"the frame index is on {index.device}, the pictures on {frames.device}")


def _check_kinds(
    frames: Tensor,
    tubes: Sequence[TubeShape],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    positions: Sequence[Tensor] | None,
) -> None:
    counts = [len(tubes), len(weights), len(biases), *([] if positions is None else [len(positions)])]
    if len(set(counts)) > 1 or not tubes:
        raise ValueError(f"tubes, weights, biases and positions are {counts}; one of each for every kind is wanted")
    clip = _clip(frames)
    width = weights[0].shape[0]
    for number, tube in enumerate(tubes):
        grid = tube.grid(clip)
        if min(*grid, *tube.kernel, *tube.stride) < 1 or min(tube.offset) < 0:
            raise ValueError(f"{tube} yields no token on a clip of {clip}")
        _check_kind(f"weight {number}", weights[number], (width, tube.depth), weights[0], frames)
        _check_kind(f"bias {number}", biases[number], (width,), weights[0], frames)
        if positions is not None:
            tokens = grid[0] * grid[1] * grid[2]
            _check_kind(f"position {number}", positions[number], (tokens, width), positions[0], frames)


def _check_kind(name: str, value: Tensor, shape: tuple[int, ...], like: Tensor, frames: Tensor) -> None:
    if value.shape != shape or value.dtype != like.dtype or not value.is_floating_point():
        raise ValueError(f"{name} is {_kind(value)}; wanted {like.dtype} {shape}")
    if value.device != frames.device:
        raise ValueError(f"{name} is on {value.device}, the pictures on {frames.device}")


def reach_obstacle(frames: Tensor, tubes: Sequence[TubeShape]) -> str | None:
    """Why 32 bits do not address what one block of tokens reads, None where they do."""
    fewest = min(_tokens(tube, _clip(frames)) for tube in tubes)
    # The tallest tile has 128 tokens.
    reach = (128 // fewest + 2) * frames.stride(0) + frames.shape[1] * frames.stride(1)
    return f"a block of tokens spans {reach} bytes, and it takes at most {MOST_REACH}" if reach > MOST_REACH else None


def _kind(x: Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)}"


def _clip(frames: Tensor) -> tuple[int, int, int]:
    return (frames.shape[1], frames.shape[2], frames.shape[3])


def _tokens(tube: TubeShape, clip: tuple[int, int, int]) -> int:
    starts, rows, columns = tube.grid(clip)
    return starts * rows * columns


def _spans(frames: Tensor, numbers: Sequence[int]) -> Iterator[tuple[TubeShape, int, int]]:
    """Each kind of tube, from its nine numbers, with its first token in the output and the one after its last."""
    start = 0
    for n in range(0, len(numbers), 9):
        t, y, x, *rest = numbers[n : n + 9]
        tube = TubeShape((t, y, x), (rest[0], rest[1], rest[2]), (rest[3], rest[4], rest[5]))
        stop = start + _tokens(tube, _clip(frames))
        yield tube, start, stop
        start = stop


def _arguments(
    frames: Tensor, index: Tensor | None, tube: TubeShape, width: int, dtype: torch.dtype, settings: Settings
) -> dict[str, Any]:
    """What both programs take by name."""
    import triton.language as tl

    # The interpreter multiplies bfloat16's bits as if they were integers.
    wide = is_interpreted() and dtype == torch.bfloat16
    operand = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]
    return {
        "frames": frames,
        "index": index,
        "snippets": frames.shape[0],
        "stride_s": frames.stride(0),
        "stride_f": frames.stride(1),
        "stride_i": 0 if index is None else index.stride(0),
        **constants(tube, _clip(frames), width, settings),
        "OPERAND": tl.float32 if wide else operand,
        "num_warps": settings.warps,
        "num_stages": settings.stages if index is None else settings.indexed_stages,
    }


def constants(tube: TubeShape, clip: tuple[int, int, int], width: int, settings: Settings) -> dict[str, Any]:
    """The programs' constants that follow from the sizes and the settings."""
    return {
        "TUBE": (*tube.kernel, *tube.stride, *tube.offset, *tube.grid(clip), clip[2] * 3),
        "WIDTH": width,
        "VECTOR": vector(tube, clip[2]),
        "SPAN": settings.span(tube),
        "ROWS": settings.rows,
        "COLUMNS": settings.columns,
        "DEPTH": settings.depth,
    }


@torch.library.custom_op("longtake::tube_embed", mutates_args=())
def forward_op(
    frames: Tensor,
    index: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    positions: Sequence[Tensor],
    tubes: Sequence[int],
) -> Tensor:
    from longtake.kernels.tube_embed import kernel

    out = _empty_tokens(frames, weights, positions, tubes)
    index = None if index is None else index.contiguous()
    width, dtype = weights[0].shape[0], weights[0].dtype
    for number, (tube, start, stop) in enumerate(_spans(frames, tubes)):
        rows = frames.shape[0] * (stop - start)
        settings = forward_settings(target_of(frames), dtype, tube, rows, width, indexed=index is not None)
        blocks = -(-rows // settings.rows) * -(-width // settings.columns)
        if not blocks:
            continue
        with torch.cuda.device_of(frames):
            kernel.forward_kernel[(blocks,)](
                weight=weights[number].contiguous(),
                bias=biases[number].contiguous(),
                position=positions[number].contiguous() if positions else None,
                out=out[:, start:stop],
                stride_o=out.stride(0),
                **_arguments(frames, index, tube, width, dtype, settings),
            )
    return out


@forward_op.register_fake
def _(
    frames: Tensor,
    index: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    positions: Sequence[Tensor],
    tubes: Sequence[int],
) -> Tensor:
    return _empty_tokens(frames, weights, positions, tubes)


def _empty_tokens(
    frames: Tensor, weights: Sequence[Tensor], positions: Sequence[Tensor], tubes: Sequence[int]
) -> Tensor:
    *_, (_, _, tokens) = _spans(frames, tubes)
    dtype = torch.promote_types(weights[0].dtype, (positions or weights)[0].dtype)
    return frames.new_empty((frames.shape[0], tokens, weights[0].shape[0]), dtype=dtype)


@torch.library.custom_op("longtake::tube_embed_weight_gradients", mutates_args=())
def weight_gradients_op(
    gradient: Tensor, frames: Tensor, index: Tensor | None, tubes: Sequence[int], like: Tensor
) -> list[Tensor]:
    """Of each kind of tube [D, K], in the dtype of `like`, which is one of the weights."""
    from longtake.kernels.tube_embed import kernel

    gradient = gradient.contiguous()
    index = None if index is None else index.contiguous()
    width, dtype = like.shape[0], like.dtype
    found = []
    for tube, start, stop in _spans(frames, tubes):
        rows = frames.shape[0] * (stop - start)
        settings, chunk = gradient_settings(target_of(frames), dtype, tube, rows, width)
        chunks = -(-rows // chunk)
        partial = frames.new_empty((chunks, width, tube.depth), dtype=torch.float32)
        if chunks:
            blocks = -(-width // settings.columns) * -(-tube.depth // settings.depth)
            with torch.cuda.device_of(frames):
                kernel.weight_gradient_kernel[(blocks, chunks)](
                    gradient=gradient[:, start:stop],
                    partial=partial,
                    chunk=chunk,
                    stride_g=gradient.stride(0),
                    **_arguments(frames, index, tube, width, dtype, settings),
                )
        found.append(partial.sum(dim=0).to(dtype))
    return found


@weight_gradients_op.register_fake
def _(gradient: Tensor, frames: Tensor, index: Tensor | None, tubes: Sequence[int], like: Tensor) -> list[Tensor]:
    return [like.new_empty((like.shape[0], tube.depth)) for tube, _, _ in _spans(frames, tubes)]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    frames, index, weights, _, positions, tubes = inputs
    ctx.save_for_backward(frames, index, weights[0])
    ctx.position_dtype = positions[0].dtype if positions else None
    ctx.tubes = tubes


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    frames, index, weight = ctx.saved_tensors
    _, _, wants_weights, wants_biases, wants_positions, _ = ctx.needs_input_grad
    spans = [(start, stop) for _, start, stop in _spans(frames, ctx.tubes)]
    weights: list[Tensor | None] = [None] * len(spans)
    if any(wants_weights):
        weights = list(weight_gradients_op(gradient, frames, index, ctx.tubes, weight))
    # Sums over a whole axis are PyTorch's own work.
    biases = [
        gradient[:, start:stop].sum(dim=(0, 1), dtype=torch.float32).to(weight.dtype) if wanted else None
        for wanted, (start, stop) in zip(wants_biases, spans, strict=True)
    ]
    positions = [
        gradient[:, start:stop].sum(dim=0, dtype=torch.float32).to(ctx.position_dtype) if wanted else None
        for wanted, (start, stop) in zip(wants_positions or [False] * len(spans), spans, strict=True)
    ]
    return None, None, weights, biases, positions if ctx.position_dtype is not None else [], None


forward_op.register_autograd(_gradients, setup_context=_save)
