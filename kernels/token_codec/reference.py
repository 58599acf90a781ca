"""The definition of the token codec: tokens as int8 with a scale for each token or each group of its channels.

A group's scale is a 127th of its largest absolute value, rounded to the scales' dtype; a code is a channel times that
scale's inverse, rounded half to even. Nothing is stored beside the scale: codes are symmetric, and -128 is not used.

- A group of zeros, or of values so small that their scale is not a normal number, has scale 0 and decodes to zeros.
- A group that holds a NaN or an infinity has scale NaN and codes 0: all of it decodes to NaN, so that what is broken
  shows and does not become a number.
- Scales in float16 hold groups whose largest value is 0.008 ... 8.3 million. Above that channels saturate; below it
  the scale itself has few bits, and what it cannot hold decodes to zeros.

All steps are in float32 (float64 for float64 tokens) in the order written here, so that any implementation can give
the same bits. Shapes: D width, G groups, g channels of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_CODE = 127
# The smallest scale whose inverse is a finite float32 that lost no bits: the smallest normal number.
SMALLEST_SCALE = 2.0**-126


def encode(tokens: Tensor, group: int | None = None, scale_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Tokens [..., D] to codes int8 [..., D] and scales [..., G]; a group of None is the whole token."""
    exact = _working_dtype(tokens)
    values = tokens.detach().to(exact).unflatten(-1, (-1, group or tokens.shape[-1]))
    largest = values.abs().amax(dim=-1)
    finite = largest.isfinite()
    # Not a division: on a GPU PyTorch divides by a number in another way than elsewhere.
    scales = (largest * (1.0 / LARGEST_CODE)).clamp(max=torch.finfo(scale_dtype).max).to(scale_dtype)
    scales = scales.masked_fill(scales.to(exact) < SMALLEST_SCALE, 0.0).masked_fill(~finite, float("nan"))
    used = scales > 0
    inverse = torch.where(used, 1.0 / scales.to(exact).masked_fill(~used, 1.0), 0.0)
    codes = (values * inverse[..., None]).round().clamp(-LARGEST_CODE, LARGEST_CODE)
    return codes.masked_fill(~finite[..., None], 0.0).to(torch.int8).flatten(-2), scales


def decode(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Codes int8 [..., D] and scales [..., G] to tokens [..., D]: each code times its group's scale."""
    exact = torch.float64 if dtype == torch.float64 else _working_dtype(scales)
    values = codes.to(exact).unflatten(-1, (scales.shape[-1], -1)) * scales.to(exact)[..., None]
    tokens: Tensor = values.to(dtype).flatten(-2)
    return tokens


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
