"""token_codec: the Triton programs give the definition's very bits, and the gradient of the scales is exact."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.checks import DEVICE, assert_as_exact_as_torch, gradients, surrounded
from torch import Tensor

from longtake.errors import KernelUnavailableError
from longtake.kernels.bench.case import Case
from longtake.kernels.token_codec import cases, reference
from longtake.kernels.token_codec.op import LARGEST_GROUP, decode, decode_backward_op, decode_op, encode, encode_op

# The interpreter says so where an infinity meets a scale of 0.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SCALE_DTYPES = (torch.float32, torch.float16)
# Shape, channels that share a scale.
SIZES: dict[str, tuple[tuple[int, ...], int | None]] = {
    "one": ((1,), None),
    "primes": ((3, 7, 19), None),
    "power of two": ((9, 64), None),
    "one less": ((2, 5, 63), None),
    "one more": ((5, 65), None),
    "the preset's width": ((11, 576), None),
    "groups": ((3, 4, 96), 32),
    "odd groups": ((13, 30), 3),
    "groups of one": ((4, 5), 1),
}


def tokens_of_all_sizes(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Tokens from 1e-7 to 1e4, some of them zero, one with a NaN and one with an infinity where there is room."""
    generator = torch.Generator().manual_seed(seed)
    scale = 10.0 ** (torch.rand((*shape[:-1], 1), generator=generator) * 11 - 7)
    values = torch.randn(shape, generator=generator) * scale
    rows = values.view(-1, shape[-1])
    if len(rows) > 3:
        rows[0] = 0.0
        rows[1, shape[-1] // 2] = float("nan")
        rows[2, -1] = float("-inf")
    return surrounded(values.to(dtype))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal to the bit; any NaN is as good as another."""
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
    if not a.is_floating_point():
        return torch.equal(a, b)
    whole = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return bool(((a.view(whole) == b.view(whole)) | (a.isnan() & b.isnan())).all())


@pytest.mark.parametrize("scale_dtype", SCALE_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_codes_scales_and_tokens_are_the_definitions_bits(
    size: str, dtype: torch.dtype, scale_dtype: torch.dtype
) -> None:
    shape, group = SIZES[size]
    tokens = tokens_of_all_sizes(shape, dtype)
    codes, scales = encode(tokens, group, scale_dtype)
    # The bits are promised across machines: the definition runs on the CPU.
    wanted_codes, wanted_scales = reference.encode(tokens.cpu(), group, scale_dtype)
    assert codes.dtype == torch.int8
    assert same_bits(codes.cpu(), wanted_codes)
    assert same_bits(scales.cpu(), wanted_scales)
    for out_dtype in DTYPES:
        out = decode(surrounded(codes), surrounded(scales), out_dtype)
        assert same_bits(out.cpu(), reference.decode(wanted_codes, wanted_scales, out_dtype))


@pytest.mark.parametrize("group", [None, 16])
def test_no_channel_is_further_off_than_half_a_step(group: int | None) -> None:
    tokens = torch.randn(40, 96, device=DEVICE) * torch.rand(40, 1, device=DEVICE).mul(20).exp()
    codes, scales = encode(tokens, group)
    error = (decode(codes, scales) - tokens).abs().unflatten(-1, (-1, group or 96))
    assert (error <= scales[..., None] * 0.50001).all()
    # Every group uses the whole range.
    assert (codes.unflatten(-1, (-1, group or 96)).abs().amax(-1) == 127).all()
    cosine = torch.nn.functional.cosine_similarity(decode(codes, scales), tokens, dim=-1)
    assert cosine.min() > 0.9997


def test_halves_go_to_the_even_code() -> None:
    tokens = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 125.5]], device=DEVICE)
    codes, scales = encode(tokens)
    assert scales.tolist() == [[1.0]]
    assert codes.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126, 126]]


def test_zeros_and_the_smallest_numbers_decode_to_zeros() -> None:
    tokens = torch.zeros(5, 24, device=DEVICE)
    tokens[1, 3] = -0.0
    tokens[2] = 1e-45
    tokens[3, 7] = 1e-37
    tokens[4, 7] = 2e-36
    codes, scales = encode(tokens)
    assert scales[:4].flatten().tolist() == [0.0] * 4
    assert not codes[:4].any()
    assert not decode(codes, scales)[:4].any()
    assert decode(codes, scales)[4, 7] == pytest.approx(2e-36, rel=1e-6)
    # In float16 a scale is at least 6e-8.
    codes, scales = encode(torch.full((1, 24), 1e-6, device=DEVICE), scale_dtype=torch.float16)
    assert not decode(codes, scales).any()


def test_a_broken_group_is_nan_and_its_neighbours_are_not() -> None:
    tokens = torch.randn(4, 48, device=DEVICE)
    tokens[0, 20] = float("nan")
    tokens[1, 0] = float("inf")
    tokens[2, 47] = float("-inf")
    codes, scales = encode(tokens, 16)
    broken = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool, device=DEVICE)
    assert torch.equal(scales.isnan(), broken)
    assert not codes[broken.repeat_interleave(16, dim=1)].any()
    assert torch.equal(decode(codes, scales, torch.bfloat16).isnan(), broken.repeat_interleave(16, dim=1))


def test_what_a_float16_scale_cannot_hold_saturates() -> None:
    tokens = torch.tensor([[3e38, -3e38, 1e6, 0.0]], device=DEVICE)
    codes, scales = encode(tokens, scale_dtype=torch.float16)
    assert scales.tolist() == [[65504.0]]
    assert codes.tolist() == [[127, -127, 15, 0]]
    codes, scales = encode(tokens)
    assert decode(codes, scales)[0, :2].tolist() == pytest.approx([3e38, -3e38], rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ["primes", "groups", "the preset's width"])
def test_the_gradient_of_the_scales_is_exact(size: str, dtype: torch.dtype) -> None:
    shape, group = SIZES[size]
    codes, scales = encode(torch.randn(shape, device=DEVICE), group)
    codes = surrounded(codes)
    results = []
    for function, scale_dtype, out_dtype in (
        (decode, torch.float32, dtype),
        (reference.decode, torch.float32, dtype),
        (reference.decode, torch.float64, torch.float64),
    ):
        leaf = surrounded(scales).to(scale_dtype).requires_grad_()
        results.append(gradients(function(codes, leaf, out_dtype), [leaf])[0])
    ours, plain, exact = results
    assert_as_exact_as_torch(ours, plain, exact)


def test_nothing_flows_back_through_the_codes() -> None:
    tokens = torch.randn(3, 8, device=DEVICE, requires_grad=True)
    for found in (encode(tokens), reference.encode(tokens)):
        assert not any(x.requires_grad for x in found)


def test_tokens_may_lie_apart_by_one_stride() -> None:
    larger = torch.randn(4, 6, 40, device=DEVICE)
    for part in (larger[:, :, 8:32], larger[:, ::2, :24], larger[2:3, 1:, :24], larger[:1].expand(4, -1, -1)[:, 0]):
        codes, scales = encode(part, part.shape[-1] // 2)
        wanted = encode(part.contiguous(), part.shape[-1] // 2)
        assert torch.equal(codes, wanted[0])
        assert torch.equal(scales, wanted[1])
    codes, scales = encode(larger, 8)
    some, some_scales = codes[:, ::2], scales[:, ::2]
    assert torch.equal(decode(some, some_scales), decode(some.contiguous(), some_scales.contiguous()))
    leaf = some_scales.clone().requires_grad_()
    (found,) = gradients(decode(some, leaf), [leaf])
    (wanted_gradient,) = gradients(decode(some.contiguous(), leaf), [leaf])
    assert torch.equal(found, wanted_gradient)


def test_no_tokens_give_no_codes() -> None:
    codes, scales = encode(torch.empty(0, 3, 24, device=DEVICE), 8)
    assert codes.shape == (0, 3, 24)
    assert scales.shape == (0, 3, 3)
    assert decode(codes, scales).shape == (0, 3, 24)


def test_wrong_inputs_are_refused() -> None:
    tokens = torch.randn(4, 6, 24, device=DEVICE)
    codes, scales = encode(tokens, 8)
    encodes: list[tuple[Tensor, int | None, torch.dtype, str]] = [
        (tokens, 7, torch.float32, "24 channels do not divide into groups of 7"),
        (tokens, 0, torch.float32, "groups of 0"),
        (tokens, -8, torch.float32, "groups of -8"),
        (tokens[..., :0], None, torch.float32, "tokens of 0 channels"),
        (torch.tensor(1.0, device=DEVICE), None, torch.float32, "tokens of 0 channels"),
        (tokens.int(), None, torch.float32, "tokens are torch.int32"),
        (tokens, None, torch.bfloat16, "scales torch.bfloat16; wanted"),
        (tokens.transpose(1, 2), None, torch.float32, "wanted the last dimension contiguous"),
        (tokens[..., ::2], None, torch.float32, "wanted the last dimension contiguous"),
        (tokens[:, :5], None, torch.float32, "one stride from token to token"),
    ]
    for x, group, scale_dtype, message in encodes:
        with pytest.raises(ValueError, match=message):
            encode(x, group, scale_dtype)
    decodes: list[tuple[Tensor, Tensor, torch.dtype, str]] = [
        (codes.float(), scales, torch.float32, "codes are torch.float32"),
        (codes, scales.int(), torch.float32, "scales torch.int32"),
        (codes, scales, torch.int8, "tokens torch.int8"),
        (codes, scales[:2], torch.float32, r"wanted \[..., D\] and \[..., G\]"),
        (codes[..., :23], scales, torch.float32, r"codes are \(4, 6, 23\) and scales \(4, 6, 3\)"),
        (codes, scales[..., :0], torch.float32, r"scales \(4, 6, 0\)"),
        (codes[:, :5], scales[:, :5], torch.float32, "codes are .* one stride"),
    ]
    for x, y, dtype, message in decodes:
        with pytest.raises(ValueError, match=message):
            decode(x, y, dtype)


def test_what_the_program_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = torch.randn(1, LARGEST_GROUP + 2, device=DEVICE)
    with pytest.raises(KernelUnavailableError, match="a group has 16386 channels"):
        encode(wide)
    with pytest.raises(KernelUnavailableError, match="tokens is float64"):
        encode(wide.double(), 2)
    codes, scales = encode(wide, 2)
    with pytest.raises(KernelUnavailableError, match="tokens are float64"):
        decode(codes, scales, torch.float64)
    monkeypatch.setenv("LONGTAKE_KERNELS", "reference")
    assert decode(*encode(wide.double()), torch.float64).dtype == torch.float64


def test_the_ops_keep_the_rules_of_torch() -> None:
    tokens = torch.randn(2, 3, 24, device=DEVICE)
    codes, scales = encode(tokens, 8)
    torch.library.opcheck(encode_op, (tokens, 8, torch.float16))
    torch.library.opcheck(decode_op, (codes, scales.requires_grad_(), torch.bfloat16))
    torch.library.opcheck(decode_backward_op, (tokens, codes, 3, torch.float32))


def test_they_compile_as_one_graph() -> None:
    tokens = torch.randn(2, 3, 24, device=DEVICE)

    def there_and_back(x: Tensor, factor: Tensor) -> Tensor:
        codes, scales = encode(x, 8)
        return decode(codes, scales * factor, torch.float32)

    compiled = torch.compile(there_and_back, backend="aot_eager", fullgraph=True)
    factor = torch.full((3,), 2.0, device=DEVICE, requires_grad=True)
    out, wanted = compiled(tokens, factor), there_and_back(tokens, factor)
    assert torch.equal(out, wanted)
    assert torch.equal(gradients(out, [factor])[0], gradients(wanted, [factor])[0])


@pytest.mark.parametrize("case", cases.SUITE.small_cases, ids=lambda case: case.name)
def test_the_cases_agree_with_one_another(case: Case) -> None:
    inputs = case.make(DEVICE, 0)
    ours, plain = cases.SUITE.ours(inputs), cases.SUITE.reference(inputs)
    pairs = zip(
        *(found if isinstance(found, tuple) else (found,) for found in (ours, plain)),
        strict=True,
    )
    assert all(same_bits(a.detach(), b.detach()) for a, b in pairs)
    read = [value for value in inputs.values() if isinstance(value, Tensor)]
    moved = [*read, *(ours if isinstance(ours, tuple) else (ours,))]
    assert case.forward.bytes == sum(x.numel() * x.element_size() for x in moved)
