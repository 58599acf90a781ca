"""combine_attention: the Triton programs against the definition in float64, with every gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import pytest
import torch
from tests.kernels.checks import DEVICE, assert_as_exact_as_torch, gradients, surrounded
from torch import Tensor

from longtake.errors import KernelUnavailableError
from longtake.kernels.combine_attention import settings
from longtake.kernels.combine_attention.op import backward_op, combine_attention, forward_op
from longtake.kernels.combine_attention.reference import combine_attention as reference
from longtake.kernels.targets import TARGETS
from longtake.operators.model import combiners, presets

Masks = Sequence[Tensor | None]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Batch, queries, heads, head width, keys of each source.
SIZES: dict[str, tuple[int, int, int, int, tuple[int, ...]]] = {
    "ones": (1, 1, 1, 1, (1,)),
    "primes": (2, 7, 3, 13, (67, 31, 1)),
    "powers of two": (1, 16, 2, 64, (64, 128, 32, 16)),
    "one less": (1, 31, 1, 63, (127, 63)),
    "one more": (1, 33, 1, 33, (129, 65)),
    "an empty source": (2, 5, 1, 24, (0, 40, 0)),
    "many keys": (1, 64, 1, 64, (321,)),
    "wide heads": (1, 9, 2, 128, (70, 5)),
    "wide heads, many queries": (1, 40, 1, 65, (33, 70)),
}


def made(
    sizes: tuple[int, int, int, int, tuple[int, ...]], dtype: torch.dtype, *, spread: float = 1.0, masked: bool = True
) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
    """Queries, sources and, for all but the second source, masks that hide two keys in five."""
    batch, queries, heads, width, keys = sizes
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return surrounded(torch.randn(shape, generator=generator).mul(spread).to(dtype)).requires_grad_()

    sources = [random(batch, count, 2, heads, width) for count in keys]
    masks: list[Tensor | None] = [
        surrounded(torch.rand(batch, count, generator=generator) < 0.6) if masked and number != 1 else None
        for number, count in enumerate(keys)
    ]
    return random(batch, queries, heads, width), sources, masks


def compare(q: Tensor, sources: Sequence[Tensor], masks: Masks, scale: float | None = None) -> Tensor:
    """Hold the output and every gradient against float64; returns the output."""
    inputs = [q, *sources]
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    ours = combine_attention(q, sources, masks, scale=scale)
    plain = reference(q, sources, masks, scale)
    exact = reference(exact_inputs[0], exact_inputs[1:], masks, scale)
    assert_as_exact_as_torch(ours.detach(), plain.detach(), exact.detach(), "output")
    names = ["queries", *(f"source {number}" for number in range(len(sources)))]
    found = (gradients(ours, inputs), gradients(plain, inputs), gradients(exact, exact_inputs))
    for name, *each in zip(names, *found, strict=True):
        assert_as_exact_as_torch(*each, f"gradient of {name}")
    return ours


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_it_is_as_exact_as_pytorch(name: str, dtype: torch.dtype) -> None:
    compare(*made(SIZES[name], dtype))


def test_sources_without_masks_and_another_scale() -> None:
    compare(*made((2, 5, 2, 16, (70, 33)), torch.float32, masked=False), scale=0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_that_share_an_extreme_offset_stay_exact(dtype: torch.dtype) -> None:
    q, sources, masks = made((1, 16, 1, 16, (70, 20)), dtype)
    # One column of 200 beside a query's of -200 or 200 moves all of the query's logits to -1e4 or 1e4.
    with torch.no_grad():
        q[..., 0] = 200.0 * torch.where(torch.arange(16) % 2 == 0, 1.0, -1.0)[:, None]
        for source in sources:
            source[:, :, 0, :, 0] = 200.0
    compare(q, sources, masks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_that_lie_far_apart_choose_one_key(dtype: torch.dtype) -> None:
    q, sources, masks = made((1, 16, 1, 16, (70, 20)), dtype, spread=70.0)
    logits = (q[0, :, 0].float() @ sources[0][0, :, 0, 0].float().T) * q.shape[-1] ** -0.5
    assert logits.min() < -1e4 and logits.max() > 1e4
    ours = combine_attention(q, sources, masks)
    exact = reference(q.double(), [x.double() for x in sources], masks, 0.25)
    assert_as_exact_as_torch(ours.detach(), reference(q, sources, masks, 0.25).detach(), exact.detach())
    # Exact gradients of queries and keys are 0, and what is left of rounding is in units of the values.
    dq, *dsources = gradients(ours, [q, *sources])
    assert all(gradient.isfinite().all() for gradient in (dq, *dsources))


def test_without_sound_the_pictures_alone_count() -> None:
    q, sources, _ = made((2, 4, 2, 16, (70, 20)), torch.float32)
    silent = torch.zeros(2, 20, dtype=torch.bool, device=DEVICE)
    ours = compare(q, sources, [None, silent])
    alone = combine_attention(q, sources[:1], [None])
    torch.testing.assert_close(ours, alone, rtol=0, atol=1e-6)
    assert gradients(combine_attention(q, sources, [None, silent]), sources[1:])[0].abs().max() == 0


@pytest.mark.parametrize("keys", [(20, 9), (150, 140)], ids=["whole", "in parts"])
def test_a_row_without_any_key_is_zero_and_so_are_its_gradients(keys: tuple[int, int]) -> None:
    q, sources, _ = made((2, 4, 1, 16, keys), torch.float32)
    masks = [torch.ones(2, count, dtype=torch.bool, device=DEVICE) for count in keys]
    for mask in masks:
        mask[1] = False
    ours = compare(q, sources, masks)
    assert ours[1].abs().max() == 0 and ours[0].abs().min() > 0
    again = combine_attention(q, sources, masks)
    assert all(gradient[1].abs().max() == 0 for gradient in gradients(again, [q, *sources]))


def test_strides_and_shared_batches_are_taken_as_they_are() -> None:
    generator = torch.Generator().manual_seed(1)
    # Slices of longer tensors, along the tokens and the batch, and a source and queries that all rows share.
    long = surrounded(torch.randn(4, 90, 2, 2, 16, generator=generator)).requires_grad_()
    shared = surrounded(torch.randn(1, 6, 2, 2, 16, generator=generator)).requires_grad_()
    all_q = surrounded(torch.randn(1, 9, 2, 16, generator=generator)).requires_grad_()
    mask = surrounded(torch.rand(90, 4, generator=generator) < 0.5).T
    leaves = [all_q, long, shared]

    def call(which: str, q: Tensor, x: Tensor, y: Tensor) -> Tensor:
        sources, masks = [x[::2, 3:70], x[::2, 70:], y], [mask[::2, 3:70], None, mask[:1, :6]]
        return (
            combine_attention(q[:, 2:], sources, masks)
            if which == "ours"
            else reference(q[:, 2:], sources, masks, 16**-0.5)
        )

    exact_leaves = [x.detach().double().requires_grad_() for x in leaves]
    ours, plain, exact = call("ours", *leaves), call("plain", *leaves), call("exact", *exact_leaves)
    assert ours.shape == (2, 7, 2, 16)
    assert_as_exact_as_torch(ours.detach(), plain.detach(), exact.detach())
    for each in zip(gradients(ours, leaves), gradients(plain, leaves), gradients(exact, exact_leaves), strict=True):
        assert_as_exact_as_torch(*each)


def test_how_keys_are_divided_into_sources_does_not_matter() -> None:
    q, [whole], _ = made((1, 8, 2, 16, (200,)), torch.float32)
    divided = [x.contiguous() for x in whole.split([64, 1, 100, 35], dim=1)]
    one, four = combine_attention(q, [whole], [None]), combine_attention(q, divided, [None] * 4)
    torch.testing.assert_close(one, four, rtol=0, atol=1e-6)


def test_the_same_call_gives_the_same_bits() -> None:
    q, sources, masks = made((2, 8, 2, 16, (150, 150)), torch.bfloat16)
    results = []
    for _ in range(2):
        out = combine_attention(q, sources, masks)
        results.append([out, *gradients(out, [q, *sources])])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_empty_batch_gives_nothing() -> None:
    q, sources, masks = made((0, 3, 2, 16, (5,)), torch.float32)
    out = combine_attention(q, sources, masks)
    assert out.shape == (0, 3, 2, 16)
    assert [x.shape for x in gradients(out, [q, *sources])] == [q.shape, sources[0].shape]


@pytest.mark.parametrize("choice", ["triton", "reference"])
def test_inputs_that_do_not_fit_are_refused(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_KERNELS", choice)
    q, [a, b], [mask, _] = made((2, 3, 2, 16, (5, 6)), torch.float32)
    with pytest.raises(ValueError, match="1 to 4 sources with a mask or None each are wanted, not 0 with 0"):
        combine_attention(q, [], [])
    with pytest.raises(ValueError, match="not 2 with 1"):
        combine_attention(q, [a, b], [mask])
    with pytest.raises(ValueError, match=r"not 5 with 5"):
        combine_attention(q, [a] * 5, [mask] * 5)
    with pytest.raises(ValueError, match=r"queries are \(2, 3, 2, 16\) with strides .* the last two contiguous"):
        combine_attention(q.transpose(1, 2).contiguous().transpose(1, 2), [a], [mask])
    with pytest.raises(ValueError, match=r"source 1 is \(2, 6, 2, 2, 8\)"):
        combine_attention(q, [a, b[..., ::2]], [mask, None])
    with pytest.raises(ValueError, match=r"source 0 is .* the last three contiguous"):
        combine_attention(q, [a.transpose(2, 3).contiguous().transpose(2, 3)], [None])
    with pytest.raises(ValueError, match=r"source 1 is torch.float64 on .*, queries torch.float32"):
        combine_attention(q, [a, b.double()], [mask, None])
    with pytest.raises(ValueError, match=r"the batches of queries and sources are \[2, 2, 3\]"):
        combine_attention(q, [a, torch.cat([b, b[:1]])], [mask, None])
    with pytest.raises(ValueError, match=r"mask 0 is \(2, 5\); wanted \(2, 6\)"):
        combine_attention(q, [b], [mask])
    with pytest.raises(ValueError, match=r"the scale is 0.0; a positive one is wanted"):
        combine_attention(q, [a], [mask], scale=0.0)
    with pytest.raises(ValueError, match=r"mask 1 is torch.float32"):
        combine_attention(q, [a, b], [mask, torch.ones(2, 6, device=DEVICE)])


def test_what_the_program_cannot_take_is_said_or_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    many = made((1, 65, 1, 16, (5,)), torch.float32)
    wide = made((1, 2, 1, 129, (5,)), torch.float32)
    with pytest.raises(KernelUnavailableError, match="there are 65 queries, and it takes at most 64"):
        combine_attention(*many)
    with pytest.raises(KernelUnavailableError, match="a head's width is 129, and it takes at most 128"):
        combine_attention(*wide)
    with pytest.raises(KernelUnavailableError, match="queries is float64"):
        combine_attention(*made((1, 2, 1, 16, (5,)), torch.float64))
    monkeypatch.setenv("LONGTAKE_KERNELS", "auto")
    for q, sources, masks in (many, wide):
        assert torch.equal(combine_attention(q, sources, masks), reference(q, sources, masks, q.shape[-1] ** -0.5))


@pytest.mark.parametrize("masked", [True, False])
def test_pytorch_finds_the_op_sound(masked: bool) -> None:
    q, sources, masks = made((2, 3, 2, 16, (20, 6)), torch.float32)
    masks = [mask if masked else None for mask in masks]
    torch.library.opcheck(forward_op, (q, sources, masks, 0.25))
    out, lse = forward_op(q, sources, masks, 0.25)
    inputs = [x.detach() for x in (torch.randn_like(out), q, *sources, out, lse)]
    torch.library.opcheck(backward_op, (*inputs[:2], inputs[2:4], masks, *inputs[4:], 0.25))


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_into_one_graph(dynamic: bool) -> None:
    q, sources, masks = made((2, 3, 2, 16, (20, 6)), torch.float32)

    def call(q: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return combine_attention(q[:1] * 2, [a, b * 0.5], masks).square()

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    ours, plain = compiled(q, *sources), call(q, *sources)
    assert torch.equal(ours, plain)
    for a, b in zip(gradients(ours, [q, *sources]), gradients(plain, [q, *sources]), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("target", TARGETS)
def test_settings_fit_all_sizes_and_parts_cover_all_blocks(target: settings.TargetName) -> None:
    for dtype in DTYPES:
        for all_settings in (settings.forward_settings(target, dtype), settings.backward_settings(target, dtype)):
            for queries in (1, 16, 17, 33, 64):
                for width in (1, 16, 64, 65, settings.WIDEST):
                    chosen = settings.choose(all_settings, queries, width)
                    assert chosen.block_m >= queries and chosen.block_e >= width
            for sizes in ((0,), (1, 0), (200,), (1500, 400, 64, 32)):
                for batch_heads in (1, 7, 100, 5000):
                    each = all_settings[0]
                    blocks = sum(-(-size // each.block_n) for size in sizes)
                    parts, part_blocks = each.parts(batch_heads, sizes)
                    assert 1 <= parts <= settings.MOST_PARTS
                    assert (parts - 1) * part_blocks < max(1, blocks) <= max(1, parts * part_blocks)
                    assert parts == 1 or parts * batch_heads <= each.fill
    assert settings.obstacle(settings.MOST_QUERIES, settings.WIDEST) is None


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["transformer", "attention_pool"])
def test_a_combiner_gives_the_same_with_and_without_the_program(
    name: Literal["transformer", "attention_pool"], depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = presets.tiny()
    layers = replace(config.combiner.transformer, depth=depth)
    chosen = replace(config.combiner, name=name, scope="all_so_far", history=2, transformer=layers)
    torch.manual_seed(0)
    combiner = combiners.build(replace(config, combiner=chosen)).to(DEVICE)
    features = combiners.Features(
        video_BND=torch.randn(2, 70, 96, device=DEVICE).requires_grad_(),
        video_mask_BN=torch.rand(2, 70, device=DEVICE) < 0.7,
        audio_BND=torch.randn(2, 8, 96, device=DEVICE).requires_grad_(),
        audio_mask_BN=torch.tensor([[True], [False]], device=DEVICE).expand(-1, 8),
    )
    memory = torch.randn_like(combiner.initial_memory(2))
    memory[:, :1] = 1.0
    inputs = [features.video_BND, features.audio_BND, *combiner.parameters()]
    results = []
    for choice in ("triton", "reference"):
        monkeypatch.setenv("LONGTAKE_KERNELS", choice)
        tokens, _ = combiner(features, memory, torch.zeros(2, device=DEVICE))
        results.append([tokens, *gradients(tokens, inputs)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
