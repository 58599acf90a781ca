"""Launches of the token summary's programs: the forward and the backward on tensors that `op.py` has checked.

Each takes a function that runs a launch, so that what is compiled ahead of time (`cases.programs`) is what is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from longtake.kernels.targets import TargetName
from longtake.kernels.token_summary import settings
from longtake.kernels.token_summary.backward import delta_program, finish_program, tokens_program, weights_program
from longtake.kernels.token_summary.forward import combine_program, fold_program, logits_program, mix_program
from longtake.kernels.token_summary.one_pass import whole_program
from longtake.kernels.token_summary.settings import EXACT_ROWS, MOST_SHARES, Kind, Tile, padded

DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
# Of the programs that only add up: rows and columns of a block.
SMALL = Tile(2, 512, 4, 3)
FINISH = Tile(0, 32, 4, 3)

Arguments: TypeAlias = dict[str, "Tensor | int | float | None"]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch of one program: `arguments` may differ from call to call, `constants` are compiled in."""

    program: Any
    grid: int
    arguments: Mapping[str, Tensor | int | float | None]
    constants: Mapping[str, Any]
    tile: Tile


Run: TypeAlias = Callable[[Launch], None]


def execute(launch: Launch) -> None:
    """Launch a program on its tensors' device; none for nothing."""
    if not launch.grid:
        return
    options = {"num_warps": launch.tile.warps, "num_stages": launch.tile.stages}
    tensors = [value for value in launch.arguments.values() if isinstance(value, Tensor)]
    with torch.cuda.device_of(tensors[0]):
        launch.program[(launch.grid,)](**launch.arguments, **launch.constants, **options)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The importance's weights, contiguous and of one dtype; shapes as in `op.token_summary`."""

    norm_weight: Tensor
    norm_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    eps: float

    @property
    def exact(self) -> bool:
        return self.up.dtype == torch.float32


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The sources [B, N_i, D] with their masks [B, N_i] (contiguous) and the position of all of them, [N, D]."""

    sources: Sequence[Tensor]
    masks: Sequence[Tensor | None]
    position: Tensor | None
    kinds: Sequence[Kind]
    target: TargetName

    @property
    def lanes(self) -> int:
        return self.sources[0].shape[0]

    @property
    def width(self) -> int:
        return self.sources[0].shape[2]

    @property
    def counts(self) -> list[int]:
        return [source.shape[1] for source in self.sources]

    def all_sources(self) -> Arguments:
        """What a program of all sources takes of them; None and 0 for those that are not there."""
        found: Arguments = {"width": self.width, "lanes": self.lanes, **self._position()}
        for number in range(3):
            source = self.sources[number] if number < len(self.sources) else None
            found[f"source{number}"] = source
            found[f"tokens{number}"] = 0 if source is None else source.shape[1]
            found[f"lane_stride{number}"] = 0 if source is None else source.stride(0)
            found[f"row_stride{number}"] = 0 if source is None else source.stride(1)
        return found

    def all_masks(self) -> Arguments:
        return {f"mask{number}": self.masks[number] if number < len(self.masks) else None for number in range(3)}

    def all_kinds(self) -> list[Kind]:
        """Three kinds: sources that are not there take the last one's, which nothing reads."""
        return [*self.kinds, *[self.kinds[-1]] * (3 - len(self.kinds))]

    def one_source(self, number: int) -> Arguments:
        """What a program of one source takes of it."""
        source = self.sources[number]
        return {
            **{"tokens": source, "lane_stride": source.stride(0), "row_stride": source.stride(1)},
            **{"count": source.shape[1], "offset": sum(self.counts[:number]), "all_tokens": sum(self.counts)},
            **{"width": self.width, "lanes": self.lanes, **self._position()},
        }

    def _position(self) -> Arguments:
        return {
            "position": self.position,
            "position_stride": 0 if self.position is None else self.position.stride(0),
        }


@dataclass(frozen=True, kw_only=True)
class Forward:
    """The result [B, k, D] and what the backward needs of a forward.

    rest: what the result's rounding left, if wanted (else empty); softmax [B, 2, k]: each summary's
    largest logit and 1 / sum; statistics [2, B, N]: each token's mean and 1 / standard deviation; parts [PARTS, H, D]
    and folded [2, H]: the first layer's weights with the norm's, and their sums over D.
    """

    result: Tensor
    rest: Tensor
    softmax: Tensor
    statistics: Tensor
    parts: Tensor
    folded: Tensor


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


def _layers(parameters: Parameters, made: Forward) -> Arguments:
    """What a program takes of the importance's weights."""
    return {"parts": made.parts, "folded": made.folded, "down": parameters.down, "down_bias": parameters.down_bias}


def _sizes(parameters: Parameters) -> dict[str, int]:
    summaries, hidden = parameters.down.shape
    return {"K": summaries, "H": hidden, "SUMMARIES": padded(summaries), "HIDDEN": padded(hidden)}


def _product(kind: Kind, half: torch.dtype) -> tl.dtype:
    """The dtype in which tokens meet the summaries."""
    return tl.float32 if kind == "exact" else DTYPES[half]


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
                **_layers(parameters, made),
                **{"logits": logits, "block_maximum": block_maximum, "statistics": made.statistics},
                **{"eps": parameters.eps},
            },
            constants={
                **_sizes(parameters),
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
                **{"rest": _rest(made) if shares == 1 else None},
                **{"blocks": blocks, "shares": shares},
            },
            constants={
                **{"K": summaries, "SUMMARIES": padded(summaries), "SPLIT": shares > 1},
                **{"COLUMNS": tile.columns, "EVEN": width % tile.columns == 0},
                **{f"ROWS{number}": rows[number] for number in range(3)},
                **{f"PRODUCT{number}": _product(kinds[number], parameters.up.dtype) for number in range(3)},
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
                **_layers(parameters, made),
                **{"statistics": made.statistics, "softmax": softmax, "out": out},
                **{"rest": _rest(made) if shares == 1 else None},
                **{"shares": shares, "eps": parameters.eps},
            },
            constants={
                **_sizes(parameters),
                **{"SUMMARIES": settings.one_pass_summaries(parameters.down.shape[0]), "SPLIT": shares > 1},
                **{"ROWS": tile.rows, "WIDTH": tile.columns},
            },
            tile=tile,
        )
    )
    _combine(out, softmax, made, run)


def _rest(made: Forward) -> Tensor | None:
    return made.rest if made.rest.numel() else None


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
                **{"rest": _rest(made), "lanes": lanes, "width": width, "shares": shares},
            },
            constants={"K": summaries, "SHARES": MOST_SHARES, "COLUMNS": SMALL.columns},
            tile=SMALL,
        )
    )


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
                    **_layers(parameters, made),
                    **{"mask": tokens.masks[number], "token_gradient": sources[number], "gradient": gradient},
                    **{"statistics": made.statistics, "softmax": made.softmax},
                    **{"delta": exact_delta if kind == "exact" else half_delta},
                    **{"inner_gradient": inner, "sums": mine},
                },
                constants={
                    **_sizes(parameters),
                    **{"PARTS": made.parts.shape[0], "ROWS": tile.rows, "COLUMNS": tile.columns},
                    **{"EVEN": width % tile.columns == 0, "DIRECT": kind == "direct"},
                    **{"PRODUCT": _product(kind, parameters.up.dtype)},
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
                **{"result": made.result, "rest": _rest(made), "gradient": gradient, "delta": delta},
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
