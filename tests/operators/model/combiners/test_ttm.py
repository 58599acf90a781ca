"""The Token Turing Machine: the public implementation's own numbers, the options, the mask and the carried memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longtake.kernels.token_summary.reference import softmax_pool
from longtake.operators.model.combiners.ttm import TokenTuringUnit
from longtake.operators.model.config import CombinerConfig, TransformerConfig
from longtake.operators.model.token_summary import TokenSummary

Parameters = Mapping[str, Tensor]


def from_flax(parameters: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The public unit's parameters under this unit's names: dense kernels transposed, key and value in one matrix."""

    def get(name: str) -> Tensor:
        return torch.from_numpy(np.asarray(parameters[f"param/{name}"], dtype=np.float32))

    def norm(ours: str, theirs: str) -> dict[str, Tensor]:
        return {f"{ours}.weight": get(f"{theirs}/scale"), f"{ours}.bias": get(f"{theirs}/bias")}

    def dense(ours: str, theirs: str) -> dict[str, Tensor]:
        return {f"{ours}.weight": get(f"{theirs}/kernel").T, f"{ours}.bias": get(f"{theirs}/bias")}

    state = {"position_RD": get("Encoder_0/posembed_input/pos_embedding")[0]}
    for ours, theirs in (("read", "TokenLearnerModuleV11_0"), ("write", "TokenLearnerModuleV11_1")):
        state |= norm(f"{ours}.norm", f"{theirs}/LayerNorm_0")
        state |= dense(f"{ours}.up", f"{theirs}/token_masking/Dense_0")
        state |= dense(f"{ours}.down", f"{theirs}/token_masking/Dense_1")
    theirs, ours = "Encoder_0/encoderblock_0", "processor.blocks.0"
    state |= norm(f"{ours}.norm_attention", f"{theirs}/LayerNorm_0")
    state |= norm(f"{ours}.norm_mlp", f"{theirs}/LayerNorm_1")
    state |= dense(f"{ours}.mlp.up", f"{theirs}/MlpBlock_0/Dense_0")
    state |= dense(f"{ours}.mlp.down", f"{theirs}/MlpBlock_0/Dense_1")
    attention = f"{theirs}/MultiHeadDotProductAttention_0"
    flat = {
        kind: (get(f"{attention}/{kind}/kernel").flatten(1), get(f"{attention}/{kind}/bias").flatten())
        for kind in ("query", "key", "value")
    }
    state[f"{ours}.attention.query.weight"] = flat["query"][0].T
    state[f"{ours}.attention.query.bias"] = flat["query"][1]
    state[f"{ours}.attention.key_value.weight"] = torch.cat([flat["key"][0], flat["value"][0]], dim=1).T
    state[f"{ours}.attention.key_value.bias"] = torch.cat([flat["key"][1], flat["value"][1]])
    state[f"{ours}.attention.output.weight"] = get(f"{attention}/out/kernel").flatten(0, 1).T
    state[f"{ours}.attention.output.bias"] = get(f"{attention}/out/bias")
    return state | norm("processor.norm", "Encoder_0/encoder_norm")


def ttm_config(*, position_embedding: bool = False, memory: int = 6, read: int = 4, heads: int = 12) -> CombinerConfig:
    return CombinerConfig(
        name="ttm",
        tokens=read,
        transformer=TransformerConfig(depth=1, heads=heads, mlp_ratio=2.0),
        memory_tokens=memory,
        read_tokens=read,
        position_embedding=position_embedding,
    )


def test_the_unit_reproduces_the_public_implementation(reference: Path) -> None:
    golden = np.load(reference / "ttm_golden.npz")
    unit = TokenTuringUnit(48, 9, ttm_config())
    loaded = from_flax(golden)
    # Strict loading, and every golden parameter used: nothing in the unit is left at its random start.
    unit.load_state_dict(loaded)
    assert sum(value.numel() for value in loaded.values()) == sum(
        golden[name].size for name in golden.files if name.startswith("param/")
    )
    memory_BKD = torch.from_numpy(golden["memory0_BKC"])
    worst = 0.0
    with torch.no_grad():
        for step in range(golden["input_BTNC"].shape[1]):
            memory_BKD, output_BRD = unit(memory_BKD, torch.from_numpy(golden["input_BTNC"][:, step]))
            for ours, theirs in ((memory_BKD, "memory_BTKC"), (output_BRD, "output_BTRC")):
                worst = max(worst, float((ours - torch.from_numpy(golden[theirs][:, step])).abs().max()))
    print(f"largest difference from the public unit over 4 steps: {worst:.2e}")
    assert worst <= 1e-5


# The unit once more, in float64 and in plain formulas: one step from the paper's equations, layer by layer.


