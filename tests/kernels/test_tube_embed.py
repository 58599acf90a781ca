"""tube_embed: the Triton programs against the definition in float64, with every gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from tests.kernels.checks import DEVICE, assert_as_exact_as_torch, gradients, surrounded
from torch import Tensor

from longtake.errors import KernelUnavailableError
from longtake.kernels.targets import TARGETS
from longtake.kernels.tube_embed import cases, op, settings
from longtake.kernels.tube_embed.op import forward_op, tube_embed, weight_gradients_op
from longtake.kernels.tube_embed.reference import TubeShape, show
from longtake.kernels.tube_embed.reference import tube_embed as reference

Embed = Callable[..., Tensor]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Snippets, clip, width, tubes.
SIZES: dict[str, tuple[int, tuple[int, int, int], int, tuple[TubeShape, ...]]] = {
    "ones": (1, (1, 1, 1), 1, (TubeShape((1, 1, 1), (1, 1, 1)),)),
    "primes": (3, (5, 11, 13), 19, (TubeShape((3, 5, 7), (2, 3, 2), (0, 1, 2)), TubeShape((1, 3, 1), (1, 2, 5)))),
    "powers of two": (2, (4, 16, 32), 64, (TubeShape((2, 8, 8), (2, 8, 8)), TubeShape((1, 16, 16), (4, 8, 16)))),
    "one more": (1, (5, 17, 33), 65, (TubeShape((4, 4, 4), (1, 7, 11), (1, 1, 1)), TubeShape((2, 9, 9), (3, 8, 8)))),
}


@dataclass(frozen=True)
class Made:
    """Arguments of a call."""

    frames: Tensor
    tubes: tuple[TubeShape, ...]
    weights: list[Tensor]
    biases: list[Tensor]
    positions: list[Tensor]
    index: Tensor

    def to(self, dtype: torch.dtype) -> Made:
        """The same numbers in another dtype, as leaves."""

        def convert(values: list[Tensor]) -> list[Tensor]:
            return [value.detach().to(dtype).requires_grad_() for value in values]

        return replace(
            self,
            weights=convert(self.weights),
            biases=convert(self.biases),
            positions=convert(self.positions),
        )

    def call(self, embed: Embed, *, indexed: bool = True, positions: bool = True) -> Tensor:
        return embed(
            self.frames,
            self.tubes,
            self.weights,
            self.biases,
            self.positions if positions else None,
            self.index if indexed else None,
        )


def made(
    snippets: int, clip: tuple[int, int, int], width: int, tubes: tuple[TubeShape, ...], dtype: torch.dtype
) -> Made:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return surrounded(torch.randn(shape, generator=generator).to(dtype)).requires_grad_()

    pictures = torch.randint(0, 256, (snippets, *clip, 3), generator=generator, dtype=torch.uint8)
    index = torch.randint(0, clip[0], (snippets, clip[0]), generator=generator, dtype=torch.int32)
    return Made(
        frames=surrounded(pictures),
        tubes=tubes,
        weights=[random(width, tube.depth) for tube in tubes],
        biases=[random(width) for _ in tubes],
        positions=[random(math.prod(tube.grid(clip)), width) for tube in tubes],
        index=surrounded(index),
    )


@pytest.fixture
def many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of many tokens, whatever their number."""

    def choose(
        target: settings.TargetName, dtype: torch.dtype, tube: TubeShape, rows: int, width: int, *, indexed: bool
    ) -> settings.Settings:
        return settings.large_settings(target, dtype, tube, indexed=indexed)

    monkeypatch.setattr(op, "forward_settings", choose)


def assert_exact(given: Made, *, indexed: bool) -> None:
    results = []
    for inputs, embed in ((given, tube_embed), (given, reference), (given.to(torch.float64), reference)):
        out = inputs.call(embed, indexed=indexed)
        leaves = [*inputs.weights, *inputs.biases, *inputs.positions]
        results.append((out.detach(), *gradients(out, leaves)))
    kinds = range(len(given.tubes))
    names = ["tokens", *(f"{what} {kind}" for what in ("weight", "bias", "position") for kind in kinds)]
    for name, ours, plain, exact in zip(names, *results, strict=True):
        assert_as_exact_as_torch(ours, plain, exact, name)


