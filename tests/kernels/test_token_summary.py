"""token_summary: the Triton programs against the definition in float64, with every gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from tests.kernels.checks import DEVICE, assert_as_exact_as_torch, gradients, surrounded
from torch import Tensor

from longtake.errors import KernelUnavailableError
from longtake.kernels.targets import TARGETS, TargetName
from longtake.kernels.token_summary import cases, reference, settings
from longtake.kernels.token_summary.op import token_summary
from longtake.operators.model.combiners.ttm import TokenTuringUnit
from longtake.operators.model.config import CombinerConfig, TransformerConfig

float32, bfloat16, float16 = torch.float32, torch.bfloat16, torch.float16
# Batch, tokens of each source, width, summaries, hidden.
Sizes = tuple[int, tuple[int, ...], int, int, int]
SIZES: dict[str, Sizes] = {
    "ones": (1, (1,), 1, 1, 1),
    "primes": (2, (31, 7, 3), 37, 5, 13),
    "powers of two": (1, (64, 16), 32, 16, 32),
    "one less": (2, (63,), 63, 15, 31),
    "one more": (1, (129, 17), 65, 17, 33),
    "an empty source": (2, (0, 20, 0), 24, 4, 16),
    "one pass": (2, (40,), 32, 9, 64),
    "one pass, in shares": (1, (300,), 64, 33, 64),
    "a wide source, in shares": (1, (70,), 521, 5, 16),
}
# Dtypes of the sources, from the first to all others, and of the weights.
Mix = tuple[torch.dtype, torch.dtype, torch.dtype]
MIXES: dict[str, Mix] = {
    "float32": (float32, float32, float32),
    "bfloat16": (bfloat16, bfloat16, bfloat16),
    "float16": (float16, float16, float16),
    "a float32 memory": (float32, bfloat16, bfloat16),
    "float32 weights": (bfloat16, float16, float32),
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the op is called with."""

    sources: list[Tensor]
    masks: list[Tensor | None]
    parameters: list[Tensor]
    position: Tensor | None

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.sources, *self.parameters, *([] if self.position is None else [self.position])]

    def names(self) -> list[str]:
        sources = [f"source {number}" for number in range(len(self.sources))]
        return [*sources, "norm weight", "norm bias", "up weight", "up bias", "down weight", "down bias", "position"]

    def double(self) -> Made:
        def wide(x: Tensor) -> Tensor:
            return x.detach().double().requires_grad_()

        return Made(
            sources=[wide(x) for x in self.sources],
            masks=self.masks,
            parameters=[wide(x) for x in self.parameters],
            position=None if self.position is None else wide(self.position),
        )


def made(
    sizes: Sizes, mix: Mix = MIXES["float32"], *, masked: bool = True, position: bool = False, mean: float = 0.5
) -> Made:
    """Random inputs; masks, on all but the first of several sources, hide two tokens in five."""
    batch, counts, width, summaries, hidden = sizes
    generator = torch.Generator().manual_seed(0)
    weights = mix[2]

    def random(*shape: int, scale: float = 1.0, offset: float = 0.0, dtype: torch.dtype = weights) -> Tensor:
        values = torch.randn(shape, generator=generator) * scale + offset
        return surrounded(values.to(dtype)).requires_grad_()

    sources = [
        random(batch, count, width, offset=mean, dtype=mix[0] if number == 0 else mix[1])
        for number, count in enumerate(counts)
    ]
    masks: list[Tensor | None] = [
        surrounded(torch.rand(batch, count, generator=generator) < 0.6)
        if masked and (number or len(counts) == 1)
        else None
        for number, count in enumerate(counts)
    ]
    parameters = [
        random(width, scale=0.3, offset=1.0),
        random(width, scale=0.3),
        random(hidden, width, scale=1.5 * width**-0.5),
        random(hidden, scale=0.3),
        random(summaries, hidden, scale=2 * hidden**-0.5),
        random(summaries, scale=0.3),
    ]
    place = random(sum(counts), width, scale=0.5) if position else None
    return Made(sources=sources, masks=masks, parameters=parameters, position=place)


