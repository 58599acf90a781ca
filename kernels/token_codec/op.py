"""Tokens to int8 with a scale for each token or group of channels, and back: checks, launches, gradient.

What a code is, and what becomes of zeros and of broken numbers, is in `reference.py`; both implementations give the
same bits.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from longtake.kernels.dispatch import DTYPES, dtype_obstacle, use_triton
from longtake.kernels.targets import target_of
from longtake.kernels.token_codec import reference
from longtake.kernels.token_codec.reference import SMALLEST_SCALE

SCALE_DTYPES = (torch.float32, torch.float16)
# What a program holds in registers.
LARGEST_GROUP = 16_384


def encode(tokens: Tensor, group: int | None = None, scale_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Quantise tokens symmetrically to int8, -127 ... 127, by the largest absolute value of each group of channels.

    Not differentiable: nothing flows back from the scales.

    Args:
        tokens: [..., D], the last dimension contiguous and the others such that one stride leads from token to token.
        group: how many channels share a scale; None is all D.
        scale_dtype: float32, or float16 for tokens whose largest value is within 0.008 ... 8.3 million.
    Returns:
        codes int8 [..., D] and scales [..., D / group], contiguous. A group of zeros decodes to zeros; one with a NaN
        or an infinity has scale NaN and decodes to NaN.
    Raises:
        ValueError: D does not divide into groups, or dtypes or strides are not these.
        KernelUnavailableError: the Triton program was asked for and cannot run.
    """
    width = tokens.shape[-1] if tokens.dim() else 0
    group = width if group is None else group
    if group < 1 or width < 1 or width % group:
        raise ValueError(f"tokens of {width} channels do not divide into groups of {group}")
    if scale_dtype not in SCALE_DTYPES or not tokens.is_floating_point():
        raise ValueError(
            f"tokens are {tokens.dtype} and scales {scale_dtype}; wanted any float, and float32 or float16"
        )
    _token_stride("tokens", tokens)
    if not use_triton("token_codec", tokens, dtype_obstacle(tokens=tokens) or _obstacle(group)):
        return reference.encode(tokens, group, scale_dtype)
    codes, scales = encode_op(tokens.detach(), group, scale_dtype)
    return codes, scales


