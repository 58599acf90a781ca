"""Runs: each stage learns and leaves the other's parts alone, and a run stopped anywhere goes on to the same end."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from longtake.errors import InputError
from longtake.operators.model.checkpoint import load_model
from longtake.operators.model.config import ModelConfig
from longtake.operators.synthetic.training.snippet_pool import LongStage
from longtake.operators.synthetic.training.snippet_stage import SnippetStage
from longtake.operators.synthetic.training.task import PoolSpec
from longtake.operators.synthetic.training.trainer import COLUMNS, Plan, Trainer
from longtake.operators.training.curves import draw_curves
from longtake.operators.training.run import Report, _rate

Configs = Callable[..., ModelConfig]
ROOT = Path(__file__).resolve().parents[4]

PLAN = Plan(
    seed=3,
    snippet_steps=5,
    snippets=SnippetStage(videos=2, beats=4),
    long_steps=5,
    polish_steps=3,
    polish=LongStage(videos=2, beats=(6, 10), questions=4, captions=1, spans=0.35),
    long=LongStage(videos=2, beats=(4, 10), questions=4, captions=1, spans=0.35),
    pool=PoolSpec(videos=3, beats=32, seed=1),
    warmup=2,
)


def trainer(config: ModelConfig, out: Path, plan: Plan = PLAN, save_every: int = 2) -> Trainer:
    return Trainer(config, plan, out, workers=0, save_every=save_every, log_every=1)


def quiet(report: Report) -> None:
    pass


def rows(out: Path) -> list[dict[str, str]]:
    """The curves without the one column that is a clock."""
    with (out / "curves.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def same_end(out: Path, whole: Path) -> None:
    """Both runs ended in the same weights, bit for bit, by the same curves."""
    assert rows(out) == rows(whole)
    found, wanted = (load_file(run / "model" / "model.safetensors") for run in (out, whole))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.fixture(scope="module")
def whole(world_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("run") / "whole"
    trainer(world_config, out).run(quiet)
    return out


def test_a_run_ends_in_a_model_that_loads_and_curves_of_every_step(whole: Path, world_config: ModelConfig) -> None:
    loaded = load_model(str(whole / "model"))
    assert loaded.config == world_config
    assert [(row["stage"], int(row["step"])) for row in rows(whole)] == [
        *(("snippets", n) for n in range(1, 6)),
        *(("long", n) for n in range(1, 6)),
        *(("polish", n) for n in range(1, 4)),
    ]
    for row in rows(whole):
        wanted = ("features", "tokens") if row["stage"] == "snippets" else ("text", "evidence", "next_tokens")
        assert all(float(row[name]) > 0 for name in wanted)
    # Running it again changes nothing.
    before = (whole / "model" / "model.safetensors").read_bytes()
    again = trainer(world_config, whole)
    again.run(lambda report: pytest.fail("a finished run has nothing to train"))
    assert again.stage == "done" and (whole / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_stopped_and_resumed_ends_the_same(
    whole: Path, world_config: ModelConfig, tmp_path: Path, steps: int
) -> None:
    # One step at a time, and four: the second stop then lies in the second stage.
    for _ in range(15):
        run = trainer(world_config, tmp_path)
        run.run(quiet, stop_after=steps)
        if run.stage == "done":
            break
        assert not (tmp_path / "model").exists()
    same_end(tmp_path, whole)


def test_a_killed_run_resumed_ends_the_same(whole: Path, world_config: ModelConfig, tmp_path: Path) -> None:
    # Killed one step after a save, so that a row of the curves is ahead of the state; a second time likewise.
    program = """
import os, pickle, signal, sys
from pathlib import Path
from longtake.operators.synthetic.training.trainer import Trainer
config, plan, out, stage, step = pickle.loads(bytes.fromhex(sys.argv[1]))
def kill(report):
    if (report.stage, report.step) == (stage, step):
        os.kill(os.getpid(), signal.SIGKILL)
