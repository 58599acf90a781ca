"""Training on frozen encoders: each beat is seen once, a stopped run goes on to the same end, and the model answers."""

from __future__ import annotations

import csv
import json
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers")

from longtake.errors import CheckpointError, InputError
from longtake.operators.model.answering import Answerer
from longtake.operators.model.checkpoint import load_model
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.encoders import PictureEncoder, SoundEncoder
from longtake.operators.model.encoders.towers import PretrainedConfig, on_public_encoders
from longtake.operators.model.presets import tiny
from longtake.operators.model.snippet_encoder import SnippetEncoder
from longtake.operators.synthetic.training.cached_trainer import StoredTrainer
from longtake.operators.synthetic.training.feature_store import NOTES, BeatStore, features_of
from longtake.operators.synthetic.training.snippet_pool import LongStage, RenderedVideos
from longtake.operators.synthetic.training.snippet_stage import SnippetStage
from longtake.operators.synthetic.training.task import PoolSpec
from longtake.operators.synthetic.training.trainer import Plan, Trainer
from longtake.operators.training.run import Report

Configs = Callable[..., ModelConfig]
LONG = LongStage(videos=2, beats=(4, 8), questions=4, captions=1, spans=0.35)
PLAN = Plan(
    seed=3,
    snippet_steps=4,
    snippets=SnippetStage(videos=2, beats=8),
    long_steps=3,
    long=LONG,
    polish_steps=2,
    polish=LONG,
    pool=PoolSpec(videos=3, beats=24, seed=1),
    warmup=2,
)
BEATS = 3 * 24


def quiet(report: Report) -> None:
    pass


def trainer(config: ModelConfig, out: Path, plan: Plan = PLAN, features: Path | None = None) -> StoredTrainer:
    return StoredTrainer(config, plan, out, features=features, workers=0, save_every=100, log_every=1)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """How many snippets went through towers since the test began."""
    counts = {"video": 0, "audio": 0}
    for name, kind in (("video", PictureEncoder), ("audio", SoundEncoder)):
        whole = kind.features

        def counted(self: Any, given: torch.Tensor, mask: torch.Tensor, name: str = name, whole: Any = whole) -> Any:
            counts[name] += len(given)
            return whole(self, given, mask)

        monkeypatch.setattr(kind, "features", counted)
    yield counts


