"""A video read once: compressed or not, whole or a span, the answer is that of one pass without a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.operators.vlm import Decoding, Prefix, VideoTokens, VLMAnswerer, read_video
from longtake.operators.vlm.layout import in_order
from longtake.operators.vlm.prefix import embed
from longtake.operators.vlm.tokens import SOUND

BOUND = 1e-5
QUESTION = "which colour was on the screen?"
FAMILIES = ["qwen3_5", "llava_onevision", "qwen2_5_omni", "qwen2_5_vl"]
HOW = [("pool", 4), ("merge", 5), ("drop", 4), ("none", None)]


def uncached(made: Any, prefix: Prefix, video: VideoTokens, ids: list[int]) -> Tensor:
    """Logits of the class's own forward over the kept tokens and `ids`, at their positions, without a cache; [S, V]."""
    model, layout = made.vlm.family.model, prefix.layout
    with torch.no_grad():
        text = model.get_input_embeddings()(torch.tensor(ids))
        embeddings = torch.cat([embed(made.vlm.family, layout, video), text])
        positions = torch.cat([layout.positions_AS, layout.text_positions(len(ids))], dim=1)
        result: Tensor = model(
            inputs_embeds=embeddings[None],
            position_ids=positions if len(positions) == 1 else positions[:, None],
            # Without it transformers takes a gap between positions for the start of another sequence.
            attention_mask=torch.ones(1, len(embeddings), dtype=torch.int64),
            use_cache=False,
        ).logits[0]
    return result


@pytest.mark.parametrize(("combiner", "tokens"), HOW)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_kept_prefix_answers_as_one_pass_without_a_cache(
    scene: Callable[..., Any], family: str, combiner: str, tokens: int | None
) -> None:
    made = scene(family, sound=family == "qwen2_5_omni")
    video = made.video(combiner=combiner, tokens=tokens)
    prefix, answerer = read_video(made.vlm, video), VLMAnswerer(made.vlm)
    ids = answerer._question(prefix, QUESTION)
    kept = answerer.question_logits(prefix, QUESTION)
    torch.testing.assert_close(kept, uncached(made, prefix, video, ids)[-len(ids) :], rtol=0, atol=BOUND)
    stream = answerer.stream(prefix, QUESTION, Decoding(limit=5))
    answer = stream.finish()
    for said in range(len(stream.spoken.ids)):
        logits = uncached(made, prefix, video, ids + stream.spoken.ids[:said])[-1]
        assert int(logits.argmax()) == stream.spoken.ids[said]
    assert answer.weights_T.shape == (3,)


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_tokens_stand_where_they_stood(scene: Callable[..., Any], family: str) -> None:
    made = scene(family, sound=family == "qwen2_5_omni")
    whole, video = made.video(), made.video(combiner="drop", tokens=5)
    full, kept = read_video(made.vlm, whole).layout, read_video(made.vlm, video).layout
    assert full.next_position == kept.next_position

    def places(layout: Any, tokens: VideoTokens) -> dict[tuple[int, ...], tuple[int, ...]]:
        inside = layout.stored_S >= 0
        places_K4 = tokens.places_S4[layout.stored_S[inside]].tolist()
        return dict(zip(map(tuple, places_K4), map(tuple, layout.positions_AS[:, inside].T.tolist()), strict=True))

    stood = places(full, whole)
    assert all(stood[place] == position for place, position in places(kept, video).items())
    assert len(kept) < len(full)
    # In the order of the sequence, too.
    order = [place for place in places(full, whole) if place in places(kept, video)]
    assert order == list(places(kept, video))


def test_a_time_without_tokens_is_not_spelt_out(scene: Callable[..., Any]) -> None:
    made = scene("qwen3_5")
    video = made.video()
    decode = made.vlm.tokenizer.decode
    # The second step of the first snippet has no token.
    keep = video.places_S4[:, 1] != 1
    layout = read_video(made.vlm, video, keep_S=keep).layout
    text = decode(layout.ids_S[layout.ids_S >= 0])
    assert "<0.2 seconds>" in text and "<1.2 seconds>" not in text and "<2.2 seconds>" in text
    assert text.count("<|vision_start|>") == text.count("<|vision_end|>") == 4
    # Nor is the first one, though the text before the video stays.
    layout = read_video(made.vlm, video, keep_S=video.places_S4[:, 1] == 4).layout
    assert decode(layout.ids_S[layout.ids_S >= 0]) == "<|im_start|>user\n<4.2 seconds><|vision_start|><|vision_end|>"
    hf = read_video(made.vlm, video, keep_S=video.places_S4[:, 1] == 4, positions="hf").layout
    assert len(hf) == len(layout) + 2 and hf.next_position == layout.next_position + 2