def ours(inputs: Made, out_dtype: torch.dtype | None = None) -> Tensor:
    return token_summary(inputs.sources, inputs.masks, *inputs.parameters, inputs.position, out_dtype=out_dtype)


def plain(inputs: Made, out_dtype: torch.dtype | None = None) -> Tensor:
    return reference.token_summary(
        inputs.sources, inputs.masks, *inputs.parameters, inputs.position, out_dtype=out_dtype
    )


def compare(inputs: Made, out_dtype: torch.dtype | None = None) -> Tensor:
    """Our result, which is as exact as PyTorch's, as are its gradients."""
    wide = inputs.double()
    outs = [ours(inputs, out_dtype), plain(inputs, out_dtype), plain(wide)]
    assert_as_exact_as_torch(*(out.detach() for out in outs), "result")
    each = [gradients(out, leaves) for out, leaves in zip(outs, (inputs.leaves,) * 2 + (wide.leaves,), strict=True)]
    for name, mine, other, exact in zip(inputs.names(), *each, strict=False):
        assert_as_exact_as_torch(mine, other, exact, f"gradient of {name}")
    return outs[0].detach()


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("size", SIZES)
def test_results_and_gradients_are_as_exact_as_pytorchs(size: str, mix: str) -> None:
    compare(made(SIZES[size], MIXES[mix]))


@pytest.mark.parametrize("mix", MIXES)
def test_a_position_is_added_to_all_sources(mix: str) -> None:
    inputs = made((2, (9, 20, 4), 40, 5, 16), MIXES[mix], position=True)
    compare(inputs)
    without = Made(sources=inputs.sources, masks=inputs.masks, parameters=inputs.parameters, position=None)
    assert (ours(inputs) - ours(without)).abs().max() > 0.1


def test_the_most_summaries() -> None:
    compare(made((1, (20, 33), 40, settings.MOST_SUMMARIES, settings.MOST_HIDDEN), MIXES["a float32 memory"]))


@pytest.mark.parametrize("out_dtype", [float32, bfloat16, float16], ids=str)
@pytest.mark.parametrize("mix", ["float32", "bfloat16", "a float32 memory"])
def test_the_result_has_the_dtype_that_was_asked_for(mix: str, out_dtype: torch.dtype) -> None:
    assert compare(made((1, (9, 20), 24, 5, 16), MIXES[mix]), out_dtype).dtype == out_dtype


def test_by_default_the_result_is_as_wide_as_its_sources() -> None:
    for mix, wanted in (("a float32 memory", float32), ("bfloat16", bfloat16), ("float32 weights", float32)):
        assert ours(made((1, (5, 6), 8, 2, 4), MIXES[mix])).dtype == wanted


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("width", [64, 48])
def test_a_large_mean_costs_no_exactness(width: int, mix: str) -> None:
    # In half precision a token's own spacing is a fourth of its standard deviation here.
    compare(made((1, (40,), width, 5, 16), MIXES[mix], mean=60.0))