def decode(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Codes back to tokens: each times its group's scale, in float32, rounded to `dtype`.

    The gradient is that of the scales.

    Args:
        codes: int8 [..., D]. scales: [..., G], G groups of D / G channels each; any of the program's dtypes. Both with
            the last dimension contiguous and one stride from token to token.
        dtype: of the tokens.
    Returns:
        [..., D], contiguous.
    Raises:
        ValueError: shapes, dtypes, strides or devices are not these.
        KernelUnavailableError: the Triton program was asked for and cannot run.
    """
    if codes.dtype != torch.int8 or not scales.is_floating_point() or not dtype.is_floating_point:
        raise ValueError(f"codes are {codes.dtype}, scales {scales.dtype}, tokens {dtype}; wanted int8, float, float")
    width, groups = (x.shape[-1] if x.dim() else 0 for x in (codes, scales))
    if codes.shape[:-1] != scales.shape[:-1] or groups < 1 or width < 1 or width % groups:
        raise ValueError(
            f"codes are {tuple(codes.shape)} and scales {tuple(scales.shape)}; wanted [..., D] and [..., G]"
        )
    if codes.device != scales.device:
        raise ValueError(f"codes are on {codes.device}, scales on {scales.device}")
    _token_stride("codes", codes)
    _token_stride("scales", scales)
    obstacle = dtype_obstacle(scales=scales) or _obstacle(width // groups)
    if dtype not in DTYPES:
        obstacle = f"tokens are {str(dtype).removeprefix('torch.')}; float32, bfloat16 or float16 is wanted"
    if not use_triton("token_codec", codes, obstacle):
        return reference.decode(codes, scales, dtype)
    tokens: Tensor = decode_op(codes, scales, dtype)
    return tokens


def _obstacle(group: int) -> str | None:
    return f"a group has {group} channels, and it takes at most {LARGEST_GROUP}" if group > LARGEST_GROUP else None


def _token_stride(name: str, x: Tensor) -> int:
    """The one stride that leads from each token to the next.

    Raises:
        ValueError: there is none, or a token is not contiguous.
    """
    steps = [(size, step) for size, step in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    even = all(step == size * inner for (_, step), (size, inner) in itertools.pairwise(steps))
    if (x.shape[-1] > 1 and x.stride(-1) != 1) or not even:
        raise ValueError(
            f"{name} are {tuple(x.shape)} with strides {x.stride()}; wanted the last dimension contiguous "
            "and one stride from token to token"
        )
    return steps[-1][1] if steps else x.shape[-1]


def _launch(kernel: Any, tokens_like: Tensor, per_token: int, **arguments: Any) -> None:
    """Run a program over all groups of tokens of this shape; pointers and strides are named in `arguments`."""
    from longtake.kernels.token_codec.kernel import settings

    groups = math.prod(tokens_like.shape[:-1]) * per_token
    if not groups:
        return
    group = tokens_like.shape[-1] // per_token
    chosen = settings(target_of(tokens_like), group)
    with torch.cuda.device_of(tokens_like):
        kernel[(-(-groups // chosen.rows),)](
            **arguments,
            groups=groups,
            PER_TOKEN=per_token,
            GROUP=group,
            MAIN=chosen.main,
            TAIL=chosen.tail,
            ROWS=chosen.rows,
            num_warps=chosen.warps,
        )


@torch.library.custom_op("longtake::token_encode", mutates_args=())
def encode_op(tokens: Tensor, group: int, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from longtake.kernels.token_codec.kernel import encode_kernel

    codes, scales = _empty_codes(tokens, group, scale_dtype)
    _launch(
        encode_kernel,
        tokens,
        scales.shape[-1],
        tokens=tokens,
        codes=codes,
        scales=scales,
        token_stride=_token_stride("tokens", tokens),
        LARGEST_SCALE=torch.finfo(scale_dtype).max,
        SMALLEST_SCALE=SMALLEST_SCALE,
    )
    return codes, scales


@encode_op.register_fake
def _empty_codes(tokens: Tensor, group: int, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    width = tokens.shape[-1]
    codes = tokens.new_empty(tokens.shape, dtype=torch.int8)
    return codes, tokens.new_empty((*tokens.shape[:-1], width // group), dtype=scale_dtype)


@torch.library.custom_op("longtake::token_decode", mutates_args=())
def decode_op(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    from longtake.kernels.token_codec.kernel import decode_kernel

    tokens = codes.new_empty(codes.shape, dtype=dtype)
    _launch(
        decode_kernel,
        codes,
        scales.shape[-1],
        codes=codes,
        scales=scales,
        tokens=tokens,
        code_stride=_token_stride("codes", codes),
        scale_stride=_token_stride("scales", scales),
    )
    return tokens


@decode_op.register_fake
def _(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.new_empty(codes.shape, dtype=dtype)


@torch.library.custom_op("longtake::token_decode_backward", mutates_args=())
def decode_backward_op(gradient: Tensor, codes: Tensor, groups: int, scale_dtype: torch.dtype) -> Tensor:
    """The gradient of the scales: of each group the sum of codes times the tokens' gradient."""
    from longtake.kernels.token_codec.kernel import scale_gradient_kernel

    scale_gradient = gradient.new_empty((*codes.shape[:-1], groups), dtype=scale_dtype)
    _launch(
        scale_gradient_kernel,
        codes,
        groups,
        gradient=gradient.contiguous(),
        codes=codes,
        scale_gradient=scale_gradient,
        code_stride=_token_stride("codes", codes),
    )
    return scale_gradient


@decode_backward_op.register_fake
def _(gradient: Tensor, codes: Tensor, groups: int, scale_dtype: torch.dtype) -> Tensor:
    return gradient.new_empty((*codes.shape[:-1], groups), dtype=scale_dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    codes, scales, _ = inputs
    ctx.save_for_backward(codes)
    ctx.groups, ctx.scale_dtype = scales.shape[-1], scales.dtype


def _gradients(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
    (codes,) = ctx.saved_tensors
    return None, decode_backward_op(gradient, codes, ctx.groups, ctx.scale_dtype), None


decode_op.register_autograd(_gradients, setup_context=_save)
