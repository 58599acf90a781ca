"""Runs on rows: what learns in which stage, from what, and that a stopped run ends as one without a stop."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from longtake.errors import InputError
from longtake.operators.model.checkpoint import load_model
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.model import LongTakeModel
from longtake.operators.training.data_plan import ENCODERS, PARTS, DataPlan, TrainingData
from longtake.operators.training.data_trainer import DataTrainer, write_encoders
from longtake.operators.training.rows import CAPTION_PROMPT, Row, word_tokenizer
from longtake.operators.training.run import Report
from longtake.operators.training.snippet_store import SnippetStore

Configs = Callable[..., ModelConfig]
LENGTHS = (6, 9)
COLOURS = ("red", "green", "blue")


class CountedTokens:
    """Random tokens, and how often they were encoded."""

    def __init__(self, config: ModelConfig) -> None:
        shape = (config.combiner.tokens, config.width)
        generator = torch.Generator().manual_seed(7)
        self.videos = [torch.randn(length, *shape, generator=generator) for length in LENGTHS]
        self.encoded: list[Path] = []

    def __call__(self, checkpoint: Path) -> CountedTokens:
        self.encoded.append(checkpoint)
        return self

    def tokens(self, video: int) -> torch.Tensor:
        return self.videos[video]


def make_data(config: ModelConfig, folder: Path, *, captions: bool = True) -> tuple[TrainingData, CountedTokens]:
    """Two videos whose snippets are filled with one of three brightnesses, and rows that say which."""
    store = SnippetStore(folder / "store", config, "test")
    rng = np.random.default_rng(5)
    told: list[Row] = []
    rows: list[Row] = []
    for video, length in enumerate(LENGTHS):
        shown = rng.integers(0, 3, length)
        records = []
        for colour in shown:
            frames = np.full((*config.video.clip, 3), 20 + 100 * colour, np.uint8)
            sound = rng.standard_normal((config.audio.frames, config.audio.mels)).astype(np.float32)
            records.append((frames, np.ones(len(frames), np.bool_), sound, np.ones(len(sound), np.bool_)))
        store.write(f"v{video}", zip([(n, n + 1) for n in range(length)], records, strict=True))
        for number, colour in enumerate(shown):
            settings = {"video": video, "answer": COLOURS[colour], "span": (number, number + 1)}
            told.append(Row(question=CAPTION_PROMPT, caption=True, **settings))
            rows.append(Row(question="what colour", evidence=((number, number + 1),), **settings))
    source = CountedTokens(config)
    data = TrainingData(
        lengths=LENGTHS,
        snippet_s=0.5,
        names=("v0", "v1"),
        store=store,
        captions=tuple(told) if captions else (),
        rows=(*told, *rows),
        encode=source,
    )
    return data, source


def make_plan(*, frozen: tuple[str, ...] = (), train_encoders: bool = False, epochs: int = 1) -> DataPlan:
    usual = DataPlan()
    return DataPlan(
        seed=2,
        snippets=dataclasses.replace(usual.snippets, epochs=epochs, batch=5, most=3, rate=3e-3),
        questions=dataclasses.replace(usual.questions, epochs=epochs, batch=2, together=4, rate=3e-3),
        frozen=frozen,
        train_encoders=train_encoders,
    )


def make_trainer(config: ModelConfig, plan: DataPlan, data: TrainingData, out: Path) -> DataTrainer:
    torch.manual_seed(plan.seed)
    tokenizer = word_tokenizer([CAPTION_PROMPT, "what colour", *COLOURS], config.text.vocabulary)
    return DataTrainer(LongTakeModel(config), tokenizer, plan, data, out, save_every=2, log_every=1)


def curves(out: Path) -> list[dict[str, str]]:
    with (out / "curves.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The parts with other weights."""
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def copied(trainer: DataTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def quiet(report: Report) -> None:
    pass


def test_a_run_stopped_anywhere_ends_as_one_without_a_stop(world_config: ModelConfig, tmp_path: Path) -> None:
    data, source = make_data(world_config, tmp_path)
    whole = make_trainer(world_config, make_plan(), data, tmp_path / "whole")
    steps = {stage.name: stage.steps for stage in whole.stages}
    # Fifteen captions in stretches of three, five a step; thirty rows of two whole videos, four a stretch, two a step.
    assert steps == {"snippets": 3, "questions": 4}
    whole.run(quiet)
    assert [(r["stage"], r["step"]) for r in curves(tmp_path / "whole")] == [
        *(("snippets", str(n)) for n in range(1, 4)),
        *(("questions", str(n)) for n in range(1, 5)),
    ]
    for stop in (1, 3):
        out = tmp_path / f"stopped-{stop}"
        for _ in range(9):
            run = make_trainer(world_config, make_plan(), data, out)
            run.run(quiet, stop_after=stop)
            if run.stage == "done":
                break
        assert curves(out) == curves(tmp_path / "whole")
        ends = [load_file(run / "model" / "model.safetensors") for run in (out, tmp_path / "whole")]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    loaded = load_model(str(tmp_path / "whole" / "model"))
    assert loaded.config == world_config and loaded.tokenizer.unknown_words("What colour? Red") == ()
    # What the tokens were encoded with has the encoders of the end.
    encoders, end = load_file(source.encoded[0] / "model.safetensors"), loaded.model.state_dict()
    assert not changed(encoders, end) & set(ENCODERS)
    # Other rows, another plan or other weights to start from are another run.
    fewer = dataclasses.replace(data, rows=data.rows[:-1])
    other = make_plan(frozen=("latent_model",))
    for refused in (make_trainer(world_config, make_plan(), fewer, out), make_trainer(world_config, other, data, out)):
        with pytest.raises(InputError, match="holds a run of another plan or config"):
            refused.run(quiet)


def test_each_stage_trains_its_own_parts_and_tokens_are_encoded_once(world_config: ModelConfig, tmp_path: Path) -> None:
    data, source = make_data(world_config, tmp_path)
    run = make_trainer(world_config, make_plan(frozen=("audio_encoder",)), data, tmp_path / "run")
    start = copied(run)
    run.run(quiet, stop_after=3)
    middle = copied(run)
    assert changed(start, middle) == set(PARTS) - {"audio_encoder"} and not source.encoded
    run = make_trainer(world_config, make_plan(frozen=("audio_encoder",)), data, tmp_path / "run")
    run.run(quiet)
    assert changed(middle, copied(run)) == {"latent_model", "text_decoder"}
    assert source.encoded == [tmp_path / "run" / "encoders"]
    # Nothing is known of next features where tokens are all there is.
    assert {bool(r["next_features"]) for r in curves(tmp_path / "run") if r["stage"] == "questions"} == {False}


def test_encoders_may_learn_from_questions_too(world_config: ModelConfig, tmp_path: Path) -> None:
    data, source = make_data(world_config, tmp_path)
    run = make_trainer(world_config, make_plan(train_encoders=True), data, tmp_path / "run")
    run.run(quiet, stop_after=3)
    middle = copied(run)
    run = make_trainer(world_config, make_plan(train_encoders=True), data, tmp_path / "run")
    run.run(quiet)
    assert changed(middle, copied(run)) == set(PARTS) and not source.encoded


def test_frozen_encoders_need_no_decoded_snippets(world_config: ModelConfig, tmp_path: Path) -> None:
    data, source = make_data(world_config, tmp_path)
    data = dataclasses.replace(data, store=None)
    run = make_trainer(world_config, make_plan(frozen=ENCODERS, epochs=12), data, tmp_path / "run")
    start = copied(run)
    run.run(quiet)
    assert changed(start, copied(run)) == {"latent_model", "text_decoder"} and len(source.encoded) == 2
    for stage in ("snippets", "questions"):
        text = [float(r["text"]) for r in curves(tmp_path / "run") if r["stage"] == stage]
        assert sum(text[-4:]) < 0.8 * sum(text[:4]), (stage, text)


def test_the_losses_fall(world_config: ModelConfig, tmp_path: Path) -> None:
    data, _ = make_data(world_config, tmp_path)
    run = make_trainer(world_config, make_plan(train_encoders=True, epochs=16), data, tmp_path / "run")
    run.run(quiet, stop_after=48)
    rows = curves(tmp_path / "run")
    for name in ("text", "next_tokens", "next_features"):
        values = [float(r[name]) for r in rows]
        assert sum(values[-8:]) < 0.8 * sum(values[:8]), (name, values)
    # Only the brightness of the pictures tells: guessing cannot be right more often than the commonest is there.
    assert sum(float(r["exact"]) for r in rows[-8:]) / 8 > 0.6


@pytest.mark.parametrize("combiner", ["ttm", "transformer"])
def test_combiners_with_memory_learn_through_a_stretch(
    small_config: Configs, world_config: ModelConfig, tmp_path: Path, combiner: str
) -> None:
    more = {"scope": "all_so_far"} if combiner == "transformer" else {"timestamp": True}
    config = dataclasses.replace(world_config, combiner=small_config(name=combiner, **more).combiner)
    data, _ = make_data(config, tmp_path, captions=False)
    run = make_trainer(config, make_plan(train_encoders=True), data, tmp_path / "run")
    start = copied(run)
    # No captions: random stretches, and nothing but reconstruction.
    run.run(quiet, stop_after=1)
    after = copied(run)
    assert changed(start, after) == set(PARTS) - {"text_decoder"}
    assert curves(tmp_path / "run")[0]["text"] == ""
    # The first snippet's part in what the second's memory holds: written from the very first step.
    moved = [name for name in start if name.startswith("combiner") and not torch.equal(start[name], after[name])]
    assert len(moved) > 4


def test_a_plan_without_anything_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="stage questions: every part is frozen, nothing is left to train"):
        make_plan(frozen=("latent_model", "text_decoder"))
    with pytest.raises(InputError, match="stage snippets: every part is frozen"):
        make_plan(frozen=PARTS)
    with pytest.raises(InputError, match="both stages have 0 epochs"):
        make_plan(epochs=0)
    # A stage that is left out need not learn.
    whole = dataclasses.replace(DataPlan().questions, epochs=0)
    assert DataPlan(frozen=("latent_model", "text_decoder"), questions=whole).stages() == ("snippets",)


def test_encoders_are_written_again_only_when_they_are_others(world_config: ModelConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LongTakeModel(world_config)
    tokenizer = word_tokenizer(["red"], world_config.text.vocabulary)
    path = write_encoders(tmp_path / "encoders", model, tokenizer)
    first = load_model(str(path)).fingerprint
    with torch.no_grad():
        next(model.text_decoder.parameters()).add_(1)
    assert load_model(str(write_encoders(path, model, tokenizer))).fingerprint == first
    with torch.no_grad():
        next(model.combiner.parameters()).add_(1)
    assert load_model(str(write_encoders(path, model, tokenizer))).fingerprint != first
