"""The encode stage by itself: parcels that come to it with a gap are not taken for the video going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longtake.operators.model.checkpoint import load_model
from longtake.pipeline.indexing.messages import LaneWork
from longtake.pipeline.indexing.stages.decode import DecodeStage
from longtake.pipeline.indexing.stages.demux import DemuxStage
from longtake.pipeline.indexing.stages.encode import EncodeStage
from longtake.pipeline.media.model_input import NativeInput
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.table.metadata import IndexMetadata


@pytest.mark.parametrize("has_sound", [True, False])
def test_what_follows_a_lost_parcel_is_left_alone(
    has_sound: bool, tmp_path: Path, ttm_model: str, make_clip: Callable[..., Path]
) -> None:
    loaded = load_model(ttm_model)
    config = loaded.config
    demux = DemuxStage(NativeInput(config=config), Sampling(rate_hz=24.0), "auto")
    looked = demux.look(str(make_clip(tmp_path / "clip.mp4", 32)), "")
    assert looked.info is not None and looked.plan is not None and looked.form is not None
    demux.start(0, looked.info, looked.plan, looked.form, 0)
    decode = DecodeStage("auto")
    parcels: list[tuple[Any, Any]] = []
    last = False
    while not last:
        note, items, segment = demux.read(0)
        parcels.append((items, decode.decode(segment)[1] if segment is not None else None))
        last = note.last
    assert len(parcels) >= 4
    metadata = IndexMetadata(
        model=ttm_model,
        fingerprint=loaded.fingerprint,
        tokens=config.combiner.tokens,
        width=config.width,
        rate_hz=24.0,
    )
    stage = EncodeStage(ttm_model, 1, "cpu", 1, str(tmp_path / "index"), metadata)

    def feed(number: int) -> Any:
        items, pictures = parcels[number]
        # Without sound nothing but the parcel's number tells that one is missing.
        heard = [item for item in items if has_sound or type(item).__name__ != "SoundChunk"]
        return stage.feed([(0, 0, number)], True, heard, pictures)

    work = LaneWork(
        run=0,
        video_id="video",
        plan=looked.plan,
        form=looked.form,
        has_sound=has_sound,
        sound_peak=None,
        first=0,
        memory=None,
    )
    stage.begin(0, work)
    feed(0)
    for number in range(2, len(parcels)):
        (state,) = feed(number).lanes
        assert (state.encoded, state.error, state.end_ns) == (0, "", None)
    states = [feed(number).lanes[0] for number in range(1, len(parcels))]
    assert states[-1].end_ns is not None and not any(state.error for state in states)
