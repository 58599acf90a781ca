"""`bench kernels --product` times what the presets call the ops with: their shapes are recorded and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.kernels.checks import DEVICE

from longtake.kernels.bench.case import Case
from longtake.kernels.bench.gate import check
from longtake.kernels.bench.suites import load_suite, op_names
from longtake.operators.bench.model_cost import count_flops
from longtake.operators.bench.step_cost import with_ttm
from longtake.operators.model import layers, presets, token_summary
from longtake.operators.model.encoders import own

# Whose combiner is a Token Turing Machine, or is made one for `bench step`.
PRESETS = {**{name: build() for name, build in presets.PRESETS.items()}, "base, ttm": with_ttm(presets.base())}


def of_case(case: Case) -> tuple[Any, ...]:
    """The shapes of a case's inputs, of one lane."""
    inputs = case.make(torch.device("cpu"), 0)
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    if "queries" in inputs:
        keys = [value.shape[1:] for name, value in tensors.items() if value.dim() == 5]
        return "combine_attention", inputs["queries"].shape[1:], keys, "video_mask" in inputs
    if "frames" in inputs:
        weights = [value.shape for name, value in tensors.items() if name.startswith("weight")]
        return "tube_embed", inputs["frames"].shape[1:], list(inputs["tubes"]), weights, "frame_index" in inputs
    sources = [tensors[name].shape[1:] for name in ("memory", "input", "output") if name in tensors]
    return "token_summary", sources, inputs["down_weight"].shape


@pytest.fixture(scope="module")
def called() -> dict[str, list[tuple[Any, ...]]]:
    """By the op's name what it is called with in every preset, without a batch; nothing is computed."""
    found: dict[str, list[tuple[Any, ...]]] = {}

    def note(*call: Any) -> None:
        found.setdefault(call[0], []).append(call)

    def combine_attention(q: torch.Tensor, sources: Sequence[torch.Tensor], masks: Sequence[Any]) -> Any:
        keys = [source.shape[1:] for source in sources]
        note("combine_attention", q.shape[1:], keys, masks[0] is not None)
        return call_attention(q, sources, masks)

    def tube_embed(frames: torch.Tensor, tubes: Any, weights: Sequence[torch.Tensor], *others: Any) -> Any:
        shapes = [weight.shape for weight in weights]
        note("tube_embed", frames.shape[1:], list(tubes), shapes, others[2] is not None)
        return call_embed(frames, tubes, weights, *others)

    def summary(sources: Sequence[torch.Tensor], masks: Any, *others: Any, **named: Any) -> Any:
        note("token_summary", [source.shape[1:] for source in sources], others[4].shape)
        return call_summary(sources, masks, *others, **named)

    call_attention, call_embed, call_summary = layers.combine_attention, own.tube_embed, token_summary.token_summary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "combine_attention", combine_attention)
        patch.setattr(own, "tube_embed", tube_embed)
        patch.setattr(token_summary, "token_summary", summary)
        for config in PRESETS.values():
            count_flops(config)
    return found


@pytest.mark.parametrize("op", ["combine_attention", "token_summary", "tube_embed"])
def test_the_sizes_are_those_of_the_presets(op: str, called: dict[str, list[tuple[Any, ...]]]) -> None:
    cases = [of_case(case) for case in load_suite(op).product_cases]
    assert called[op] and all(call in cases for call in called[op]), "a preset's shape has no case"
    assert all(case in called[op] for case in cases), "a case is no preset's"


def test_the_codec_has_the_tokens_of_the_presets() -> None:
    wanted = {(config.combiner.tokens, config.width) for config in PRESETS.values()}
    cases = load_suite("token_codec").product_cases
    assert {(case.sizes["tokens"], case.sizes["width"]) for case in cases} == wanted
    assert {case.name.split()[0] for case in cases} == {"encode", "decode"}


@pytest.mark.parametrize("op", op_names())
def test_every_op_has_a_case_that_fills_the_chip(op: str) -> None:
    assert any(case.fills for case in load_suite(op).product_cases)


@pytest.mark.parametrize("op", ["combine_attention", "token_codec", "tube_embed"])
def test_the_sizes_of_tiny_pass_the_gate(op: str) -> None:
    # No other case has its width of a head, or its tubes.
    suite = load_suite(op)
    case = suite.product_cases[0]
    assert case.sizes["width"] == PRESETS["tiny"].width
    assert all(verdict.ok for verdict in check(suite, case, case.make(DEVICE, 0), DEVICE).values())
