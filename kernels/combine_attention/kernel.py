"""The Triton programs of combine_attention. Memory is what bounds them: every key and value is read once.

Keys of all sources are numbered through in blocks of BLOCK_N, none of which crosses from one source to the next; one
loop runs over them and picks each block's source. A program holds all queries of one (batch, head). So the forward
reads a block once, and the backward finds a block's dk and dv in the same pass that sums dq in registers: no atomics,
and the same bits every time. Heads vary fastest over programs, as neighbouring heads lie beside each other in memory.
Where there are too few (batch, head) to fill the machine the blocks are divided into parts: each writes an output and
a log-sum-exp of its own, and `merge_program` joins them (backward: a dq of its own, summed).

The softmax is online, in float32 and base 2. A query without any visible key has log-sum-exp -inf and output 0.

Layouts: q [B, m, H, E] and sources [B, N, 2, H, E] with free batch and row strides; out, its gradient and dq
[parts, B, m, H, E], log-sum-exp [parts, B, m, H] and dkv [B, N, 2, H, E] contiguous. An absent source has no keys.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
# Integers that differ from call to call: a program compiled for one value serves all.
ANY_INTEGER = (
    "n0", "n1", "n2", "n3", "mask_batch0", "mask_batch1", "mask_batch2", "mask_batch3", "masked",
    "batches", "queries", "heads", "rows", "parts", "part_blocks",
)  # fmt: skip


@triton.jit
def _pick(source, of):
    """That one of four scalars which belongs to a source."""
    return tl.where(source < 2, tl.where(source == 0, of[0], of[1]), tl.where(source == 2, of[2], of[3]))


@triton.jit
def _block_ends(n, BLOCK_N: tl.constexpr):
    """The number of the block behind each source's last."""
    end0 = tl.cdiv(n[0], BLOCK_N)
    end1 = end0 + tl.cdiv(n[1], BLOCK_N)
    end2 = end1 + tl.cdiv(n[2], BLOCK_N)
    return end0, end1, end2, end2 + tl.cdiv(n[3], BLOCK_N)


@triton.jit
def _locate(block, ends, BLOCK_N: tl.constexpr):
    """The source that a block is in, and the first of its keys there."""
    source = (block >= ends[0]).to(tl.int32) + (block >= ends[1]).to(tl.int32) + (block >= ends[2]).to(tl.int32)
    return source, (block - _pick(source, (0, ends[0], ends[1], ends[2]))) * BLOCK_N


@triton.jit
def _visible(block, ends, n, masks, mask_batch, masked, batch, BLOCK_N: tl.constexpr):
    """Which keys of a block are inside its source and not masked; `masked` has a bit for each source with a mask."""
    source, start = _locate(block, ends, BLOCK_N)
    keys = start + tl.arange(0, BLOCK_N)
    inside = keys < _pick(source, n)
    mask = _pick(source, masks) + batch * _pick(source, mask_batch)
    has_mask = ((masked >> source) & 1) != 0
    return inside & (tl.load(mask + keys, mask=inside & has_mask, other=1) != 0)