@pytest.mark.parametrize("family", FAMILIES)
def test_a_span_does_not_know_the_rest(scene: Callable[..., Any], family: str) -> None:
    made = scene(family, sound=family == "qwen2_5_omni")
    video = made.video(combiner="pool", tokens=6)
    keep = video.span(2.0, 4.0)
    assert torch.equal(keep, video.of_snippets(torch.tensor([False, True, False])))
    answerer = VLMAnswerer(made.vlm)
    logits = answerer.question_logits(read_video(made.vlm, video, keep_S=keep), QUESTION)
    noise = [replace(one, tokens_ND=torch.randn_like(one.tokens_ND)) for one in video.snippets]
    other = VideoTokens(snippets=(noise[0], video.snippets[1], noise[2]))
    assert torch.equal(logits, answerer.question_logits(read_video(made.vlm, other, keep_S=keep), QUESTION))
    whole = answerer.question_logits(read_video(made.vlm, video), QUESTION)
    assert float((whole - logits).abs().max()) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_reading_in_chunks_changes_nothing(scene: Callable[..., Any], family: str, chunk: int) -> None:
    made = scene(family)
    video, answerer = made.video(combiner="pool", tokens=6), VLMAnswerer(made.vlm)
    once = answerer.question_logits(read_video(made.vlm, video), QUESTION)
    pieces = answerer.question_logits(read_video(made.vlm, video, chunk=chunk), QUESTION)
    torch.testing.assert_close(pieces, once, rtol=0, atol=BOUND)


def state(prefix: Prefix) -> list[Tensor]:
    """Every tensor of the kept state."""
    held = [value for layer in prefix.cache.layers for value in vars(layer).values()]
    held += [tensor for one in held if isinstance(one, dict) for tensor in one.values()]
    return [one.clone() for one in held if isinstance(one, Tensor)]


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_leave_the_kept_state_as_it_is(scene: Callable[..., Any], family: str) -> None:
    made = scene(family)
    prefix, answerer = read_video(made.vlm, made.video()), VLMAnswerer(made.vlm)
    before = state(prefix)
    alone = [answerer.stream(prefix, question, Decoding(limit=6)) for question in (QUESTION, "what?")]
    texts = ["".join(stream) for stream in alone]
    assert all(torch.equal(old, new) for old, new in zip(before, state(prefix), strict=True))
    # Two answers at once, token by token in turn, do not disturb each other either.
    left, right = (answerer.stream(prefix, question, Decoding(limit=6)) for question in (QUESTION, "what?"))
    for _ in range(8):
        next(left, None)
        next(right, None)
    assert [left.finish().text, right.finish().text] == [text.strip() for text in texts]
    assert [left.spoken.ids, right.spoken.ids] == [one.spoken.ids for one in alone]
    assert prefix.size_bytes > 0
    answerer.answer(prefix, "what?", choices=["red", "green"])
    answerer.answer(prefix, "what?", Decoding(limit=3, temperature=1.0), votes=2)
    assert all(torch.equal(old, new) for old, new in zip(before, state(prefix), strict=True))


def test_the_state_of_a_hybrid_grows_by_its_full_attention_only(scene: Callable[..., Any]) -> None:
    made = scene("qwen3_5")
    short = read_video(made.vlm, VideoTokens(snippets=tuple(made.snippets()[:1])))
    long = read_video(made.vlm, made.video())
    config = made.vlm.family.language.config
    full = sum(kind == "full_attention" for kind in config.layer_types)
    each = 2 * full * config.num_key_value_heads * config.head_dim * 4
    assert long.size_bytes - short.size_bytes == each * (len(long) - len(short))


def test_sound_stands_between_the_pictures_of_its_two_seconds(scene: Callable[..., Any]) -> None:
    made = scene("qwen2_5_omni", sound=True)
    video = made.video(combiner="pool", tokens=12)
    layout = read_video(made.vlm, video).layout
    kinds = video.places_S4[layout.stored_S[layout.stored_S >= 0], 0].tolist()
    changes = [kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind]
    assert changes == [0, SOUND] * 3


def test_a_hole_in_the_sound_moves_nothing_after_it(scene: Callable[..., Any]) -> None:
    made = scene("qwen2_5_omni", sound=True)
    whole = made.video()
    clips = made.clips()
    deaf = made.vlm.encode_snippet(replace(clips[1], mel_NM=None, peak=None))
    holed = VideoTokens(snippets=(whole.snippets[0], deaf, whole.snippets[2]))
    assert holed.sounds == whole.sounds == 125
    full, kept = read_video(made.vlm, whole).layout, read_video(made.vlm, holed).layout
    assert full.next_position == kept.next_position
    assert torch.equal(full.positions_AS[:, -25:], kept.positions_AS[:, -25:])
    with pytest.raises(ValueError, match="sound must not overlap"):
        VideoTokens(snippets=(whole.snippets[0], replace(whole.snippets[1], start_s=1.9)))


def test_in_order_sorts_by_the_first_key_first() -> None:
    assert in_order(torch.tensor([1, 0, 1, 0]), torch.tensor([0, 5, 0, 4])).tolist() == [3, 1, 0, 2]


def test_what_cannot_be_read_is_refused(scene: Callable[..., Any]) -> None:
    made = scene("qwen3_5")
    video = made.video()
    with pytest.raises(ValueError, match="the span holds no token"):
        read_video(made.vlm, video, keep_S=video.span(90.0, 91.0))
    with pytest.raises(ValueError, match=r"wanted bool \[30\]"):
        read_video(made.vlm, video, keep_S=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="the video has 3 snippets"):
        video.of_snippets(torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"32 wide; .* wants 64"):
        read_video(scene("qwen2_5_omni").vlm, video)