@pytest.mark.parametrize("indexed", [False, True], ids=["in order", "by index"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_and_gradients_are_exact(size: str, dtype: torch.dtype, indexed: bool) -> None:
    assert_exact(made(*SIZES[size], dtype), indexed=indexed)


@pytest.mark.usefixtures("many_tokens")
@pytest.mark.parametrize("indexed", [False, True], ids=["in order", "by index"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", ["primes", "one more"])
def test_large_tiles_are_exact(size: str, dtype: torch.dtype, indexed: bool) -> None:
    assert_exact(made(*SIZES[size], dtype), indexed=indexed)


def test_a_weight_gradient_in_several_chunks_is_exact() -> None:
    tube = TubeShape((1, 2, 2), (1, 1, 1))
    given = made(3, (2, 8, 9), 5, (tube,), torch.float32)
    rows = 3 * math.prod(tube.grid((2, 8, 9)))
    _, chunk = settings.gradient_settings("sm_90", torch.float32, tube, rows, 5)
    assert rows > 2 * chunk
    assert_exact(given, indexed=True)


def test_every_byte_comes_out_as_its_value() -> None:
    # One-hot weights: channel d is the d-th number of a tube.
    tube = TubeShape((1, 4, 8), (1, 4, 8))
    pictures = torch.arange(2 * 8 * 16 * 3).reshape(1, 2, 8, 16, 3).to(torch.uint8).to(DEVICE)
    assert len(pictures.unique()) == 256
    weight, bias = torch.eye(tube.depth, device=DEVICE), torch.zeros(tube.depth, device=DEVICE)
    out = tube_embed(pictures, [tube], [weight], [bias])
    wanted = reference(pictures, [tube], [weight.double()], [bias.double()])
    assert (out.double() - wanted).abs().max() < 1e-7
    assert out.min() == -1.0
    assert out.max() == 1.0


def test_an_index_reads_what_gathered_pictures_show() -> None:
    given = made(*SIZES["primes"], torch.float32)
    shown = replace(given, frames=show(given.frames, given.index))
    assert torch.equal(given.call(tube_embed), shown.call(tube_embed, indexed=False))
    # One row for all snippets, and the rows of a larger table.
    one = replace(given, index=given.index[:1].expand(3, -1))
    table = replace(given, index=torch.cat([given.index[:1].expand(3, -1)] * 2, dim=1)[:, 5:])
    assert torch.equal(one.call(tube_embed), table.call(tube_embed))
    assert torch.equal(
        one.call(tube_embed), replace(one, frames=show(given.frames, one.index)).call(tube_embed, indexed=False)
    )


def test_pictures_may_be_a_part_of_others() -> None:
    given = made(*SIZES["powers of two"], torch.float32)
    larger = torch.randint(0, 256, (4, 10, 16, 32, 3), dtype=torch.uint8, device=DEVICE)
    for part in (larger[1:3, 2:6], larger[::2, 1::2][:, :4], larger[-1:].expand(2, -1, -1, -1, -1)[:, 3:7]):
        assert not part.is_contiguous()
        whole = replace(given, frames=part.contiguous()).call(tube_embed)
        assert torch.equal(replace(given, frames=part).call(tube_embed), whole)


def test_results_are_the_same_every_time() -> None:
    given = made(*SIZES["primes"], torch.bfloat16)
    first, second = (given.call(tube_embed) for _ in range(2))
    assert torch.equal(first, second)
    assert all(
        torch.equal(a, b)
        for a, b in zip(gradients(first, given.weights), gradients(second, given.weights), strict=True)
    )
    # A snippet's tokens do not depend on the others'.
    alone = replace(given, frames=given.frames[1:2], index=given.index[1:2])
    assert torch.equal(alone.call(tube_embed), first[1:2])


def test_without_positions_and_without_snippets() -> None:
    given = made(*SIZES["primes"], torch.float32)
    wanted = given.to(torch.float64).call(reference, positions=False).detach()
    ours, plain = (given.call(embed, positions=False).detach() for embed in (tube_embed, reference))
    assert_as_exact_as_torch(ours, plain, wanted)
    none = replace(given, frames=given.frames[:0], index=given.index[:0])
    out = none.call(tube_embed)
    assert out.shape == (0, *wanted.shape[1:])
    out.sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in none.weights)


def test_only_what_requires_a_gradient_gets_one() -> None:
    given = made(*SIZES["primes"], torch.float32)
    wanted = gradients(given.call(tube_embed), [given.weights[1], given.biases[0]])
    for value in (given.weights[0], given.biases[1], *given.positions):
        value.requires_grad_(False)
    found = gradients(given.call(tube_embed), [given.weights[1], given.biases[0]])
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_positions_of_another_dtype_are_added_in_float32() -> None:
    given = made(*SIZES["primes"], torch.bfloat16)
    wide = replace(given, positions=[position.detach().float() for position in given.positions])
    out, plain = wide.call(tube_embed).detach(), wide.call(reference).detach()
    exact = given.to(torch.float64).call(reference)
    assert out.dtype == plain.dtype == torch.float32
    assert_as_exact_as_torch(out, plain, exact)
    assert (out.double() - exact).abs().max() < 1e-5 * exact.abs().max(), "no rounding before the sum"


def test_autocast_chooses_the_dtype_as_for_a_dense_layer() -> None:
    given = made(*SIZES["primes"], torch.float32)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        out, plain = given.call(tube_embed), given.call(reference)
        bare = given.call(tube_embed, positions=False)
    assert out.dtype == plain.dtype == torch.float32
    assert bare.dtype == torch.bfloat16
    assert_as_exact_as_torch(out, plain, given.to(torch.float64).call(reference))
    (gradient,) = gradients(out, given.weights[:1])
    assert gradient.dtype == torch.float32


def test_the_encoder_runs_on_it() -> None:
    from longtake.operators.model.config import TransformerConfig, Tube, VideoConfig
    from longtake.operators.model.encoders.own import VideoEncoder

    tubes = (Tube(kernel=(2, 8, 8), stride=(2, 8, 8), offset=(0, 4, 0)), Tube(kernel=(1, 8, 8), stride=(2, 8, 8)))
    config = VideoConfig(frames=4, height=20, width=24, tubes=tubes, encoder=TransformerConfig(depth=1, heads=3))
    torch.manual_seed(0)
    encoder = VideoEncoder(config, 24).eval().to(DEVICE)
    pictures = torch.randint(0, 256, (2, 4, 20, 24, 3), dtype=torch.uint8, device=DEVICE)
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]], device=DEVICE)
    with torch.no_grad():
        ours, seen = encoder(pictures, mask)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LONGTAKE_KERNELS", "reference")
            plain, seen_too = encoder(pictures, mask)
    assert torch.equal(seen, seen_too)
    torch.testing.assert_close(ours, plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("all_given", [False, True])
def test_the_ops_keep_the_rules_of_torch(all_given: bool) -> None:
    given = made(1, (2, 4, 4), 3, (TubeShape((1, 2, 2), (1, 2, 2)), TubeShape((2, 3, 3), (1, 1, 1))), torch.float32)
    numbers = [number for tube in given.tubes for part in tube for number in part]
    index = given.index if all_given else None
    arguments = (given.frames, index, given.weights, given.biases, given.positions if all_given else [], numbers)
    torch.library.opcheck(forward_op, arguments)
    gradient = torch.randn_like(given.call(tube_embed)).detach()
    torch.library.opcheck(weight_gradients_op, (gradient, given.frames, index, numbers, given.weights[0].detach()))


def test_it_compiles_as_one_graph() -> None:
    given = made(*SIZES["primes"], torch.float32)
    compiled = torch.compile(lambda inputs: inputs.call(tube_embed) * 2, backend="aot_eager", fullgraph=True)
    out, wanted = compiled(given), given.call(tube_embed) * 2
    assert torch.equal(out, wanted)
    leaves = [*given.weights, *given.biases, *given.positions]
    assert all(torch.equal(a, b) for a, b in zip(gradients(out, leaves), gradients(wanted, leaves), strict=True))


def test_wrong_inputs_are_refused() -> None:
    given = made(*SIZES["primes"], torch.float32)
    wrong: list[tuple[Made, str]] = [
        (replace(given, frames=given.frames.float()), r"pictures are torch.float32 .*; wanted uint8 \[S, F, H, W, 3\]"),
        (replace(given, frames=given.frames[0]), "wanted uint8"),
        (replace(given, frames=given.frames[..., ::2, :]), "wanted each picture contiguous"),
        (replace(given, frames=given.frames.transpose(2, 3)), "wanted each picture contiguous"),
        (replace(given, index=given.index.long()), r"the frame index is torch.int64 .*; wanted int32 \(3, 5\)"),
        (replace(given, index=given.index[:, :3]), r"wanted int32 \(3, 5\)"),
        (replace(given, biases=given.biases[:1]), r"are \[2, 2, 1, 2\]; one of each for every kind"),
        (replace(given, tubes=(), weights=[], biases=[], positions=[]), "one of each for every kind"),
        (
            replace(given, weights=[given.weights[0], given.weights[0]]),
            r"weight 1 is .*; wanted torch.float32 \(19, 9\)",
        ),
        (replace(given, biases=[given.biases[0], given.biases[1].double()]), "bias 1 is torch.float64"),
        (replace(given, positions=given.positions[::-1]), "position 0 is"),
        (
            replace(given, tubes=(TubeShape((6, 5, 7), (2, 3, 2)), given.tubes[1])),
            r"yields no token on a clip of \(5, 11",
        ),
    ]
    for inputs, message in wrong:
        with pytest.raises(ValueError, match=message):
            inputs.call(tube_embed)


def test_what_the_program_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    given = made(*SIZES["primes"], torch.float32)
    with pytest.raises(KernelUnavailableError, match="weights is float64"):
        given.to(torch.float64).call(tube_embed)
    # Snippets so far apart that 32 bits do not reach from one to the next.
    far = torch.empty_strided((3, 5, 11, 13, 3), (2**30, 429, 39, 3, 1), dtype=torch.uint8, device="meta")
    assert op.reach_obstacle(given.frames, given.tubes) is None
    assert "a block of tokens spans" in (op.reach_obstacle(far, given.tubes) or "")
    monkeypatch.setenv("LONGTAKE_KERNELS", "reference")
    assert given.to(torch.float64).call(tube_embed).dtype == torch.float64


def test_settings_cover_all_tokens_and_pictures() -> None:
    for target in TARGETS:
        for tube in (*cases.BASE, *cases.TUBEVIT, *cases.SMALL):
            for rows in (1, 100, 5_000, 100_000):
                chosen, chunk = settings.gradient_settings(target, torch.bfloat16, tube, rows, 576)
                assert chunk % chosen.rows == 0
                assert chunk >= 1
                assert settings.forward_settings(target, torch.bfloat16, tube, rows, 576, indexed=True).span(tube) <= 4
    # Blocks of 64 of 48 numbers a picture: the second covers numbers 64 ... 127, in pictures 1 and 2.
    assert settings.Settings(128, 128, 64, 8, 4, 7).span(cases.BASE[1]) == 2
    assert settings.vector(cases.BASE[0], 224) == 8
    assert settings.vector(cases.BASE[1], 224) == 4
    assert settings.vector(TubeShape((1, 16, 16), (1, 16, 16)), 224) == 16
    assert settings.vector(TubeShape((1, 1, 1), (1, 1, 1)), 7) == 1


@pytest.mark.parametrize("case", cases.SUITE.small_cases, ids=lambda case: case.name)
def test_the_cases_agree_with_one_another(case: cases.Case) -> None:
    inputs = case.make(DEVICE, 0)
    ours, plain = cases.SUITE.ours(inputs), cases.SUITE.reference(inputs)
    assert isinstance(ours, Tensor)
    assert isinstance(plain, Tensor)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(cases.SUITE.compiled(inputs), plain, rtol=0, atol=1e-5)
    assert case.backward is not None
    tokens = plain.shape[1] * plain.shape[0]
    assert case.forward.flops <= 2 * tokens * plain.shape[2] * max(tube.depth for tube in inputs["tubes"])
    assert plain.numel() * plain.element_size() < case.forward.bytes
