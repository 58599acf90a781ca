"""FlexAttention's blocks give what the plain mask gives, and hold no more than a few numbers a block."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from longtake.operators.model.chunk_attention import BLOCK, block_mask, chunk_causal_attention, chunk_causal_bias
from longtake.operators.model.layers import attend


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize(
    ("snippets", "tokens"), [(1, 1), (1, 4), (3, 50), (32, 4), (33, 4), (17, 32), (5, 96), (2, 200), (400, 1), (9, 43)]
)
def test_blocks_equal_the_plain_mask(snippets: int, tokens: int, hidden: bool) -> None:
    generator = torch.Generator().manual_seed(snippets)
    q, k, v = torch.randn(3, 2, 2, snippets * tokens, 16, generator=generator).unbind()
    keep = torch.rand(2, snippets, generator=generator) > 0.3 if hidden else None
    blocks = block_mask(snippets, tokens, keep, q.device)
    ours = flex_attention(q, k, v, block_mask=blocks)
    plain = attend(q, k, v, chunk_causal_bias(0, snippets, tokens, keep, q))
    assert float((ours - plain).abs().max()) <= 1e-5
    # Uncompiled FlexAttention reads the mask alone and not the blocks, which the compiled one skips by.
    visible = chunk_causal_bias(0, snippets, tokens, keep, q)[:, 0] == 0.0
    for row in range(-(-snippets * tokens // BLOCK)):
        partial = blocks.kv_indices[0, 0, row, : blocks.kv_num_blocks[0, 0, row]].tolist()
        full = blocks.full_kv_indices[0, 0, row, : blocks.full_kv_num_blocks[0, 0, row]].tolist()
        tiles = visible[:, row * BLOCK : (row + 1) * BLOCK].split(BLOCK, dim=2)
        needed = {column for column, tile in enumerate(tiles) if bool(tile.any())}
        assert all(bool(tiles[column].all()) and tiles[column].shape[2] == BLOCK for column in full)
        assert len(partial) + len(full) == len({*partial, *full}), "none is visited twice"
        assert needed == {*partial, *full} if keep is None else needed <= {*partial, *full}


def test_the_blocks_of_a_day_of_video_fit_in_memory() -> None:
    blocks = block_mask(2_000, 32, None, torch.device("cpu"))
    held = sum(part.numel() * part.element_size() for part in blocks.as_tuple() if isinstance(part, torch.Tensor))
    assert blocks.shape[-2:] == (64_000, 64_000)
    assert held < 64_000 * 64_000 / 256


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the compiled kernel needs a GPU")
def test_on_a_gpu_the_compiled_kernel_equals_the_plain_mask() -> None:
    q, k, v = torch.randn(3, 2, 4, 33 * 32, 64, device="cuda").unbind()
    q.requires_grad_(True)
    ours = chunk_causal_attention(q, 0, 33, 32, None)(q, k, v)
    plain = attend(q, k, v, chunk_causal_bias(0, 33, 32, None, q))
    assert float((ours - plain).detach().abs().max()) <= 2e-3
    upstream = torch.randn_like(ours)
    (mine,), (theirs,) = torch.autograd.grad(ours, q, upstream), torch.autograd.grad(plain, q, upstream)
    assert float((mine - theirs).abs().max()) <= 5e-3