@triton.jit(do_not_specialize=ANY_INTEGER)
def forward_program(
    q, out, lse, kv0, kv1, kv2, kv3, mask0, mask1, mask2, mask3, n0, n1, n2, n3,
    kv_batch0, kv_batch1, kv_batch2, kv_batch3, kv_row0, kv_row1, kv_row2, kv_row3,
    mask_batch0, mask_batch1, mask_batch2, mask_batch3, masked,
    q_batch, q_row, batches, queries, heads, parts, part_blocks, scale,
    E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp of one (batch, head) over one part's blocks."""
    head = tl.program_id(0) % heads
    part = tl.program_id(0) // heads % parts
    batch = (tl.program_id(0) // heads // parts).to(tl.int64)
    kv, kv_batch, kv_row = (
        (kv0, kv1, kv2, kv3),
        (kv_batch0, kv_batch1, kv_batch2, kv_batch3),
        (kv_row0, kv_row1, kv_row2, kv_row3),
    )
    masks, mask_batch = (mask0, mask1, mask2, mask3), (mask_batch0, mask_batch1, mask_batch2, mask_batch3)
    n = (n0, n1, n2, n3)
    ends = _block_ends(n, BLOCK_N)
    query = tl.arange(0, BLOCK_M)
    key = tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_E)
    is_query = (query[:, None] < queries) & (column[None, :] < E)
    origin = batch * q_batch + head * E
    q_tile = tl.load(q + origin + query[:, None] * q_row + column[None, :], mask=is_query, other=0.0)

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    sums = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    first = part * part_blocks
    visible = _visible(first, ends, n, masks, mask_batch, masked, batch, BLOCK_N)
    for block in range(first, tl.minimum(first + part_blocks, ends[3])):
        source, start = _locate(block, ends, BLOCK_N)
        row = _pick(source, kv_row)
        origin = batch * _pick(source, kv_batch) + start.to(tl.int64) * row + head * E
        at = _pick(source, kv) + origin + key[:, None] * row + column[None, :]
        inside = (start + key[:, None] < _pick(source, n)) & (column[None, :] < E)
        k = tl.load(at, mask=inside, other=0.0)
        v = tl.load(at + heads * E, mask=inside, other=0.0)
        logits = tl.where(visible[None, :], tl.dot(q_tile, tl.trans(k), input_precision="ieee"), float("-inf"))
        new_top = tl.maximum(top, tl.max(logits, 1) * (scale * LOG2_E))
        finite_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(logits * (scale * LOG2_E) - finite_top[:, None])
        shrink = tl.exp2(top - finite_top)
        total = total * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(k.dtype), v, sums * shrink[:, None], input_precision="ieee")
        top = new_top
        # Read one block ahead: the compiler's own pipeline leaves so small a load out.
        visible = _visible(block + 1, ends, n, masks, mask_batch, masked, batch, BLOCK_N)
    total = tl.where(total == 0.0, 1.0, total)
    place = ((part * batches + batch) * queries + query) * heads + head
    tl.store(
        out + place[:, None] * E + column[None, :], (sums / total[:, None]).to(out.dtype.element_ty), mask=is_query
    )
    tl.store(lse + place, top + tl.log2(total), mask=query < queries)


@triton.jit(do_not_specialize=ANY_INTEGER)
def merge_program(
    part_outs, part_lses, out, lse, rows, parts, E: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_E: tl.constexpr
):
    """Output and log-sum-exp of one (batch, query, head), each part weighted by its share of the softmax."""
    place = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, BLOCK_P)
    column = tl.arange(0, BLOCK_E)
    at = part.to(tl.int64) * rows + place
    logs = tl.load(part_lses + at, mask=part < parts, other=float("-inf"))
    top = tl.max(logs, 0)
    weights = tl.exp2(logs - tl.where(top == float("-inf"), 0.0, top))
    total = tl.sum(weights, 0)
    total = tl.where(total == 0.0, 1.0, total)
    inside = (part[:, None] < parts) & (column[None, :] < E)
    values = tl.load(part_outs + at[:, None] * E + column[None, :], mask=inside, other=0.0)
    merged = tl.sum(values * weights[:, None], 0) / total
    tl.store(out + place * E + column, merged.to(out.dtype.element_ty), mask=column < E)
    tl.store(lse + place, top + tl.log2(total))