def layer_norm(x: Tensor, p: Parameters, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def dense(x: Tensor, p: Parameters, name: str) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def summary(x: Tensor, mask_BN: Tensor, p: Parameters, name: str) -> Tensor:
    logits = dense(gelu(dense(layer_norm(x, p, f"{name}.norm"), p, f"{name}.up")), p, f"{name}.down")
    rows = []
    for row, mask_N, logit_Nk in zip(x, mask_BN, logits, strict=True):
        kept, logit = row[mask_N], logit_Nk[mask_N]
        weights = logit.exp() / logit.exp().sum(0)
        rows.append(weights.T @ kept)
    return torch.stack(rows)


def formula(p: Parameters, memory: Tensor, inputs: Tensor, mask_BN: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    always = torch.ones(len(memory), memory.shape[1], dtype=torch.bool)
    seen, seen_mask = torch.cat([memory, inputs], 1), torch.cat([always, mask_BN], 1)
    x = summary(seen + p.get("read_position_ND", torch.zeros(())), seen_mask, p, "read") + p["position_RD"]
    name = "processor.blocks.0"
    normed = layer_norm(x, p, f"{name}.norm_attention")
    q = dense(normed, p, f"{name}.attention.query")
    k, v = dense(normed, p, f"{name}.attention.key_value").chunk(2, -1)
    size = q.shape[-1] // heads
    outs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        outs.append(logits.exp() / logits.exp().sum(-1, keepdim=True) @ v[..., part])
    x = x + dense(torch.cat(outs, -1), p, f"{name}.attention.output")
    hidden = gelu(dense(layer_norm(x, p, f"{name}.norm_mlp"), p, f"{name}.mlp.up"))
    x = x + dense(hidden, p, f"{name}.mlp.down")
    output = layer_norm(x, p, "processor.norm")
    written = torch.cat([seen, output], 1)
    written_mask = torch.cat([seen_mask, always.new_ones(len(memory), output.shape[1])], 1)
    position = p.get("write_position_ND", torch.zeros(()))
    return summary(written + position, written_mask, p, "write"), output


@pytest.mark.parametrize("position_embedding", [False, True])
def test_the_unit_equals_the_plain_formula_in_float64(position_embedding: bool) -> None:
    torch.manual_seed(0)
    unit = TokenTuringUnit(24, 7, ttm_config(position_embedding=position_embedding, heads=3))
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    mask_BN = torch.rand(3, 7) < 0.6
    memory, inputs = torch.randn(3, 6, 24), torch.randn(3, 7, 24)
    exact = {name: value.double() for name, value in unit.state_dict().items()}
    names = {"read_position_ND", "write_position_ND"}
    assert (names & set(exact) == names) if position_embedding else not names & set(exact)
    wanted = formula(exact, memory.double(), inputs.double(), mask_BN, heads=3)
    with torch.no_grad():
        got = unit(memory, inputs, mask_BN)
        for ours, theirs in zip(got, wanted, strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    if position_embedding:
        # Both embeddings matter: without them the result is another one.
        without = {name: value for name, value in exact.items() if name not in names}
        plain = formula(without, memory.double(), inputs.double(), mask_BN, heads=3)
        assert all((a - b).abs().max() > 1e-2 for a, b in zip(plain, wanted, strict=True))


def test_masked_tokens_take_no_part_in_a_summary() -> None:
    torch.manual_seed(0)
    tokens, logits = torch.randn(2, 9, 5), torch.randn(2, 9, 3)
    mask = torch.tensor([[True] * 4 + [False] * 5, [False] * 9])
    pooled = softmax_pool(tokens, logits, mask)
    torch.testing.assert_close(pooled[0], softmax_pool(tokens[:1, :4], logits[:1, :4])[0], rtol=0, atol=1e-6)
    assert torch.equal(pooled[1], torch.zeros(3, 5))
    # A convex mix stays inside the range of what it mixes.
    assert (pooled[0] <= tokens[0, :4].max(0).values + 1e-6).all()


@pytest.mark.parametrize(
    ("tokens", "logits"),
    [((2, 9, 5), (2, 8, 3)), ((2, 9, 5), (1, 9, 3)), ((2, 0, 5), (2, 0, 3)), ((2, 9, 5), (2, 9, 0))],
)
def test_a_summary_of_wrong_shapes_is_refused(tokens: tuple[int, ...], logits: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        softmax_pool(torch.randn(tokens), torch.randn(logits))
    with pytest.raises(ValueError, match="mask"):
        softmax_pool(torch.randn(2, 9, 5), torch.randn(2, 9, 3), torch.ones(2, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=">= 1"):
        TokenSummary(8, 0)


def test_memory_stays_float32_below_weights_of_half_the_size() -> None:
    torch.manual_seed(0)
    unit = TokenTuringUnit(24, 7, ttm_config(heads=3))
    memory, inputs = torch.randn(2, 6, 24), torch.randn(2, 7, 24)
    with torch.no_grad():
        exact, _ = unit(memory, inputs)
        unit.to(torch.bfloat16)
        rounded, output = unit(memory, inputs.to(torch.bfloat16))
    assert rounded.dtype == torch.float32
    assert output.dtype == torch.bfloat16
    # The memory itself is not rounded: it has values that bfloat16 does not.
    assert not torch.equal(rounded, rounded.to(torch.bfloat16).float())
    assert (rounded - exact).abs().max() < 0.05
