"""Launches of the token summary's forward, on tensors that `op.py` has checked."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from longtake.kernels.token_summary import settings
from longtake.kernels.token_summary.forward import combine_program, fold_program, logits_program, mix_program
from longtake.kernels.token_summary.launch import (
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
from longtake.kernels.token_summary.one_pass import whole_program
from longtake.kernels.token_summary.settings import EXACT_ROWS, MOST_SHARES, Tile, padded


def forward(
    tokens: Tokens, parameters: Parameters, out_dtype: torch.dtype, differentiable: bool = True, run: Run = execute
) -> Forward:
    """Summarise; one pass or two, as `settings` says."""
    hidden, width = parameters.up.shape
    summaries = parameters.down.shape[0]
    some = tokens.sources[0]
    result = some.new_empty(tokens.lanes, summaries, width, dtype=out_dtype)
    rest = settings.rest_dtype(parameters.up.dtype, out_dtype) if differentiable else None
    made = Forward(
        result=result,
        rest=result.new_empty(result.shape, dtype=rest) if rest else result.new_empty(0),
        softmax=some.new_empty(tokens.lanes, 2, summaries, dtype=torch.float32),
        statistics=some.new_empty(2, tokens.lanes, sum(tokens.counts), dtype=torch.float32),
        parts=some.new_empty(settings.parts_of(width, parameters.exact), hidden, width, dtype=parameters.up.dtype),
        folded=some.new_empty(2, hidden, dtype=torch.float32),
    )
    if not tokens.lanes:
        return made
    run(
        Launch(
            program=fold_program,
            grid=triton.cdiv(hidden, SMALL.rows),
            arguments={
                **{"up": parameters.up, "up_bias": parameters.up_bias, "norm_weight": parameters.norm_weight},
                **{"norm_bias": parameters.norm_bias, "parts": made.parts, "folded": made.folded},
                **{"height": hidden, "width": width},
            },
            constants={"PARTS": made.parts.shape[0], "ROWS": SMALL.rows, "COLUMNS": SMALL.columns},
            tile=SMALL,
        )
    )
    whole = settings.one_pass(tokens.target, width, summaries, tokens.kinds)
    if whole is None:
        _two_passes(tokens, parameters, made, run)
    else:
        _one_pass(tokens, parameters, made, whole, run)
    return made


def _two_passes(tokens: Tokens, parameters: Parameters, made: Forward, run: Run) -> None:
    lanes, width, summaries = tokens.lanes, tokens.width, parameters.down.shape[0]
    kinds = tokens.all_kinds()
    tile = settings.logits_tile(tokens.target, parameters.exact)
    blocks = settings.blocks_of(tokens.counts, tile.rows)
    logits = made.statistics.new_empty(lanes, sum(tokens.counts), summaries)
    block_maximum = made.statistics.new_empty(lanes, blocks, summaries)
    run(
        Launch(
            program=logits_program,
            grid=lanes * blocks,
            arguments={
                **tokens.all_sources(),
                **tokens.all_masks(),
                **layers_of(parameters, made),
                **{"logits": logits, "block_maximum": block_maximum, "statistics": made.statistics},
                **{"eps": parameters.eps},
            },
            constants={
                **sizes_of(parameters),
                **{"PARTS": made.parts.shape[0], "ROWS": tile.rows, "EVEN": width % tile.columns == 0},
                **{f"COLUMNS{number}": settings.logits_columns(tile, kinds[number]) for number in range(3)},
                **{f"DIRECT{number}": kinds[number] == "direct" for number in range(3)},
            },
            tile=tile,
        )
    )

    tile = settings.mix_tile(tokens.target, summaries, tokens.kinds)
    tiles = triton.cdiv(width, tile.columns)
    shares = settings.shares_of(tokens.target, lanes * tiles, settings.blocks_of(tokens.counts, tile.rows))
    out, softmax = _of_shares(made, shares)
    rows = [EXACT_ROWS if kind == "exact" else tile.rows for kind in kinds]
    run(
        Launch(
            program=mix_program,
            grid=lanes * tiles * shares,
            arguments={
                **tokens.all_sources(),
                **{"logits": logits, "block_maximum": block_maximum, "softmax": softmax, "out": out},
                **{"rest": rest_of(made) if shares == 1 else None},
                **{"blocks": blocks, "shares": shares},
            },
            constants={
                **{"K": summaries, "SUMMARIES": padded(summaries), "SPLIT": shares > 1},
                **{"COLUMNS": tile.columns, "EVEN": width % tile.columns == 0},
                **{f"ROWS{number}": rows[number] for number in range(3)},
                **{f"PRODUCT{number}": product_of(kinds[number], parameters.up.dtype) for number in range(3)},
            },
            tile=tile,
        )
    )
    _combine(out, softmax, made, run)


def _one_pass(tokens: Tokens, parameters: Parameters, made: Forward, tile: Tile, run: Run) -> None:
    lanes, source = tokens.lanes, tokens.sources[0]
    shares = settings.shares_of(tokens.target, lanes, settings.blocks_of(tokens.counts, tile.rows))
    out, softmax = _of_shares(made, shares)
    run(
        Launch(
            program=whole_program,
            grid=lanes * shares,
            arguments={
                **{"source": source, "lane_stride": source.stride(0), "row_stride": source.stride(1)},
                **{"mask": tokens.masks[0], "count": source.shape[1], "lanes": lanes},
                **layers_of(parameters, made),
                **{"statistics": made.statistics, "softmax": softmax, "out": out},
                **{"rest": rest_of(made) if shares == 1 else None},
                **{"shares": shares, "eps": parameters.eps},
            },
            constants={
                **sizes_of(parameters),
                **{"SUMMARIES": settings.one_pass_summaries(parameters.down.shape[0]), "SPLIT": shares > 1},
                **{"ROWS": tile.rows, "WIDTH": tile.columns},
            },
            tile=tile,
        )
    )
    _combine(out, softmax, made, run)


def _of_shares(made: Forward, shares: int) -> tuple[Tensor, Tensor]:
    """Where the shares of a lane write: their own sums and softmax, or where there is one the result's."""
    if shares == 1:
        return made.result, made.softmax
    sums = made.softmax.new_empty(shares, *made.result.shape)
    return sums, made.softmax.new_empty(shares, *made.softmax.shape)


def _combine(sums: Tensor, softmax: Tensor, made: Forward, run: Run) -> None:
    if sums is made.result:
        return
    shares, lanes, summaries, width = sums.shape
    run(
        Launch(
            program=combine_program,
            grid=lanes * summaries * triton.cdiv(width, SMALL.columns),
            arguments={
                **{"sums": sums, "share_softmax": softmax, "softmax": made.softmax, "out": made.result},
                **{"rest": rest_of(made), "lanes": lanes, "width": width, "shares": shares},
            },
            constants={"K": summaries, "SHARES": MOST_SHARES, "COLUMNS": SMALL.columns},
            tile=SMALL,
        )
    )