def test_a_float32_memory_is_not_rounded() -> None:
    inputs = made((1, (40,), 16, 3, 8), (float32, bfloat16, bfloat16), masked=False)
    with torch.no_grad():
        # One token is the only one that counts.
        inputs.sources[0][0, 7] *= 30
        inputs.parameters[4].mul_(0)
        hidden = torch.ones(1, 40, dtype=torch.bool, device=DEVICE)
        hidden[0, 7] = False
    alone = token_summary(inputs.sources, [~hidden], *inputs.parameters)
    torch.testing.assert_close(alone, inputs.sources[0][:, 7:8].expand(-1, 3, -1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", ["primes", "one pass, in shares"])
@pytest.mark.parametrize("mix", ["float32", "bfloat16"])
def test_logits_that_share_an_extreme_offset_stay_exact(mix: str, size: str) -> None:
    inputs = made(SIZES[size], MIXES[mix])
    with torch.no_grad():
        inputs.parameters[5].copy_(1e4 * torch.sign(inputs.parameters[5]))
    compare(inputs)


@pytest.mark.parametrize("mix", ["float32", "bfloat16"])
def test_logits_that_lie_far_apart_choose_one_token(mix: str) -> None:
    inputs = made((1, (40, 30), 32, 5, 16), MIXES[mix], masked=False)
    with torch.no_grad():
        inputs.parameters[4].mul_(20_000)
    result = ours(inputs)
    assert_as_exact_as_torch(result.detach(), plain(inputs).detach(), plain(inputs.double()).detach())
    assert all(gradient.isfinite().all() for gradient in gradients(result, inputs.leaves))


@pytest.mark.parametrize("mix", ["float32", "a float32 memory"])
def test_without_sound_the_pictures_alone_count(mix: str) -> None:
    pictures = made((2, (20, 30), 24, 5, 16), MIXES[mix])
    silent = Made(
        sources=[*pictures.sources, torch.randn(2, 7, 24, device=DEVICE).to(MIXES[mix][1]).requires_grad_()],
        masks=[*pictures.masks, torch.zeros(2, 7, dtype=torch.bool, device=DEVICE)],
        parameters=pictures.parameters,
        position=None,
    )
    result = compare(silent)
    torch.testing.assert_close(result, ours(pictures).detach(), rtol=0, atol=1e-6)
    assert gradients(ours(silent), [silent.sources[2]])[0].abs().max() == 0


@pytest.mark.parametrize("counts", [(20,), (200,), (20, 150)], ids=["whole", "in shares", "two sources"])
@pytest.mark.parametrize("mix", ["float32", "bfloat16"])
def test_a_row_without_any_token_is_zero_and_so_are_its_gradients(mix: str, counts: tuple[int, ...]) -> None:
    inputs = made((2, counts, 32, 4, 16), MIXES[mix])
    masks = [torch.ones(2, count, dtype=torch.bool, device=DEVICE) for count in counts]
    for mask in masks:
        mask[1] = False
    hidden = Made(sources=inputs.sources, masks=[*masks], parameters=inputs.parameters, position=None)
    result = compare(hidden)
    assert result[1].abs().max() == 0 and result[0].abs().min() > 0
    assert all(gradient[1].abs().max() == 0 for gradient in gradients(ours(hidden), hidden.sources))


@pytest.mark.parametrize("mix", ["float32", "bfloat16"])
def test_strides_and_shared_batches_are_taken_as_they_are(mix: str) -> None:
    inputs = made((4, (90,), 24, 5, 16), MIXES[mix])
    long = inputs.sources[0]
    shared = surrounded(torch.randn(6, 24).to(long.dtype)).requires_grad_()
    mask = surrounded(torch.rand(90, 4) < 0.5).T

    def given(long: Tensor, shared: Tensor, parameters: list[Tensor]) -> Made:
        # A memory that all rows share, every second row, and tokens whose batch lies inside.
        inside = long.transpose(0, 1).contiguous().transpose(0, 1)
        sources = [shared.expand(2, -1, -1), long[::2, 3:50], inside[1:3, 50:]]
        return Made(sources=sources, masks=[None, mask[::2, 3:50], None], parameters=parameters, position=None)

    wide = inputs.double()
    wide_shared = shared.detach().double().requires_grad_()
    all_given = [
        given(long, shared, inputs.parameters),
        given(long, shared, inputs.parameters),
        given(wide.sources[0], wide_shared, wide.parameters),
    ]
    outs = [call(one) for call, one in zip((ours, plain, plain), all_given, strict=True)]
    assert_as_exact_as_torch(*(out.detach() for out in outs))
    # Each row's gradient of the shared memory is the op's; their sum, in the memory's dtype, is PyTorch's.
    leaves = [[one.sources[0], source] for one, source in zip(all_given, (long, long, wide.sources[0]), strict=True)]
    found = [gradients(out, one) for out, one in zip(outs, leaves, strict=True)]
    for each in zip(*found, strict=True):
        assert_as_exact_as_torch(*each)
    rows, total = gradients(ours(all_given[0]), [all_given[0].sources[0], shared])
    assert torch.equal(total, rows.sum(0))


def test_how_tokens_are_divided_into_sources_does_not_matter() -> None:
    whole = made((1, (200,), 24, 5, 16), masked=False)
    divided = Made(
        sources=[x.contiguous() for x in whole.sources[0].split([64, 1, 135], dim=1)],
        masks=[None, None, None],
        parameters=whole.parameters,
        position=None,
    )
    torch.testing.assert_close(ours(whole), ours(divided), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", ["primes", "one pass, in shares", "a wide source, in shares"])
def test_the_same_call_gives_the_same_bits(size: str) -> None:
    inputs = made(SIZES[size], MIXES["bfloat16"])
    results = []
    for _ in range(2):
        result = ours(inputs)
        results.append([result, *gradients(result, inputs.leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_row_does_not_depend_on_the_others_in_its_batch() -> None:
    inputs = made((3, (40, 5), 24, 5, 16), MIXES["a float32 memory"])
    alone = Made(
        sources=[x[1:2] for x in inputs.sources],
        masks=[None if mask is None else mask[1:2] for mask in inputs.masks],
        parameters=inputs.parameters,
        position=None,
    )
    torch.testing.assert_close(ours(inputs)[1:2], ours(alone), rtol=0, atol=1e-6)


def test_only_wanted_gradients_are_computed() -> None:
    inputs = made((2, (9, 20), 24, 5, 16), position=True)
    every = gradients(ours(inputs), inputs.leaves)
    inputs.sources[0].requires_grad_(False)
    inputs.parameters[2].requires_grad_(False)
    some = gradients(ours(inputs), [inputs.sources[1], inputs.parameters[4]])
    assert torch.equal(some[0], every[1]) and torch.equal(some[1], every[6])
    assert inputs.position is not None
    assert torch.equal(gradients(ours(inputs), [inputs.position])[0], every[-1])


def test_an_empty_batch_gives_nothing() -> None:
    inputs = made((0, (5, 6), 8, 3, 4), position=True)
    result = ours(inputs)
    assert result.shape == (0, 3, 8)
    found = gradients(result, inputs.leaves)
    assert [x.shape for x in found] == [x.shape for x in inputs.leaves]
    assert all(x.abs().sum() == 0 for x in found)


@pytest.mark.parametrize("mix", ["float32", "a float32 memory"])
def test_under_autocast_products_are_in_half_precision(mix: str) -> None:
    inputs = made((2, (20, 30), 40, 5, 16), (*MIXES[mix][:2], float32))
    exact = plain(inputs.double())
    with torch.autocast(DEVICE.type, dtype=bfloat16):
        result, other = ours(inputs), plain(inputs)
    assert result.dtype == float32 and not torch.equal(result, ours(inputs))
    assert_as_exact_as_torch(result.detach(), other.detach(), exact.detach())
    found = [gradients(out, inputs.leaves) for out in (result, other)]
    wide = inputs.double()
    for name, *each in zip(inputs.names(), *found, gradients(plain(wide), wide.leaves), strict=False):
        assert_as_exact_as_torch(*each, f"gradient of {name}")


@pytest.mark.parametrize("choice", ["triton", "reference"])
def test_inputs_that_do_not_fit_are_refused(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_KERNELS", choice)
    inputs = made((2, (5, 6), 8, 3, 4))
    [a, b], [_, mask], parameters = inputs.sources, inputs.masks, inputs.parameters
    with pytest.raises(ValueError, match="0 sources and 0 masks; one to 3 sources"):
        token_summary([], [], *parameters)
    with pytest.raises(ValueError, match="2 sources and 1 masks"):
        token_summary([a, b], [None], *parameters)
    with pytest.raises(ValueError, match="4 sources and 4 masks"):
        token_summary([a] * 4, [None] * 4, *parameters)
    with pytest.raises(ValueError, match=r"the sources are \(2, 5, 8\), \(2, 6, 4\); wanted \[B, N_i, D\]"):
        token_summary([a, b[..., :4]], [None, None], *parameters)
    with pytest.raises(ValueError, match=r"the sources are \(2, 5, 8\), \(1, 6, 8\)"):
        token_summary([a, b[:1]], [None, None], *parameters)
    with pytest.raises(ValueError, match=r"a source \(2, 5, 8\) has a mask \(2, 6\) of torch.bool"):
        token_summary([a], [mask], *parameters)
    with pytest.raises(ValueError, match=r"of torch.float32; wanted bool"):
        token_summary([a], [torch.ones(2, 5, device=DEVICE)], *parameters)
    with pytest.raises(ValueError, match=r"the parameters are \(8,\), \(8,\), \(4, 8\), \(4,\), \(3, 4\), \(4,\)"):
        token_summary([a], [None], *parameters[:5], parameters[3])
    with pytest.raises(ValueError, match=r"the position is \(6, 8\); wanted \(5, 8\)"):
        token_summary([a], [None], *parameters, b[0])
    with pytest.raises(ValueError, match=r"the parameters are of torch.float16, torch.float32; wanted one dtype"):
        token_summary([a], [None], *parameters[:5], parameters[5].half())
    with pytest.raises(ValueError, match=r"0 tokens of width 8, 4 hidden, 3 summaries: each must be >= 1"):
        token_summary([a[:, :0]], [None], *parameters)


def test_what_the_program_cannot_take_is_said_or_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = made((2, (5,), 8, 3, 4), masked=False)
    turned.sources[0] = turned.sources[0].detach().transpose(1, 2).contiguous().transpose(1, 2)
    hidden = made((1, (5,), 8, 3, 65))
    summaries = made((1, (5,), 8, 129, 4), MIXES["bfloat16"])
    exact = made((1, (5,), 8, 65, 4))
    for inputs, reason in (
        (turned, "source 0 has stride 5 in its last dimension; 1 is wanted"),
        (hidden, "65 hidden units and 3 summaries; it takes 64 and 64"),
        (summaries, "4 hidden units and 129 summaries; it takes 64 and 128"),
        (exact, "4 hidden units and 65 summaries; it takes 64 and 64"),
        (exact.double(), "source 0 is float64"),
    ):
        with pytest.raises(KernelUnavailableError, match=reason):
            ours(inputs)
    monkeypatch.setenv("LONGTAKE_KERNELS", "auto")
    for inputs in (turned, hidden, summaries, exact):
        assert torch.equal(ours(inputs), plain(inputs))


def arguments(inputs: Made, out_dtype: torch.dtype) -> tuple[object, ...]:
    """What the op of PyTorch's library takes."""
    missing = [None] * (3 - len(inputs.sources))
    lists = [*inputs.sources, *missing, *inputs.masks, *missing, inputs.position, *inputs.parameters]
    return *lists, 1e-6, out_dtype, False, True


@pytest.mark.parametrize(
    ("sizes", "mix", "position"),
    [((2, (5, 3), 8, 2, 4), "a float32 memory", True), ((1, (20,), 16, 2, 4), "bfloat16", False)],
    ids=["two passes", "one pass"],
)
def test_pytorch_finds_the_op_sound(sizes: Sizes, mix: str, position: bool) -> None:
    inputs = made(sizes, MIXES[mix], position=position)
    given = arguments(inputs, bfloat16)
    torch.library.opcheck(torch.ops.longtake.token_summary.default, given)
    with torch.no_grad():
        saved = torch.ops.longtake.token_summary(*given)
        wanted = [number < len(inputs.sources) for number in range(3)] + [position]
        lists = [x.detach() if isinstance(x, Tensor) else x for x in given[:-3]]
        backward = (torch.randn_like(saved[0]), *saved, *lists, False, wanted)
        torch.library.opcheck(torch.ops.longtake.token_summary_backward.default, backward)


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_into_one_graph(dynamic: bool) -> None:
    inputs = made((2, (20, 6), 24, 5, 16))
    a, b = inputs.sources

    def call(a: Tensor, b: Tensor) -> Tensor:
        return token_summary([a[:1] * 2, b[:1]], [None, None], *inputs.parameters).square()

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    mine, other = compiled(a, b), call(a, b)
    assert torch.equal(mine, other)
    for x, y in zip(gradients(mine, inputs.leaves), gradients(other, inputs.leaves), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("target", TARGETS)
def test_settings_fit_all_sizes(target: TargetName) -> None:
    kinds: Sequence[settings.Kind] = ("direct", "rounded", "exact")
    for summaries in (1, 16, 17, 64, 65, settings.MOST_SUMMARIES):
        for kind in kinds:
            tile = settings.mix_tile(target, summaries, [kind])
            assert min(tile) >= 1 and settings.padded(summaries) * tile.columns <= 32 * 1024
            assert min(settings.tokens_tile(target, summaries, False, kind)[:2]) >= 16
            assert settings.logits_columns(settings.logits_tile(target, False), kind) % 16 == 0
    for programs in (1, 7, 132, 5000):
        for blocks in (1, 3, 40):
            assert 1 <= settings.shares_of(target, programs, blocks) <= min(blocks, settings.MOST_SHARES)
            group, shares = settings.groups_of(target, 8, programs, blocks)
            assert group >= 1 and 1 <= shares <= blocks
    for width in (32, 96, 256, 1024):
        tile = settings.one_pass(target, width, 16, ["direct"])
        assert (tile is not None) == (target == "sm_90" and width in (32, 256))
        assert settings.one_pass(target, width, 16, ["exact"]) is None
        assert settings.one_pass(target, width, 16, ["direct", "direct"]) is None


def test_every_case_has_inputs_and_work() -> None:
    names = [case.name for case in (*cases.SUITE.cases, *cases.SUITE.small_cases)]
    assert len(set(names)) == len(names)
    for case in cases.SUITE.small_cases:
        inputs = case.make(DEVICE, 0)
        torch.testing.assert_close(cases.SUITE.ours(inputs), cases.SUITE.reference(inputs), rtol=1e-5, atol=1e-5)
        assert case.backward is not None and case.backward.bytes > case.forward.bytes > 0


@pytest.mark.parametrize("position", [False, True])
@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
def test_a_token_turing_unit_gives_the_same_with_and_without_the_program(
    dtype: torch.dtype, position: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = CombinerConfig(
        name="ttm",
        tokens=4,
        transformer=TransformerConfig(depth=1, heads=3, mlp_ratio=2.0),
        memory_tokens=6,
        read_tokens=4,
        position_embedding=position,
    )
    unit = TokenTuringUnit(24, 17, config).to(DEVICE, dtype)
    memory = torch.randn(6, 24, device=DEVICE).requires_grad_()
    tokens = torch.randn(2, 2, 17, 24, device=DEVICE).to(dtype).requires_grad_()
    mask = torch.rand(2, 2, 17, device=DEVICE) < 0.6
    results: list[list[Tensor]] = []
    for choice in ("triton", "reference"):
        monkeypatch.setenv("LONGTAKE_KERNELS", choice)
        carried, outputs = memory.expand(2, -1, -1), []
        for step in range(2):
            carried, output = unit(carried, tokens[step], mask[step])
            outputs.append(output.float())
        assert carried.dtype == float32
        found = torch.cat([carried, *outputs], dim=1)
        results.append([found, *gradients(found, [memory, tokens, *unit.parameters()])])
    tolerance = 1e-4 if dtype == float32 else 0.05
    for mine, other in zip(*results, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        assert float((mine - other).detach().abs().max()) <= tolerance * scale
