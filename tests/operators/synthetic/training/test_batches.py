"""Training data and losses: descriptions and arranged videos are true, masks cover what they say, gradients stop."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longtake.errors import InputError
from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.feature_layout import feature_layout
from longtake.operators.synthetic.pictures import render_pictures
from longtake.operators.synthetic.questions import Question, word_list
from longtake.operators.synthetic.random_model import random_model
from longtake.operators.synthetic.script import COLOURS, SHAPES, SOUNDS, Script, write_script
from longtake.operators.synthetic.training.batches import tensorize
from longtake.operators.synthetic.training.render import render_clips
from longtake.operators.synthetic.training.shapes_task import (
    BUILT_IN_COURSE,
    DESCRIPTION,
    PARTS,
    ScriptPool,
    beat_of,
    describe,
)
from longtake.operators.synthetic.training.snippet_pool import LongDataset, LongStage, RenderedVideos, encode_pool
from longtake.operators.synthetic.training.snippet_stage import SnippetDataset, SnippetHeads, SnippetStage
from longtake.operators.synthetic.training.task import PoolSpec, draw_questions
from longtake.operators.synthetic.worlds import BUILT_IN
from longtake.operators.training.batch_tensors import Questions
from longtake.operators.training.losses import (
    LossWeights,
    _evidence_loss,
    next_feature_loss,
    next_token_loss,
    question_losses,
    reduced,
)

Configs = Callable[..., ModelConfig]
SPEC = PoolSpec(videos=5, beats=32, seed=1)


@pytest.fixture(scope="module")
def pool() -> ScriptPool:
    return ScriptPool(SPEC)


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.from_words(word_list())


def plain_description(script: Script, beat: int) -> dict[str, str]:
    """What happens in a beat, in words, from what overlaps its halves."""

    def only(items: list[str]) -> str:
        assert len(items) <= 1
        return items[0] if items else "none"

    words = {}
    words["colour_heard"] = words["shape_heard"] = "none"
    for start, half in ((beat, "first"), (beat + 0.5, "second")):
        things = [t for t in script.things if t.start_s < start + 0.5 and t.stop_s > start]
        sounds = [s for s in script.sounds if s.name in SOUNDS and s.start_s < start + 0.5 and s.stop_s > start]
        words[f"colour_{half}"] = only([t.colour for t in things])
        words[f"shape_{half}"] = only([t.shape for t in things])
        words[f"sound_{half}"] = only([s.name for s in sounds])
        if sounds:
            words["colour_heard"], words["shape_heard"] = words[f"colour_{half}"], words[f"shape_{half}"]
    words["flash"] = only(["yes" for f in script.flashes if beat <= f.start_s < beat + 1])
    return words


@settings(max_examples=40)
@given(st.builds(write_script, st.integers(0, 2**62), st.integers(1, 24)))
def test_descriptions_are_what_happens(script: Script) -> None:
    values = {"colour": ["none", *COLOURS], "shape": ["none", *SHAPES], "sound": ["none", *SOUNDS]}
    table = describe(script)
    assert table.shape == (script.beats, len(PARTS))
    for beat, row in enumerate(table.tolist()):
        found = {
            part: values.get(part.split("_")[0], ["none", "yes"])[value]
            for part, value in zip(DESCRIPTION, row, strict=True)
        }
        assert found == plain_description(script, beat)


def test_parts_have_as_many_values_as_they_need() -> None:
    table = torch.cat([describe(write_script(seed, 48)) for seed in range(40)])
    for column, (part, count) in enumerate(DESCRIPTION.items()):
        assert sorted(set(table[:, column].tolist())) == list(range(count)), part


# Pools and arrangements


def test_a_pools_beats_are_its_videos_beats_in_order(pool: ScriptPool) -> None:
    scripts = SPEC.scripts(BUILT_IN)
    assert len(pool.beats) == 5 * 32
    assert [describe(script)[beat].tolist() for script in scripts for beat in range(32)] == [
        describe(beat)[0].tolist() for beat in pool.beats
    ]
    # Each beat is in one class, by what it holds.
    classes = [*pool.sounding.values(), pool.flashing, pool.other]
    assert sorted(number for group in classes for number in group) == list(range(5 * 32))
    for name, numbers in pool.sounding.items():
        assert all([s.name for s in pool.beats[n].sounds if s.name in SOUNDS] == [name] for n in numbers)
    assert all(pool.beats[n].flashes for n in pool.flashing)
    assert not any(s.name in SOUNDS for n in [*pool.flashing, *pool.other] for s in pool.beats[n].sounds)


@settings(max_examples=60)
@given(st.integers(1, 64), st.integers(0, 2**32))
def test_an_arrangement_obeys_the_worlds_rules(pool: ScriptPool, beats: int, seed: int) -> None:
    chosen = pool.arrange(random.Random(seed), beats)
    assert len(chosen) == beats
    script = pool.script(chosen)
    times = Counter(s.name for s in script.sounds if s.name in SOUNDS)
    assert max(times.values(), default=0) <= 4
    assert times.total() <= max(1, 0.6 * beats + 0.5)
    assert len(script.flashes) <= 1
    # Spliced, every beat still says what it said alone.
    assert describe(script).tolist() == [describe(pool.beats[number])[0].tolist() for number in chosen]
    assert chosen == pool.arrange(random.Random(seed), beats)


def test_splicing_keeps_every_event_at_its_shifted_time(pool: ScriptPool) -> None:
    chosen = pool.arrange(random.Random(4), 40)
    script = pool.script(chosen)
    assert script.beats == 40
    for name in ("things", "sounds", "flashes"):
        parts = [(place, event) for place, number in enumerate(chosen) for event in getattr(pool.beats[number], name)]
        assert len(getattr(script, name)) == len(parts) > 0
        for (place, event), spliced in zip(parts, getattr(script, name), strict=True):
            assert (spliced.start_s, spliced.stop_s) == (event.start_s + place, event.stop_s + place)
            assert {**vars(spliced), "start_s": event.start_s, "stop_s": event.stop_s} == vars(event)


def test_a_pool_without_every_kind_of_event_is_refused() -> None:
    with pytest.raises(InputError, match="a pool of 3 beats lacks some kinds of event; take more videos"):
        ScriptPool(PoolSpec(videos=1, beats=3, seed=0))


def test_encoded_beats_are_in_the_pools_order(world_config: ModelConfig) -> None:
    loaded = random_model(world_config, seed=1)
    spec = PoolSpec(videos=2, beats=5, seed=2)
    videos = RenderedVideos(world_config, spec)

    def encode(clips):  # type: ignore[no-untyped-def]
        return loaded.model.features(clips.frames_SFHWC, clips.frame_mask_SF, clips.mel_SAM, clips.mel_mask_SA)

    encoded = encode_pool(loaded.model, encode, [videos[0], videos[1]])
    assert encoded.tokens_PmD.shape == (10, 4, 24)
    assert (encoded.video_PR.shape, encoded.audio_PR.shape) == ((10, 8), (10, 4))
    # Beat 3 of the second video alone, encoded from the same rendering.
    clips = videos[1]
    for value in vars(clips).values():
        assert len(value) == 5
    with torch.no_grad():
        one = loaded.model.features(*(value[3:4] for value in vars(clips).values()))
        tokens, _ = loaded.model.combiner(one, loaded.model.combiner.initial_memory(1), torch.zeros(1))
    torch.testing.assert_close(encoded.tokens_PmD[8], tokens[0], rtol=0, atol=1e-5)
    assert (encoded.tokens_PmD[8] - encoded.tokens_PmD[3]).abs().max() > 1e-3
    assert describe(beat_of(spec.scripts(BUILT_IN)[1], 3)).tolist() == describe(spec.scripts(BUILT_IN)[1])[3:4].tolist()


def test_a_combiner_with_memory_cannot_be_pooled(small_config: Configs) -> None:
    model = random_model(small_config(name="ttm")).model
    with pytest.raises(ValueError, match="the ttm combiner carries memory"):
        encode_pool(model, lambda clips: pytest.fail("nothing should be encoded"), [])


# Clips


def test_clips_without_wear_are_the_worlds_pictures_and_sound(world_config: ModelConfig) -> None:
    scripts = [write_script(1, 3), write_script(2, 2)]
    clips = render_clips(scripts, world_config, None)
    video, audio = world_config.video, world_config.audio
    assert clips.frames_SFHWC.shape == (5, video.frames, video.height, video.width, 3)
    assert clips.mel_SAM.shape == (5, audio.frames, audio.mels)
    assert clips.frame_mask_SF.all() and clips.mel_mask_SA.all()
    times = [1 + (n + 0.5) / video.frames for n in range(video.frames)]
    assert torch.equal(clips.frames_SFHWC[4], render_pictures(scripts[1], times, video.height, video.width))
    # A beat with a named sound is louder in the half that it sounds in.
    script = write_script(3, 12)
    mel = render_clips([script], world_config, None).mel_SAM
    heard = [sound for sound in script.sounds if sound.name in SOUNDS]
    assert heard
    for sound in heard:
        beat, half = int(sound.start_s), int(sound.start_s % 1 >= 0.5)
        halves = mel[beat].view(2, audio.frames // 2, audio.mels)[:, 1:-1].mean((1, 2))
        assert halves[half] > halves[1 - half] + 0.1


def test_wear_is_random_and_repeatable(world_config: ModelConfig) -> None:
    scripts = [write_script(1, 2)]
    plain = render_clips(scripts, world_config, None)
    silent = padded = worn = 0
    for seed in range(40):
        clips = render_clips(scripts, world_config, np.random.default_rng(seed))
        if seed < 5:
            again = render_clips(scripts, world_config, np.random.default_rng(seed))
            assert all(torch.equal(a, b) for a, b in zip(vars(clips).values(), vars(again).values(), strict=True))
        assert clips.frames_SFHWC.shape == plain.frames_SFHWC.shape and clips.frame_mask_SF.all()
        silent += not clips.mel_mask_SA.any()
        assert clips.mel_mask_SA.any() or not clips.mel_SAM.any()
        rows = clips.frames_SFHWC.amax((0, 1, 3, 4))
        columns = clips.frames_SFHWC.amax((0, 1, 2, 4))
        padded += bool(rows[0] == 0 and rows[-1] == 0) or bool(columns[0] == 0 and columns[-1] == 0)
        worn += not torch.equal(clips.frames_SFHWC, plain.frames_SFHWC)
    assert 1 <= silent <= 8 and 3 <= padded <= 25 and worn > 25


# Questions as tensors


def test_tensorized_questions_cover_prompt_answer_span_and_evidence(tokenizer: ChatTokenizer) -> None:
    asked = [
        Question(kind="count", text="how many times did the horn sound", answer="2", moments=((1.0, 1.5), (4.5, 5.0))),
        Question(
            kind="bind",
            text="what was on screen while the bell sounded",
            answer="red moon",
            moments=((3.5, 4.0),),
            from_s=2.0,
            to_s=5.0,
        ),
        Question(kind="needle", text="what was shown when the border flashed", answer="nothing", moments=()),
        Question(kind="exists", text="was a pink star shown", answer="yes", moments=((0.0, 3.0),)),
    ]
    made = tensorize(asked, 6, tokenizer)
    for row, question in enumerate(asked):
        prompt, answer = tokenizer.prompt(question.text), tokenizer.answer(question.answer)
        ids = made.ids_QL[row].tolist()
        assert ids == prompt + answer + [tokenizer.pad] * (made.ids_QL.shape[1] - len(prompt + answer))
        # The loss is on the answer and its two markers; evidence is wanted at its words alone.
        assert made.ids_QL[row][made.answer_QL[row]].tolist() == answer
        assert made.ids_QL[row][made.content_QL[row]].tolist() == tokenizer.text(question.answer)
    assert made.evidence_QT.int().tolist() == [
        [0, 1, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
    ]
    assert made.span_QT.int().tolist() == [[1] * 6, [0, 0, 1, 1, 1, 0], [1] * 6, [1] * 6]


def test_drawn_questions_have_the_asked_number_of_captions(tokenizer: ChatTokenizer) -> None:
    for seed in range(20):
        drawn = draw_questions(random.Random(seed), BUILT_IN_COURSE, write_script(seed, 6), 10, 3, 0.5)
        assert [q.kind == "caption" for q in drawn[:3]] == [True] * 3
        assert len(drawn) == 10
        made = tensorize(drawn, 6, tokenizer)
        # Evidence lies inside the span, and none of the text is unknown.
        assert not (made.evidence_QT & ~made.span_QT).any()
        assert not (made.ids_QL == tokenizer.unknown).any()


def test_long_batches_grow_and_depend_on_the_step_alone(pool: ScriptPool, tokenizer: ChatTokenizer) -> None:
    stage = LongStage(videos=2, beats=(4, 40), questions=3, captions=1, spans=0.3)
    data = LongDataset(pool, BUILT_IN_COURSE, tokenizer, stage, 200, seed=5)
    assert len(data) == 200
    lengths = [data[step].chosen_VT.shape[1] for step in range(0, 200, 5)]
    assert max(lengths[:4]) <= 12 and max(lengths[20:]) == 40 and min(lengths) >= 4
    assert min(lengths[20:]) < 20
    one, again = data[77], data[77]
    chosen, asked = one.chosen_VT, one.questions
    assert torch.equal(chosen, again.chosen_VT) and torch.equal(asked.ids_QL, again.questions.ids_QL)
    assert asked.ids_QL.shape[0] == 6 and asked.span_QT.shape == (6, chosen.shape[1])
    assert torch.equal(one.recalled_VTP, again.recalled_VTP) and one.recalled_VTP.shape == (*chosen.shape, 1)
    # Another seed is other data.
    other = LongDataset(pool, BUILT_IN_COURSE, tokenizer, stage, 200, seed=6)[77].chosen_VT
    assert other.shape != chosen.shape or not torch.equal(other, chosen)


def test_what_is_recalled_of_a_beat_is_how_often_its_sound_was_heard(pool: ScriptPool) -> None:
    rng = random.Random(3)
    again = 0
    for _ in range(20):
        script = pool.script(pool.arrange(rng, 30))
        heard: list[str] = []
        for beat, (times,) in enumerate(BUILT_IN_COURSE.recall(script).tolist()):
            named = [s.name for s in script.sounds if s.name in SOUNDS and beat <= s.start_s < beat + 1]
            heard += named
            assert times == (heard.count(named[-1]) if named else 0)
            assert times < BUILT_IN_COURSE.recalls[0].values
            again += times > 1
    assert again > 10


def test_in_a_share_of_the_batches_snippets_stand_at_the_numbers_of_long_videos(
    pool: ScriptPool, tokenizer: ChatTokenizer
) -> None:
    stage = LongStage(videos=1, beats=(4, 40), questions=3, captions=0, spans=0.0, spread=0.5, reach=256)
    data = LongDataset(pool, BUILT_IN_COURSE, tokenizer, stage, 200, seed=5)
    spread = 0
    for step in range(0, 200, 4):
        chosen, positions = data[step].chosen_VT, data[step].positions_T
        if positions is not None:
            spread += 1
            assert positions.shape == (chosen.shape[1],) and (positions.diff() > 0).all()
            assert positions.min() >= 0 and positions.max() < 256
    assert 12 < spread < 38


def test_the_losses_of_true_positions_are_those_of_none(world_config: ModelConfig) -> None:
    model = random_model(world_config).model
    tokens = torch.randn(2, 5, 4, 24)
    span = torch.ones(2, 5, dtype=torch.bool)
    plain = model.latent_model(tokens)
    torch.testing.assert_close(model.latent_model(tokens, positions_T=torch.arange(5)), plain, rtol=0, atol=0)
    assert (model.latent_model(tokens, positions_T=torch.arange(5) * 3) - plain).abs().max() > 1e-3
    decoder = model.text_decoder
    ids = torch.tensor([[5, 6, 7]] * 2)
    (a, _), (b, _), (c, _) = (
        decoder(ids, decoder.context(plain, span, positions))
        for positions in (None, torch.arange(5), torch.arange(5) * 3)
    )
    assert torch.equal(a, b) and (a - c).abs().max() > 1e-6


def test_a_clock_tells_when_what_is_looked_at_was(world_config: ModelConfig) -> None:
    with_clock = dataclasses.replace(world_config, text=dataclasses.replace(world_config.text, clock=True))
    assert with_clock.fingerprint() != world_config.fingerprint()
    assert '"clock"' not in world_config.to_json() and ModelConfig.from_json(with_clock.to_json()) == with_clock
    latents = torch.randn(1, 6, 4, 24)
    span = torch.ones(1, 6, dtype=torch.bool)
    for config, differs in ((world_config, False), (with_clock, True)):
        decoder = random_model(config).model.text_decoder
        layer = decoder.layers[0].cross_attention
        (_, first), (_, later) = (layer.context(latents, torch.arange(6) + start) for start in (0, 40))
        assert torch.equal(first, later) != differs
        assert torch.equal(first[:, :, 0], later[:, :, 0])
        ids = torch.tensor([[5, 6, 7]])
        assert decoder(ids, decoder.context(latents, span))[0].isfinite().all()


def test_snippet_batches_come_with_their_description(world_config: ModelConfig) -> None:
    data = SnippetDataset(world_config, BUILT_IN_COURSE, SnippetStage(videos=2, beats=3), 10, seed=4)
    one, again = data[7], data[7]
    clips, truth = one.clips, one.truth_SP
    assert truth.shape == (6, len(PARTS)) and clips.frames_SFHWC.shape[0] == 6
    assert torch.equal(truth, again.truth_SP) and torch.equal(clips.frames_SFHWC, again.clips.frames_SFHWC)
    assert not torch.equal(data[8].truth_SP, truth)


# Losses


def test_the_target_of_the_next_tokens_has_no_gradient(world_config: ModelConfig) -> None:
    model = random_model(world_config).model
    latents = torch.randn(2, 5, 4, 24, requires_grad=True)
    tokens = torch.randn(2, 5, 4, 24, requires_grad=True)
    next_token_loss(model, latents, tokens).backward()
    assert tokens.grad is None
    assert latents.grad is not None
    # The last snippet predicts nothing that is known.
    assert latents.grad[:, -1].abs().max() == 0 and latents.grad[:, :-1].abs().amax(-1).min() > 0


def test_a_right_prediction_costs_nothing(world_config: ModelConfig) -> None:
    model = random_model(world_config).model
    head = model.latent_model.next_tokens
    with torch.no_grad():
        head.weight.copy_(torch.eye(24))
        head.bias.zero_()
    tokens = torch.randn(2, 6, 4, 24)
    ahead = tokens.roll(-1, dims=1)
    with torch.no_grad():
        assert float(next_token_loss(model, ahead * 3, tokens)) == pytest.approx(0, abs=1e-6)
        assert float(next_token_loss(model, -ahead, tokens)) == pytest.approx(2, abs=1e-6)
        assert float(next_token_loss(model, tokens[:, :1], tokens[:, :1])) == 0


def test_the_next_features_are_compared_with_the_next_snippets(world_config: ModelConfig) -> None:
    model = random_model(world_config).model
    latents = torch.randn(2, 5, 4, 24)
    video_head, audio_head = model.latent_model.next_video, model.latent_model.next_audio
    assert video_head is not None and audio_head is not None
    with torch.no_grad():
        video, audio = video_head(latents.mean(2)), audio_head(latents.mean(2))
        # Shifted so that snippet t's prediction stands at t + 1: nothing is left to pay.
        assert float(next_feature_loss(model, latents, video.roll(1, 1), audio.roll(1, 1))) == pytest.approx(
            0, abs=1e-9
        )
        off = next_feature_loss(model, latents, video.roll(1, 1) + 2, audio.roll(1, 1) + 1)
        assert float(off) == pytest.approx(4 + 1, rel=1e-5)
        assert float(next_feature_loss(model, latents[:, :1], video[:, :1], audio[:, :1])) == 0


def evidence_of(attended: int, wanted: list[int], span: list[int] | None = None) -> float:
    """The loss when all attention is on one of 4 snippets (-1: nowhere) and `wanted` ones are evidence."""
    # A row for each of the answer's two tokens.
    mass = torch.zeros(2, 1 + 4 * 2)
    if attended < 0:
        mass[..., 0] = 1
    else:
        mass[..., 1 + 2 * attended : 3 + 2 * attended] = 0.5
    evidence = torch.zeros(1, 4, dtype=torch.bool)
    evidence[0, wanted] = True
    allowed = torch.zeros(1, 4, dtype=torch.bool)
    allowed[0, span if span is not None else [0, 1, 2, 3]] = True
    content = torch.tensor([[False, False, True, True]])
    questions = Questions(
        ids_QL=torch.zeros(1, 4, dtype=torch.int64),
        answer_QL=content,
        span_QT=allowed,
        evidence_QT=evidence,
        content_QL=content,
    )
    return float(_evidence_loss(mass, questions, 2))


def test_evidence_costs_nothing_where_attention_sits_on_it_and_much_elsewhere() -> None:
    nothing, much = pytest.approx(0, abs=1e-5), pytest.approx(-math.log(1e-6), rel=1e-3)
    assert evidence_of(2, [2]) == nothing
    assert evidence_of(2, [1, 2]) == nothing
    assert evidence_of(1, [2]) == much
    assert evidence_of(-1, [2]) == much
    # Nothing happened: "nowhere" is the place to look at. So too when it happened outside the span.
    assert evidence_of(-1, []) == nothing
    assert evidence_of(1, []) == much
    assert evidence_of(-1, [2], span=[0, 1]) == nothing
    assert evidence_of(2, [2, 3], span=[0, 1, 2]) == nothing


def test_evidence_is_learnt_where_it_is(world_config: ModelConfig, tokenizer: ChatTokenizer) -> None:
    model = random_model(world_config, seed=3).model.train()
    torch.manual_seed(0)
    tokens = torch.randn(1, 6, 4, 24)
    asked = [
        Question(
            kind="bind", text="what was on screen while the horn sounded", answer="red moon", moments=((4.0, 4.5),)
        ),
        Question(kind="bind", text="what was on screen while the bell sounded", answer="nothing", moments=()),
    ]
    questions = tensorize(asked, 6, tokenizer)
    weights = LossWeights(text=0.0, evidence=1.0, next_tokens=0.0, next_features=0.0)
    features = (torch.zeros(1, 6, 8), torch.zeros(1, 6, 4))
    optimizer = torch.optim.Adam([*model.latent_model.parameters(), *model.text_decoder.parameters()], lr=1e-2)
    losses = []
    for _ in range(40):
        step = question_losses(model, tokens, questions, weights, None, features)
        optimizer.zero_grad()
        step.total.backward()
        optimizer.step()
        losses.append(step.parts["evidence"])
    assert losses[0] > 0.8 and losses[-1] < 0.2 * losses[0]
    # The mass is really there: read it off the decoder, at the words of each answer.
    model.eval()
    with torch.no_grad():
        context = model.text_decoder.context(model.latent_model(tokens), torch.ones(1, 6, dtype=torch.bool))
        _, mass = model.text_decoder(questions.ids_QL[:, :-1], context, want_weights=True)
    assert mass is not None
    at = questions.content_QL[:, 1:]
    assert mass[0][at[0]][:, 1 + 4 * 4 : 1 + 5 * 4].sum(-1).min() > 0.5
    assert mass[1][at[1]][:, 0].min() > 0.5


def test_the_total_is_the_weighted_sum_and_exact_counts_whole_answers(
    world_config: ModelConfig, tokenizer: ChatTokenizer
) -> None:
    model = random_model(world_config, seed=3).model
    tokens = torch.randn(1, 4, 4, 24)
    question = Question(kind="exists", text="did the horn sound", answer="yes", moments=((1.0, 1.5),))
    questions = tensorize([question, question], 4, tokenizer)
    weights = LossWeights(text=1.5, evidence=0.5, next_tokens=0.25, next_features=2.0)
    features = (torch.randn(1, 4, 8), torch.randn(1, 4, 4))
    with torch.no_grad():
        losses = question_losses(model, tokens, questions, weights, None, features)
        names = ("text", "evidence", "next_tokens", "next_features")
        wanted = sum(getattr(weights, name) * losses.parts[name] for name in names)
        assert float(losses.total) == pytest.approx(wanted, rel=1e-5)
        # The text loss by hand, token by token.
        context = model.text_decoder.context(model.latent_model(tokens), torch.ones(1, 4, dtype=torch.bool))
        prompt, answer = tokenizer.prompt(question.text), tokenizer.answer("yes")
        logits, _ = model.text_decoder(torch.tensor([prompt + answer[:-1]]), context)
        log = logits[0].log_softmax(-1)
        by_hand = -sum(float(log[len(prompt) - 1 + n, word]) for n, word in enumerate(answer)) / len(answer)
        assert losses.parts["text"] == pytest.approx(by_hand, rel=1e-4)
        assert losses.parts["exact"] == 0

    # Exact is the share of questions with every token of the answer right: of these two, one.
    asked = [question, Question(kind="exists", text="did the horn sound", answer="no", moments=())]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        losses = question_losses(model, tokens, tensorize([asked[0]], 4, tokenizer), LossWeights(), None, features)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    with torch.no_grad():
        both = question_losses(model, tokens, tensorize(asked, 4, tokenizer), LossWeights(), None, features)
    assert both.parts["exact"] == 0.5


def test_reduced_features_are_masked_means_of_unit_spread() -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 7, 24)
    mask = torch.rand(5, 7) < 0.6
    mask[0] = False
    mask[1:, 0] = True
    small = reduced(features, mask, 6)
    assert small.shape == (5, 6)
    assert small[0].abs().max() == 0
    torch.testing.assert_close(small[1:].mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(small[1:].std(1, correction=0), torch.ones(4), rtol=0, atol=1e-3)
    # What is masked does not matter; what is not does.
    hidden = torch.where(mask[..., None], features, torch.randn(5, 7, 24))
    torch.testing.assert_close(reduced(hidden, mask, 6), small)
    by_hand = torch.stack([features[3][mask[3]].mean(0)[4 * k : 4 * k + 4].mean() for k in range(6)])
    torch.testing.assert_close(small[3], (by_hand - by_hand.mean()) / (by_hand.var(correction=0) + 1e-5).sqrt())
    assert reduced(features, mask, 0).shape == (5, 0)


def test_what_was_heard_is_not_asked_of_a_silent_snippet(world_config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = random_model(world_config).model
    heads = SnippetHeads(world_config, feature_layout(world_config), PARTS)
    batch = SnippetDataset(world_config, BUILT_IN_COURSE, SnippetStage(videos=2, beats=4), 1, seed=0)[0]
    clips, truth = batch.clips, batch.truth_SP
    other = truth.clone()
    columns = [n for n, part in enumerate(PARTS) if part.name.startswith("sound") or part.name.endswith("heard")]
    other[:4, columns] = 1
    sound = torch.tensor([False] * 4 + [True] * 4)
    with torch.no_grad():
        features = model.features(*vars(clips).values())
        tokens, _ = model.combiner(features, model.combiner.initial_memory(8), torch.zeros(8))
        for a, b in zip(
            heads(features, tokens, truth, sound)[:2], heads(features, tokens, other, sound)[:2], strict=True
        ):
            assert float(a) == float(b)
        everywhere = torch.ones(8, dtype=torch.bool)
        assert heads(features, tokens, truth, everywhere)[1] != heads(features, tokens, other, everywhere)[1]
