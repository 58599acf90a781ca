"""Rows, their words, their batches and their losses; and the store of decoded snippets."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.errors import InputError
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.model import LongTakeModel
from longtake.operators.training.losses import LossWeights, question_losses, reconstruction_losses
from longtake.operators.training.row_batches import RandomStretches, RowBatches, Stretch, tensorize_rows
from longtake.operators.training.rows import CAPTION_PROMPT, Row, unknown_words, word_tokenizer
from longtake.operators.training.snippet_store import SnippetStore, StoredVideo, join_clips

Configs = Callable[..., ModelConfig]
WEIGHTS = LossWeights(text=1.0, evidence=0.3, next_tokens=0.1, next_features=0.1)


def row(video: int, first: int, stop: int, **more: object) -> Row:
    settings: dict[str, object] = {"question": "what was it", "answer": "a red star"} | more
    return Row(video=video, span=(first, stop), **settings)  # type: ignore[arg-type]


def test_a_row_must_have_words_and_snippets() -> None:
    with pytest.raises(ValueError, match=r"snippets \[3, 3\) of video 0"):
        row(0, 3, 3)
    with pytest.raises(ValueError, match="a row needs a question and an answer"):
        row(0, 0, 1, answer=" ")
    with pytest.raises(ValueError, match=r"snippets \[5, 4\)"):
        row(0, 0, 9, evidence=((5, 4),))


def test_the_commonest_words_become_tokens_and_rows_tell_what_is_missing() -> None:
    texts = ["Was a DOG there?", "a dog", "a cat.", "a zebra"]
    tokenizer = word_tokenizer(texts, room=8 + 3)
    assert len(tokenizer) == 11
    # Of the words that are there once, the alphabet chooses.
    assert [word for word in ("a", "dog", "cat", "was") if tokenizer.unknown_words(word)] == ["was"]
    rows = [row(0, 0, 1, question="a zebra", answer="dog"), row(0, 0, 1, question="a dog?", answer="Cat")]
    assert unknown_words(rows, tokenizer) == (1, ["zebra"])
    with pytest.raises(ValueError, match="a vocabulary of 8 has no room"):
        word_tokenizer(texts, room=8)


def test_numbers_are_spelt_where_there_is_room_for_digits() -> None:
    texts = ["When did it start?", "After 47 seconds."]
    spelling = word_tokenizer(texts, room=80)
    assert spelling.unknown_words("after 120 seconds") == () and spelling.unknown_words("later") == ("later",)
    assert spelling.decode(spelling.answer("after 120 seconds")) == "after 120 seconds"
    assert word_tokenizer(texts, room=30).unknown_words("after 120 seconds, not 47") == ("120", "not")


@settings(max_examples=60)
@given(st.data())
def test_an_epoch_sees_each_row_once_with_its_span_in_view(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    rows = []
    for number in range(data.draw(st.integers(1, 25))):
        video = data.draw(st.integers(0, len(lengths) - 1))
        first = data.draw(st.integers(0, lengths[video] - 1))
        rows.append(row(video, first, data.draw(st.integers(first + 1, lengths[video])), answer=f"answer {number}"))
    most, together = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    batch = data.draw(st.integers(1, 4))
    batches = RowBatches(rows, lengths, most=most, batch=batch, together=together, epochs=2, seed=3, name="x")
    assert batches.steps == 2 * batches.a_epoch
    for epoch in range(2):
        drawn = [one for step in range(batches.a_epoch) for one in batches[epoch * batches.a_epoch + step]]
        assert Counter(r.answer for one in drawn for r in one.rows) == Counter(r.answer for r in rows)
        for one in drawn:
            assert 0 <= one.first < one.stop <= lengths[one.video]
            assert one.snippets == min(most, lengths[one.video]) and 1 <= len(one.rows) <= together
            for asked in one.rows:
                inside = max(one.first, asked.span[0]), min(one.stop, asked.span[1])
                assert asked.video == one.video and inside[1] - inside[0] == min(asked.snippets, one.snippets)
    # A step depends on its number alone.
    again = RowBatches(rows, lengths, most=most, batch=batch, together=together, epochs=2, seed=3, name="x")
    assert again[batches.steps - 1] == batches[batches.steps - 1]
    with pytest.raises(IndexError):
        batches[batches.steps]


def test_random_stretches_cover_videos_by_their_length() -> None:
    stretches = RandomStretches([2, 40], most=4, batch=8, epochs=60, seed=0, name="x")
    drawn = [one for step in range(stretches.steps) for one in stretches[step]]
    assert stretches.a_epoch == 2 and all(one.rows == () for one in drawn)
    assert {one.snippets for one in drawn if one.video == 0} == {2}
    assert {one.first for one in drawn if one.video == 1} == set(range(37))


def test_rows_become_tensors_over_their_stretch() -> None:
    tokenizer = ChatTokenizer.from_words(["what", "was", "it", "a", "red"])
    # The second stretch begins at snippet 5 and has one row, so that it is filled up.
    first = Stretch(video=0, first=0, stop=3, rows=(row(0, 0, 3), row(0, 1, 2, evidence=((1, 2),))))
    second = Stretch(video=1, first=5, stop=7, rows=(row(1, 4, 6, evidence=()),))
    made = tensorize_rows([first, second], tokenizer)
    assert made.there_VT.tolist() == [[True, True, True], [True, True, False]]
    questions = made.questions
    assert questions is not None and made.asked_Q is not None
    assert made.asked_Q.tolist() == [True, True, True, False]
    assert questions.span_QT.tolist() == [[True] * 3, [False, True, False], [True, False, False], [True, False, False]]
    assert questions.evidence_QT.tolist() == [[False] * 3, [False, True, False], [False] * 3, [False] * 3]
    prompt = len(tokenizer.prompt("what was it"))
    # "a red star" and two markers; "star" is not known and not learned.
    learned = [True, True, False, True, True]
    assert questions.answer_QL[:3, prompt:].tolist() == [learned] * 3 and not questions.answer_QL[:, :prompt].any()
    assert not questions.answer_QL[3].any() and not questions.content_QL[3].any()
    # Where evidence is not known, nothing of it is learned; "none" is known of the third row.
    assert questions.content_QL[:3, prompt:].sum(1).tolist() == [0, 2, 2]
    with pytest.raises(ValueError, match="some stretches have rows and others none"):
        tensorize_rows([first, Stretch(video=0, first=0, stop=1, rows=())], tokenizer)


def test_what_only_fills_up_changes_no_loss(world_config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = LongTakeModel(world_config)
    tokenizer = ChatTokenizer.from_words(["what", "was", "it", "a", "red", "star", "blue"])
    latent = world_config.latent
    lengths, wide = (4, 2), (world_config.combiner.tokens, world_config.width)
    tokens = [torch.randn(length, *wide) for length in lengths]
    features = [(torch.randn(n, latent.reconstruct_video), torch.randn(n, latent.reconstruct_audio)) for n in lengths]

    def losses(which: list[int], fill: float) -> dict[str, float]:
        rows = [
            (row(0, 0, 4, evidence=((1, 2),)), row(0, 0, 2, answer="blue")),
            (row(1, 0, 2, answer="a blue star", evidence=((0, 2),)),),
        ]
        stretches = [Stretch(video=n, first=0, stop=lengths[n], rows=rows[n]) for n in which]
        batch = tensorize_rows(stretches, tokenizer)
        assert batch.questions is not None
        longest = batch.there_VT.shape[1]

        def filled(parts: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(
                [torch.cat([p, torch.full((longest - len(p), *p.shape[1:]), fill)]) for p in (parts[n] for n in which)]
            )

        following = filled([pair[0] for pair in features]), filled([pair[1] for pair in features])
        made = question_losses(
            model, filled(tokens), batch.questions, WEIGHTS, None, following, None, batch.there_VT, batch.asked_Q
        )
        alone = reconstruction_losses(model, filled(tokens), WEIGHTS, None, following, batch.there_VT)
        assert alone.parts == {name: made.parts[name] for name in ("next_tokens", "next_features")}
        return made.parts

    both = losses([0, 1], 0.0)
    assert losses([0, 1], 7.0) == pytest.approx(both, rel=1e-5)
    first, second = losses([0], 0.0), losses([1], 0.0)
    # Means over answer tokens (5 and 3, and 5), over evidence words (3 and 3), over predicted snippets (3 and 1).
    assert both["text"] == pytest.approx((8 * first["text"] + 5 * second["text"]) / 13, rel=1e-4)
    assert both["evidence"] == pytest.approx((first["evidence"] + second["evidence"]) / 2, rel=1e-4)
    for name in ("next_tokens", "next_features"):
        assert both[name] == pytest.approx((3 * first[name] + second[name]) / 4, rel=1e-4)


def test_evidence_is_not_learned_where_none_is_known(world_config: ModelConfig) -> None:
    model = LongTakeModel(world_config)
    tokenizer = ChatTokenizer.from_words(["what", "was", "it", "a", "red", "star"])
    batch = tensorize_rows([Stretch(video=0, first=0, stop=3, rows=(row(0, 0, 3),))], tokenizer)
    assert batch.questions is not None
    tokens_VTmD = torch.randn(1, 3, world_config.combiner.tokens, world_config.width)
    made = question_losses(
        model, tokens_VTmD, batch.questions, WEIGHTS, None, None, None, batch.there_VT, batch.asked_Q
    )
    assert made.parts["evidence"] == 0.0 and "next_features" not in made.parts
    assert bool(torch.isfinite(made.total))


def record(config: ModelConfig, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    video, audio = config.video, config.audio
    return (
        rng.integers(0, 255, (*video.clip, 3), dtype=np.uint8),
        rng.random(video.frames) < 0.8,
        rng.standard_normal((audio.frames, audio.mels)).astype(np.float32),
        rng.random(audio.frames) < 0.8,
    )


def test_the_store_gives_back_what_was_put_in(small_config: Configs, tmp_path: Path) -> None:
    config, rng = small_config(), np.random.default_rng(0)
    store = SnippetStore(tmp_path / "store", config, "rate=8.0")
    records = [record(config, rng) for _ in range(5)]
    windows = [(n * 10, n * 10 + 10) for n in range(5)]
    assert store.find("a") is None
    stored = store.write("a", zip(windows, records, strict=True))  # type: ignore[arg-type]
    assert stored == StoredVideo(windows=tuple(windows)) == store.find("a")
    clips = store.read("a", np.array([4, 1, 1]))
    for part, name in enumerate(("frames_SFHWC", "frame_mask_SF", "mel_SAM", "mel_mask_SA")):
        wanted = np.stack([records[n][part] for n in (4, 1, 1)])
        assert np.array_equal(getattr(clips, name).numpy(), wanted)
    both = join_clips([clips, store.read("a", np.array([0]))])
    assert len(both.frames_SFHWC) == 4 and torch.equal(both.mel_SAM[:3], clips.mel_SAM)
    # Another sampling, or another shape, has none of it; a failure is known, and holds no room.
    assert SnippetStore(tmp_path / "store", config, "rate=4.0").find("a") is None
    other = dataclasses.replace(config, video=dataclasses.replace(config.video, frames=8))
    assert SnippetStore(tmp_path / "store", other, "rate=8.0").find("a") is None
    store.note("a", StoredVideo(windows=(), error="it is broken"))
    assert store.find("a") == StoredVideo(windows=(), error="it is broken")
    assert not list((tmp_path / "store").glob("*.bin"))


def test_a_video_cut_off_in_writing_is_not_there(small_config: Configs, tmp_path: Path) -> None:
    config, rng = small_config(), np.random.default_rng(0)
    store = SnippetStore(tmp_path, config, "rate=8.0")

    def snippets():  # type: ignore[no-untyped-def]
        yield (0, 10), record(config, rng)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        store.write("a", snippets())
    assert store.find("a") is None


def test_a_disk_without_room_is_told_before_anything_is_decoded(small_config: Configs, tmp_path: Path) -> None:
    store = SnippetStore(tmp_path / "store", small_config(), "rate=8.0")
    store.require_room(10)
    with pytest.raises(InputError, match=r"the decoded snippets take [\d.]+ GiB more, and [\d.]+ GiB are free"):
        store.require_room(10**12)


def test_the_captions_words_are_the_made_worlds() -> None:
    from longtake.operators.synthetic.questions import word_list

    assert ChatTokenizer.from_words(word_list()).unknown_words(CAPTION_PROMPT) == ()
