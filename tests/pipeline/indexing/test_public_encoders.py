"""A model on public encoders, from a real file to an answer: the real job, and the tokens of a single process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import longtake
from longtake.errors import IndexMismatchError, InputError
from longtake.operators.model import presets
from longtake.operators.model.checkpoint import save_model
from longtake.operators.model.config import AudioConfig, PretrainedConfig, VideoConfig
from longtake.operators.synthetic.random_model import random_model
from longtake.pipeline.indexing.index import IndexOptions, index
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.table.schema import IndexReader


@pytest.fixture
def model(random_encoders: Path, tmp_path: Path) -> Path:
    """A checkpoint with SigLIP and Whisper beside it, all of random weights."""
    folder = Path(shutil.copytree(random_encoders, tmp_path / "models"))
    tiny = presets.tiny()
    config = replace(
        tiny,
        video=VideoConfig(frames=8, height=64, width=64, pretrained=PretrainedConfig(source=str(folder / "siglip"))),
        audio=AudioConfig(frames=16_000, pretrained=PretrainedConfig(source=str(folder / "whisper"))),
    )
    made = random_model(config, seed=1)
    save_model(folder / "model", made.model, made.tokenizer)
    return folder / "model"


def test_a_video_is_indexed_and_asked_about(
    media: Path, model: Path, tmp_path: Path, expected_tokens: Callable[..., dict[int, np.ndarray]]
) -> None:
    film = str(media / "chaplin.mp4")
    into = tmp_path / "films.lt"
    wanted = expected_tokens(film, str(model), rate_hz=8.0)
    options = IndexOptions(into=str(into), model=str(model), decoders=1, commit_s=0.5)
    index([film], options)
    reader = IndexReader.open(str(into))
    [row] = reader.videos()
    assert (row.status, row.snippets) == ("done", len(wanted))
    assert np.array_equal(reader.tokens(row.video_id)[0], np.stack(list(wanted.values())))
    # What is heard is in the tokens: without sound they are others.
    assert len({tokens.tobytes() for tokens in wanted.values()}) == len(wanted)
    (answer,) = longtake.open_index(into).ask("what was shown when the border flashed?")
    assert 0 < answer.probability <= 1 and answer.seen_until_s == pytest.approx(row.duration_s, abs=0.5)
    slow = replace(options, into=str(tmp_path / "slow.lt"), sampling=Sampling(rate_hz=2.0))
    with pytest.raises(InputError, match="a snippet of 4 s is longer than the 1 s that the model's audio encoder hear"):
        index([film], slow)
    # Nothing is left to do; and with other weights at the tower's place the model is another one.
    assert index([film], options).snippets == 0
    place = model.parent / "siglip" / "preprocessor_config.json"
    before = place.read_text()
    place.write_text(json.dumps(json.loads(before) | {"image_mean": [0.4] * 3}))
    with pytest.raises(IndexMismatchError, match="indexed with model"):
        longtake.open_index(into).ask("what was shown?")
    place.write_text(before)