@triton.jit(do_not_specialize=ANY_INTEGER)
def backward_program(
    q, out, lse, grad, dq, kv0, kv1, kv2, kv3, dkv0, dkv1, dkv2, dkv3, mask0, mask1, mask2, mask3, n0, n1, n2, n3,
    kv_batch0, kv_batch1, kv_batch2, kv_batch3, kv_row0, kv_row1, kv_row2, kv_row3,
    mask_batch0, mask_batch1, mask_batch2, mask_batch3, masked,
    q_batch, q_row, batches, queries, heads, parts, part_blocks, scale,
    E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """dk and dv of one part's blocks and the part's dq, of one (batch, head). A tile's rows are keys, not queries."""
    head = tl.program_id(0) % heads
    part = tl.program_id(0) // heads % parts
    batch = (tl.program_id(0) // heads // parts).to(tl.int64)
    kv, kv_batch, kv_row = (
        (kv0, kv1, kv2, kv3),
        (kv_batch0, kv_batch1, kv_batch2, kv_batch3),
        (kv_row0, kv_row1, kv_row2, kv_row3),
    )
    masks, mask_batch = (mask0, mask1, mask2, mask3), (mask_batch0, mask_batch1, mask_batch2, mask_batch3)
    n = (n0, n1, n2, n3)
    ends = _block_ends(n, BLOCK_N)
    query = tl.arange(0, BLOCK_M)
    key = tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_E)
    is_query = (query[:, None] < queries) & (column[None, :] < E)
    origin = batch * q_batch + head * E
    q_tile = tl.load(q + origin + query[:, None] * q_row + column[None, :], mask=is_query, other=0.0)
    place = (batch * queries + query) * heads + head
    cells = place[:, None] * E + column[None, :]
    grad_tile = tl.load(grad + cells, mask=is_query, other=0.0)
    out_tile = tl.load(out + cells, mask=is_query, other=0.0)
    lse_tile = tl.load(lse + place, mask=query < queries, other=0.0)
    # What a weight's gradient is counted from, since the weights' sum is fixed.
    level = tl.sum(grad_tile.to(tl.float32) * out_tile.to(tl.float32), 1)

    dq_sums = tl.zeros([BLOCK_E, BLOCK_M], tl.float32)
    first = part * part_blocks
    visible = _visible(first, ends, n, masks, mask_batch, masked, batch, BLOCK_N)
    for block in range(first, tl.minimum(first + part_blocks, ends[3])):
        source, start = _locate(block, ends, BLOCK_N)
        row = _pick(source, kv_row)
        origin = batch * _pick(source, kv_batch) + start.to(tl.int64) * row + head * E
        at = _pick(source, kv) + origin + key[:, None] * row + column[None, :]
        inside = (start + key[:, None] < _pick(source, n)) & (column[None, :] < E)
        k = tl.load(at, mask=inside, other=0.0)
        v = tl.load(at + heads * E, mask=inside, other=0.0)
        logits = tl.dot(k, tl.trans(q_tile), input_precision="ieee") * (scale * LOG2_E)
        dweights = tl.dot(v, tl.trans(grad_tile), input_precision="ieee")
        weights = tl.exp2(tl.where(visible[:, None], logits - lse_tile[None, :], float("-inf")))
        visible = _visible(block + 1, ends, n, masks, mask_batch, masked, batch, BLOCK_N)
        dlogits = (weights * (dweights - level[None, :])).to(k.dtype)
        dv = tl.dot(weights.to(k.dtype), grad_tile, input_precision="ieee")
        dk = tl.dot(dlogits, q_tile, input_precision="ieee") * scale
        dq_sums = tl.dot(tl.trans(k), dlogits, dq_sums, input_precision="ieee")
        width = 2 * heads * E
        origin = (batch * _pick(source, n) + start) * width + head * E
        to = _pick(source, (dkv0, dkv1, dkv2, dkv3)) + origin + key[:, None] * width + column[None, :]
        tl.store(to, dk.to(k.dtype), mask=inside)
        tl.store(to + heads * E, dv.to(k.dtype), mask=inside)
    cells += part * batches.to(tl.int64) * queries * heads * E
    tl.store(dq + cells, tl.trans(dq_sums * scale).to(dq.dtype.element_ty), mask=is_query)
