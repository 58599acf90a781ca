"""Training with the Triton programs goes as training with the references does, up to rounding."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.kernels.checks import DEVICE

from longtake.operators.model import presets
from longtake.operators.model.config import AudioConfig, ModelConfig, TransformerConfig, Tube, VideoConfig
from longtake.operators.model.encoders import Towers
from longtake.operators.model.model import LongTakeModel
from longtake.operators.synthetic.training import trainer
from longtake.operators.synthetic.training.snippet_stage import SnippetStage
from longtake.operators.synthetic.training.trainer import Plan, Trainer

NATIVE = DEVICE.type == "cuda"
STEPS = 300 if NATIVE else 40


def toy() -> ModelConfig:
    """The shipped size on a GPU; in the interpreter its design, with less of everything."""
    tiny = presets.tiny()
    if NATIVE:
        return tiny
    layer = TransformerConfig(depth=1, heads=2, mlp_ratio=2.0)
    return dataclasses.replace(
        tiny,
        width=32,
        video=VideoConfig(
            frames=4,
            height=16,
            width=16,
            tubes=(Tube(kernel=(1, 8, 8), stride=(2, 8, 8)), Tube(kernel=(2, 8, 8), stride=(2, 8, 8))),
            encoder=layer,
        ),
        audio=AudioConfig(frames=16, mels=16, patch=(8, 16), encoder=layer),
        combiner=dataclasses.replace(tiny.combiner, transformer=layer),
    )


@pytest.fixture
def nudge(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Start the next run from weights that are off by about this much, relatively: another rounding."""

    def start(size: float) -> None:
        def made(config: ModelConfig, towers: Towers | None = None) -> LongTakeModel:
            model = LongTakeModel(config, towers)
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1 + size * torch.randn(weight.shape, generator=generator))
            return model

        monkeypatch.setattr(trainer, "LongTakeModel", made)

    return start


def test_the_loss_falls_along_the_same_curve(
    tmp_path: Path, nudge: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Training hears its videos, which the kernels do not need.
    pytest.importorskip("torchaudio")
    videos = 16 if NATIVE else 1
    plan = Plan(
        seed=1,
        snippet_steps=STEPS,
        snippets=SnippetStage(videos=videos, beats=8 if NATIVE else 4),
        long_steps=0,
        polish_steps=0,
        warmup=5,
    )

    def losses(kernels: str, off: float) -> list[float]:
        monkeypatch.setenv("LONGTAKE_KERNELS", kernels)
        nudge(off)
        out = tmp_path / f"{kernels}-{off}"
        run = Trainer(toy(), plan, out, device=DEVICE.type, workers=0, log_every=1)
        run.run(lambda report: None, stop_after=STEPS)
        with (out / "curves.csv").open(newline="") as file:
            return [float(row["loss"]) for row in csv.DictReader(file) if row["stage"] == "snippets"]

    plain, rounded, ours = losses("reference", 0.0), losses("reference", 1e-4), losses("triton", 0.0)
    assert len(ours) == STEPS
    noise = sum(abs(a - b) for a, b in zip(plain, rounded, strict=True)) / STEPS
    apart = sum(abs(a - b) for a, b in zip(plain, ours, strict=True)) / STEPS
    fell = sum(plain[:5]) / 5 - sum(plain[-5:]) / 5
    print(
        f"{STEPS} steps: kernels and references {apart:.2e} apart, weights off by 1e-4 {noise:.2e}; fell by {fell:.3f}"
    )
    assert fell > 0.1
    assert apart <= 2 * noise + 1e-6 and noise < 0.1 * fell