Trainer(config, plan, Path(out), workers=0, save_every=2, log_every=1).run(kill)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    what = pickle.dumps((world_config, PLAN, str(tmp_path), "long", 3)).hex()
    done = subprocess.run([sys.executable, "-c", program, what], env=env, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert rows(tmp_path)[-1]["step"] == "3"
    trainer(world_config, tmp_path).run(quiet)
    same_end(tmp_path, whole)


class Stop(Exception):
    """Thrown out of a run in the tests below."""


def stop_at(step: int) -> Callable[[Report], None]:
    def report(report: Report) -> None:
        if report.step == step:
            raise Stop

    return report


def test_a_run_that_died_before_its_first_save_starts_anew(
    whole: Path, world_config: ModelConfig, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        trainer(world_config, tmp_path, save_every=100).run(stop_at(3))
    assert len(rows(tmp_path)) == 3 and not (tmp_path / "state.json").exists()
    trainer(world_config, tmp_path).run(quiet)
    same_end(tmp_path, whole)


def test_a_save_cut_in_half_leaves_the_state_before_it(whole: Path, world_config: ModelConfig, tmp_path: Path) -> None:
    run = trainer(world_config, tmp_path)
    run.run(quiet, stop_after=2)
    # The tensors of step 4 are written, and then what names them cannot be: a folder is in its way.
    (tmp_path / "state.json.part").mkdir()
    with pytest.raises(OSError):
        trainer(world_config, tmp_path).run(quiet)
    (tmp_path / "state.json.part").rmdir()
    trainer(world_config, tmp_path).run(quiet)
    same_end(tmp_path, whole)
    # And no old tensors are left lying about.
    assert [path.name for path in tmp_path.glob("state*")] != []
    assert len(list(tmp_path.glob("state*.safetensors*"))) == 1


def test_tokens_that_other_encoders_left_are_not_used(whole: Path, world_config: ModelConfig, tmp_path: Path) -> None:
    left = load_file(whole / "pool-built-in.safetensors")
    save_file({name: value * 2 for name, value in left.items()}, tmp_path / "pool-built-in.safetensors")
    trainer(world_config, tmp_path).run(quiet)
    same_end(tmp_path, whole)


def test_a_run_is_kept_on_disk_under_the_names_that_it_always_had(whole: Path) -> None:
    # With other names, a run that an earlier version began would be refused as another run's.
    state = json.loads((whole / "state.json").read_text())
    assert set(state) == {"tensors", "plan", "config", "courses", "encoders", "stage", "step", "seconds"}


def test_another_plan_or_config_is_refused(whole: Path, world_config: ModelConfig, small_config: Configs) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    other = dataclasses.replace(PLAN, long_rate=2e-3)
    with pytest.raises(InputError, match="holds a run of another plan or config; choose another directory"):
        trainer(world_config, whole, other).run(quiet)
    wider = dataclasses.replace(world_config, combiner=small_config(tokens=6).combiner)
    with pytest.raises(InputError, match="holds a run of another plan or config"):
        trainer(wider, whole).run(quiet)
    assert {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()} == before


def test_what_cannot_be_trained_is_refused_before_the_first_step(
    world_config: ModelConfig, small_config: Configs, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="the config room for 40"):
        trainer(small_config(), tmp_path)
    ttm = dataclasses.replace(world_config, combiner=small_config(name="ttm").combiner)
    with pytest.raises(InputError, match="the ttm combiner carries memory"):
        trainer(ttm, tmp_path)
    few = dataclasses.replace(PLAN, pool=PoolSpec(videos=1, beats=2, seed=0))
    with pytest.raises(InputError, match="a pool of 2 beats lacks some kinds of event"):
        trainer(world_config, tmp_path, few).run(lambda report: pytest.fail("it must not train"))


def test_each_stage_learns_and_leaves_the_other_parts_alone(world_config: ModelConfig, tmp_path: Path) -> None:
    plan = dataclasses.replace(
        PLAN, snippet_steps=40, long_steps=40, polish_steps=0, snippet_rate=4e-3, long_rate=4e-3, warmup=4
    )
    first = trainer(world_config, tmp_path, plan, save_every=1000)
    untrained = {name: value.clone() for name, value in first.model.state_dict().items()}
    first.run(quiet, stop_after=40)
    after_snippets = {name: value.clone() for name, value in first.model.state_dict().items()}
    second = trainer(world_config, tmp_path, plan, save_every=1000)
    second.run(quiet)
    after_long = second.model.state_dict()
    own = ("video_encoder", "audio_encoder", "combiner")
    for name, value in untrained.items():
        changed = not torch.equal(value, after_snippets[name]), not torch.equal(after_snippets[name], after_long[name])
        if name.startswith(own):
            assert not changed[1], name
        else:
            assert not changed[0], name
    for part in own:
        assert any(not torch.equal(v, after_snippets[n]) for n, v in untrained.items() if n.startswith(part)), part
    for part in ("latent_model", "text_decoder"):
        assert any(not torch.equal(v, after_long[n]) for n, v in untrained.items() if n.startswith(part)), part
    for stage, names in (("snippets", ("loss", "features", "tokens")), ("long", ("loss", "text", "next_tokens"))):
        table = [row for row in rows(tmp_path) if row["stage"] == stage]
        for name in names:
            values = [float(row[name]) for row in table]
            assert sum(values[-8:]) < 0.85 * sum(values[:8]), (stage, name, values)


def test_encoders_of_another_model_are_taken_and_left_as_they_are(
    whole: Path, world_config: ModelConfig, tmp_path: Path
) -> None:
    taken = load_model(str(whole / "model"))

    def other(out: Path, config: ModelConfig = world_config) -> Trainer:
        return Trainer(config, PLAN, out, encoders=taken, workers=0, save_every=2, log_every=1)

    run = other(tmp_path / "run")
    run.run(quiet, stop_after=6)
    run = other(tmp_path / "run")
    run.run(quiet)
    # From the same encoders the readers learn the same, and nothing of the first stage was done.
    same = load_file(whole / "model" / "model.safetensors")
    found = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert [name for name in same if not torch.equal(found[name], same[name])] == []
    assert {row["stage"] for row in rows(tmp_path / "run")} == {"long", "polish"}
    with pytest.raises(InputError, match="holds a run of another plan"):
        trainer(world_config, tmp_path / "run").run(quiet)
    wider = dataclasses.replace(world_config, combiner=dataclasses.replace(world_config.combiner, tokens=2))
    with pytest.raises(InputError, match="its combiner is not that of"):
        other(tmp_path / "wider", wider)


def test_a_loss_that_is_no_number_ends_the_run_in_one_line(world_config: ModelConfig, tmp_path: Path) -> None:
    run = trainer(world_config, tmp_path)
    with torch.no_grad():
        run.heads["built-in"].tokens.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is nan at step 0 of stage snippets; lower the rate"):
        run.run(quiet)


def test_the_rate_warms_up_and_falls_to_a_fiftieth() -> None:
    rates = [_rate(step, 1000, 100, 2e-3) for step in range(1000)]
    assert rates[0] == pytest.approx(2e-5) and rates[100] == pytest.approx(2e-3) == max(rates)
    assert all(a < b for a, b in pairwise(rates[:100]))
    assert all(a > b for a, b in pairwise(rates[100:]))
    assert rates[-1] == pytest.approx(2e-3 / 50, rel=0.01)


def test_curves_show_every_loss_of_both_stages(tmp_path: Path) -> None:
    from matplotlib import colors

    shown = ("features", "tokens", "text", "evidence", "next_tokens", "next_features")
    with (tmp_path / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for step in range(20, 420, 20):
            writer.writerow({"stage": "snippets", "step": step, "features": 2 / step, "tokens": 8 / step, "exact": 0.5})
        for step in range(20, 420, 20):
            losses = {name: 3.0**-n * 20 / step for n, name in enumerate(shown[2:])}
            writer.writerow({"stage": "long", "step": step, "exact": 0.7, **losses})
    path = draw_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 300
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(-1, 3).int()
    for number, name in enumerate(shown):
        wanted = torch.tensor([round(255 * c) for c in colors.to_rgb(f"C{number}")])
        near = ((pixels - wanted).abs().amax(1) < 24).sum()
        assert near > 30, f"{name} is not drawn"
    (tmp_path / "curves.csv").unlink()
    with pytest.raises(InputError, match=r"curves\.csv: no such file; train first"):
        draw_curves(tmp_path)