def rows(out: Path) -> list[dict[str, str]]:
    """The curves without the one column that is a clock."""
    with (out / "curves.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tower_config: Configs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("run") / "whole"
    trainer(tower_config(), out).run(quiet)
    return out


def test_a_stopped_run_goes_on_to_the_same_end_and_sees_every_beat_once(
    whole: Path, tower_config: Configs, tmp_path: Path, seen: dict[str, int]
) -> None:
    class Killed(Exception):
        pass

    def kill(report: Report) -> None:
        # While features are computed: the first video's are kept.
        if report.stage == "built-in beats" and report.step == 1:
            raise Killed

    with pytest.raises(Killed):
        trainer(tower_config(), tmp_path).run(kill)
    assert json.loads((tmp_path / "features" / "built-in" / NOTES).read_text())["videos"] == 1
    for _ in range(12):
        run = trainer(tower_config(), tmp_path)
        run.run(quiet, stop_after=2)
        if run.stage == "done":
            break
        if run.stage == "long" and run.step:
            # The tokens of the pool are there: features may be thrown away.
            shutil.rmtree(tmp_path / "features", ignore_errors=True)
    assert not (tmp_path / "features").exists()
    assert seen == {"video": BEATS, "audio": BEATS}
    assert rows(tmp_path) == rows(whole) and len(rows(whole)) == 9
    found, wanted = (load_file(run / "model" / "model.safetensors") for run in (tmp_path, whole))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_features_are_shared_by_runs_and_made_again_only_for_other_encoders(
    tower_config: Configs, tmp_path: Path, seen: dict[str, int]
) -> None:
    features = tmp_path / "features"
    short = replace(PLAN, snippet_steps=1, long_steps=0, polish_steps=0)
    trainer(tower_config(), tmp_path / "a", short, features).run(quiet)
    assert seen == {"video": BEATS, "audio": BEATS}
    # Another seed and another combiner read the same.
    other = replace(short, seed=9)
    trainer(tower_config(name="attention_pool"), tmp_path / "b", other, features).run(quiet)
    assert seen == {"video": BEATS, "audio": BEATS}
    # Another layer is another encoder; what a model's own audio encoder learns from is kept as it is rendered.
    config = tower_config(audio=None)
    config = replace(config, video=replace(config.video, pretrained=replace(config.video.pretrained, layer=1)))
    trainer(config, tmp_path / "c", short, features).run(quiet)
    assert seen == {"video": 2 * BEATS, "audio": BEATS}


def test_each_part_learns_but_the_towers(tower_config: Configs, tmp_path: Path) -> None:
    plan = replace(PLAN, snippet_steps=40, long_steps=40, polish_steps=0, snippet_rate=4e-3, long_rate=4e-3, warmup=4)
    run = trainer(tower_config(audio=None), tmp_path, plan)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    tower = {name: value.clone() for name, value in run.model.video_encoder.tower.state_dict().items()}
    run.run(quiet)
    after = run.model.state_dict()
    for part in ("video_encoder.projection", "audio_encoder", "combiner", "latent_model", "text_decoder"):
        assert any(not torch.equal(value, after[n]) for n, value in before.items() if n.startswith(part)), part
    now = run.model.video_encoder.tower.state_dict()
    assert tower and all(torch.equal(value, now[name]) for name, value in tower.items())
    for stage, names in (("snippets", ("features", "tokens")), ("long", ("text", "next_tokens"))):
        for name in names:
            values = [float(row[name]) for row in rows(tmp_path) if row["stage"] == stage]
            assert sum(values[-8:]) < 0.9 * sum(values[:8]), (stage, name, values)


def test_a_trained_model_loads_and_answers(whole: Path, tower_config: Configs) -> None:
    config = tower_config()
    loaded = load_model(str(whole / "model"))
    assert loaded.config == config
    names = load_file(whole / "model" / "model.safetensors").keys()
    assert not [name for name in names if ".tower." in name]
    # Fresh features are those that training read, up to bfloat16.
    store = BeatStore(whole / "features" / "built-in", PLAN.pool, loaded.model)
    assert store.videos_done == PLAN.pool.videos
    clips = RenderedVideos(config, PLAN.pool)[2]
    with torch.no_grad():
        fresh = loaded.model.features(clips.frames_SFHWC, clips.frame_mask_SF, clips.mel_SAM, clips.mel_mask_SA)
        kept = features_of(loaded.model, store.read(torch.arange(48, 72)), torch.device("cpu"))
    for name in ("video", "audio"):
        a, b = getattr(fresh, f"{name}_BND"), getattr(kept, f"{name}_BND")
        assert torch.equal(getattr(fresh, f"{name}_mask_BN"), getattr(kept, f"{name}_mask_BN"))
        assert a.shape == b.shape and float((a - b).abs().max()) < 0.02 * float(a.abs().max())
        assert not torch.equal(a, b)
    encoder = SnippetEncoder(loaded.model, lanes=4)
    tokens, _ = encoder.step(
        *(part[:4] for part in vars(clips).values()), torch.zeros(4), encoder.initial_memory().repeat(4, 1, 1)
    )
    answerer = Answerer(loaded)
    answer = answerer.answer(answerer.latents(tokens), "what was shown when the border flashed?")
    assert 0 < answer.probability <= 1


def test_a_run_whose_tower_changed_does_not_go_on(
    tower_config: Configs, directory: Callable[[str], Path], tmp_path: Path
) -> None:
    place = Path(shutil.copytree(directory("siglip"), tmp_path / "siglip"))
    config = tower_config(audio=None)
    config = replace(config, video=replace(config.video, pretrained=PretrainedConfig(source=str(place))))
    trainer(config, tmp_path / "run").run(quiet, stop_after=1)
    prepared = json.loads((place / "preprocessor_config.json").read_text())
    (place / "preprocessor_config.json").write_text(json.dumps(prepared | {"image_mean": [0.1, 0.1, 0.1]}))
    with pytest.raises(InputError, match="holds a run of another plan or config; choose another directory"):
        trainer(config, tmp_path / "run").run(quiet)


def test_what_cannot_be_done_is_said_at_once(
    tower_config: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tower_config()
    usage = namedtuple("usage", ("total", "used", "free"))(2**20, 2**20, 10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        InputError, match=r"the features of 72 snippets take 0\.0 GiB, and 0\.0 GiB are free; use fewer"
    ):
        trainer(config, tmp_path / "full").run(quiet)


def test_a_tower_that_learns_is_trained_from_fresh_snippets(tower_config: Configs, tmp_path: Path) -> None:
    config = tower_config(audio=None)
    config = replace(config, video=replace(config.video, pretrained=replace(config.video.pretrained, trained=True)))
    plan = replace(PLAN, snippet_steps=1, snippets=SnippetStage(videos=1, beats=2), long_steps=1, polish_steps=0)
    run = Trainer(config, plan, tmp_path, workers=0, save_every=100, log_every=1)
    before = {name: value.clone() for name, value in run.model.video_encoder.tower.named_parameters()}
    run.run(quiet)
    after = load_model(str(tmp_path / "model")).model.video_encoder.tower.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("name", ["siglip", "siglip2", "clip", "vjepa2"])
def test_a_preset_on_public_encoders_has_their_picture_size(directory: Callable[[str], Path], name: str) -> None:
    video, audio = (PretrainedConfig(source=str(directory(one))) for one in (name, "whisper"))
    config = on_public_encoders(tiny(), video=video, audio=audio)
    sizes = {"siglip": (35, 35), "siglip2": (40, 48), "clip": (32, 32), "vjepa2": (32, 32)}
    assert (config.video.height, config.video.width) == sizes[name] and config.video.frames == 8
    assert (config.audio.frames, config.snippet_s) == (16_000, (0.8, 1.0))
    assert config.name == f"tiny on {name} and whisper"
    with pytest.raises(CheckpointError, match="hears 2 s at once, and a snippet lasts 4 s"):
        on_public_encoders(replace(tiny(), rate_hz=2.0), audio=audio)
