"""Launches of the token summary's backward, on tensors that `op.py` has checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import triton
from torch import Tensor

from longtake.kernels.token_summary import settings
from longtake.kernels.token_summary.backward import delta_program, finish_program, tokens_program, weights_program
from longtake.kernels.token_summary.launch import (
    DTYPES,
    SMALL,
    Forward,
    Launch,
    Parameters,
    Run,
    Tokens,
    execute,
    layers_of,
    product_of,
    rest_of,
    sizes_of,
)
from longtake.kernels.token_summary.settings import Tile, padded

# Of the program that finishes the first layer's gradients: columns of a block.
FINISH = Tile(0, 32, 4, 3)


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradients of the sources (None where not wanted), the position and the parameters, in their dtypes."""

    sources: list[Tensor | None]
    position: Tensor | None
    parameters: dict[str, Tensor] = field(default_factory=dict)


def backward(
    gradient: Tensor,
    made: Forward,
    tokens: Tokens,
    parameters: Parameters,
    wanted: Sequence[bool],
    position_wanted: bool,
    run: Run = execute,
) -> Gradients:
    """All gradients from that of the result, which is contiguous. `wanted` is by source.

    A position's gradient is the sum over the batch of all tokens' gradients, so with it those are computed anyway.
    """
    position = tokens.position if position_wanted else None
    # The position's gradient is a sum of theirs, which must not be rounded to less than its own dtype before.
    dtypes = [
        source.dtype if position is None else torch.promote_types(source.dtype, position.dtype)
        for source in tokens.sources
    ]
    sources = [
        source.new_empty(source.shape, dtype=dtype) if one or position is not None else None
        for source, dtype, one in zip(tokens.sources, dtypes, wanted, strict=True)
    ]
    names = ("norm_weight", "norm_bias", "up", "up_bias", "down", "down_bias")
    if not tokens.lanes:
        zeros = {name: torch.zeros_like(getattr(parameters, name)) for name in names}
        return Gradients(
            sources=sources, position=None if position is None else position.new_zeros(position.shape), parameters=zeros
        )
    found = {name: torch.empty_like(getattr(parameters, name)) for name in names}
    inner, sums = _token_gradients(gradient, made, tokens, parameters, sources, run)
    _parameter_gradients(inner, sums, made, tokens, parameters, found, run)
    if position is not None:
        parts = [one.sum(dim=0, dtype=torch.float32) for one in sources if one is not None]
        position = torch.cat(parts).to(position.dtype)
    kept = [
        one.to(source.dtype) if keep and one is not None else None
        for one, source, keep in zip(sources, tokens.sources, wanted, strict=True)
    ]
    return Gradients(sources=kept, position=position, parameters=found)


