"""What the tests of tables, engine and resume share: a model that remembers, made clips, and the tokens to expect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from longtake.kernels.token_codec.op import decode, encode
from longtake.operators.model import presets
from longtake.operators.model.checkpoint import load_model, save_model
from longtake.operators.model.snippet_encoder import SnippetEncoder
from longtake.operators.synthetic.random_model import random_model
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.media.snippets import read_snippets

Tokens = dict[int, NDArray[np.float32]]


@pytest.fixture(scope="session")
def ttm_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with random weights whose combiner carries memory from snippet to snippet."""
    return _save_model(tmp_path_factory.mktemp("models") / "ttm", seed=3)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another one, with other weights."""
    return _save_model(tmp_path_factory.mktemp("models") / "other", seed=4)


def _save_model(path: Path, seed: int) -> str:
    config = presets.tiny()
    combiner = dataclasses.replace(config.combiner, name="ttm", memory_tokens=8, read_tokens=4, timestamp=True)
    loaded = random_model(dataclasses.replace(config, combiner=combiner), seed)
    save_model(path, loaded.model, loaded.tokenizer)
    return str(path)


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Path]:
    """Write an H.264 + AAC clip of moving noise: (path, seconds, width=, height=, seed=)."""
    return _write_clip


def _write_clip(path: Path, seconds: int, *, width: int = 320, height: int = 180, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    canvas = rng.integers(0, 255, (height // 4, width // 2, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "g": "24", "bf": "0"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        samples = (rng.standard_normal(16_000 * seconds) * 0.1).astype(np.float32)
        for second in range(seconds):
            for number in range(second * 24, second * 24 + 24):
                row, column = number % height, (number * 3) % width
                picture = np.ascontiguousarray(canvas[row : row + height, column : column + width])
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            sound = av.AudioFrame.from_ndarray(
                samples[None, second * 16_000 : (second + 1) * 16_000], format="fltp", layout="mono"
            )
            sound.sample_rate, sound.pts = 16_000, second * 16_000
            container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


@pytest.fixture(scope="session")
def expected_tokens() -> Callable[..., Tokens]:
    """The tokens of a file by snippet, in one process and from its start: what every job has to arrive at."""
    return _expected_tokens


def _expected_tokens(path: Path | str, model: str, *, rate_hz: float, lanes: int = 1) -> Tokens:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded = load_model(model)
    encoder = SnippetEncoder(loaded.model, lanes=lanes)
    memory = encoder.initial_memory().repeat(lanes, 1, 1)
    tokens: Tokens = {}
    for made in read_snippets(probe(path), loaded.config, Sampling(rate_hz=rate_hz)):
        if isinstance(made, Snippet):
            alone = [
                torch.from_numpy(made.frames_FHWC)[None],
                torch.from_numpy(made.frame_mask_F)[None],
                torch.from_numpy(made.sound_AM)[None],
                torch.from_numpy(made.mel_mask_A)[None],
                torch.tensor([made.start_ns / 1e9]),
            ]
            padded = [
                torch.cat([one, torch.zeros_like(one).repeat(lanes - 1, *[1] * (one.dim() - 1))]) for one in alone
            ]
            out, memory = encoder.step(padded[0], padded[1], padded[2], padded[3], padded[4], memory)
            # As the table holds them.
            tokens[made.index] = decode(*encode(out[0])).numpy()
    torch.set_num_threads(threads)
    return tokens