def _token_gradients(
    gradient: Tensor, made: Forward, tokens: Tokens, parameters: Parameters, sources: list[Tensor | None], run: Run
) -> tuple[Tensor, Tensor]:
    """Write the sources' gradients; those at the first layer [B, N, H], and the sums of `tokens_program` over all."""
    lanes, width = tokens.lanes, tokens.width
    summaries, hidden = parameters.down.shape
    exact_delta, half_delta = _deltas(gradient, made, parameters, run)
    inner = parameters.up.new_empty(lanes, sum(tokens.counts), hidden)
    tiles = [settings.tokens_tile(tokens.target, summaries, parameters.exact, kind) for kind in tokens.kinds]
    blocks = [lanes * -(-count // tile.rows) for count, tile in zip(tokens.counts, tiles, strict=True)]
    sums = made.softmax.new_empty(sum(blocks), summaries * hidden + 2 * hidden)
    for number, (kind, tile, mine) in enumerate(zip(tokens.kinds, tiles, sums.split(blocks), strict=True)):
        run(
            Launch(
                program=tokens_program,
                grid=blocks[number],
                arguments={
                    **tokens.one_source(number),
                    **layers_of(parameters, made),
                    **{"mask": tokens.masks[number], "token_gradient": sources[number], "gradient": gradient},
                    **{"statistics": made.statistics, "softmax": made.softmax},
                    **{"delta": exact_delta if kind == "exact" else half_delta},
                    **{"inner_gradient": inner, "sums": mine},
                },
                constants={
                    **sizes_of(parameters),
                    **{"PARTS": made.parts.shape[0], "ROWS": tile.rows, "COLUMNS": tile.columns},
                    **{"EVEN": width % tile.columns == 0, "DIRECT": kind == "direct"},
                    **{"PRODUCT": product_of(kind, parameters.up.dtype)},
                },
                tile=tile,
            )
        )
    return inner, sums.sum(dim=0)


def _deltas(gradient: Tensor, made: Forward, parameters: Parameters, run: Run) -> tuple[Tensor, Tensor]:
    """The result's product with its gradient, and with that in half precision, both [B, k]."""
    lanes, summaries, width = made.result.shape
    delta = made.softmax.new_empty(2, lanes, summaries)
    run(
        Launch(
            program=delta_program,
            grid=triton.cdiv(lanes * summaries, SMALL.rows),
            arguments={
                **{"result": made.result, "rest": rest_of(made), "gradient": gradient, "delta": delta},
                **{"height": lanes * summaries, "width": width},
            },
            constants={"HALF": DTYPES[parameters.up.dtype], "ROWS": SMALL.rows, "COLUMNS": SMALL.columns},
            tile=SMALL,
        )
    )
    return delta[0], delta[1]


def _parameter_gradients(
    inner: Tensor,
    sums: Tensor,
    made: Forward,
    tokens: Tokens,
    parameters: Parameters,
    found: dict[str, Tensor],
    run: Run,
) -> None:
    """Write the parameters' gradients."""
    lanes, width = tokens.lanes, tokens.width
    summaries, hidden = parameters.down.shape
    tiles = [settings.weights_tile(tokens.target, parameters.exact, kind) for kind in tokens.kinds]
    groups = [
        settings.groups_of(tokens.target, triton.cdiv(width, tile.columns), lanes, -(-count // tile.rows))
        for count, tile in zip(tokens.counts, tiles, strict=True)
    ]
    parts = [triton.cdiv(lanes, group) * shares for group, shares in groups]
    products = sums.new_empty(sum(parts), hidden, width)
    for number, (kind, tile, mine) in enumerate(zip(tokens.kinds, tiles, products.split(parts), strict=True)):
        group, shares = groups[number]
        run(
            Launch(
                program=weights_program,
                grid=len(mine) * triton.cdiv(width, tile.columns),
                arguments={
                    **tokens.one_source(number),
                    **{"statistics": made.statistics, "inner_gradient": inner, "out": mine},
                    **{"group": group, "shares": shares},
                },
                constants={
                    **{"H": hidden, "HIDDEN": padded(hidden), "ROWS": tile.rows, "COLUMNS": tile.columns},
                    **{"EVEN": width % tile.columns == 0, "DIRECT": kind == "direct"},
                },
                tile=tile,
            )
        )
    size = summaries * hidden
    run(
        Launch(
            program=finish_program,
            grid=triton.cdiv(width, FINISH.columns),
            arguments={
                **{"product": products.sum(dim=0), "sums": sums[size:], "up": parameters.up, "width": width},
                **{"norm_weight": parameters.norm_weight, "norm_bias": parameters.norm_bias},
                **{"up_gradient": found["up"], "norm_weight_gradient": found["norm_weight"]},
                **{"norm_bias_gradient": found["norm_bias"]},
            },
            constants={"H": hidden, "HIDDEN": padded(hidden), "COLUMNS": FINISH.columns},
            tile=FINISH,
        )
    )
    found["down"].copy_(sums[:size].view(summaries, hidden))
    found["up_bias"].copy_(sums[size : size + hidden])
    # The second layer's bias moves all logits of a summary alike, which the softmax ignores.
    found["down_bias"].zero_()
