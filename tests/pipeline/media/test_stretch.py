"""Pictures stretched to a model's own size: all of the box, the right way up, by one filter whoever decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from longtake.pipeline.media.decode import decode_segment
from longtake.pipeline.media.demux import demux, make_plan
from longtake.pipeline.media.geometry import PictureFormat, stretch
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.segment import Pictures, Segment

FORM = PictureFormat(height=64, width=96, fit="stretch", filter="bicubic")


def test_every_quarter_turn_fills_the_box() -> None:
    for rotation in (0, 90, 180, 270):
        placement = stretch(rotation, FORM)
        made = placement.place(np.full((2, placement.height, placement.width, 3), 7, np.uint8))
        assert made.shape == (2, 64, 96, 3) and (made == 7).all()
    with pytest.raises(ValueError, match="rotation 45"):
        stretch(45, FORM)


@pytest.mark.parametrize("name", ["chaplin.mp4", "rotated_90.mov"])
def test_pictures_equal_plain_decoding_and_bicubic_scaling(media: Path, name: str) -> None:
    info = probe(media / name)
    plan = make_plan(info, Sampling(rate_hz=1), 4)
    items = demux(info, plan, FORM)
    made: list[Any] = [decode_segment(item) if isinstance(item, Segment) else item for item in items]
    first = next(item for item in made if isinstance(item, Pictures))
    assert first.route == "pyav" and first.frames_NHWC.shape[1:] == (64, 96, 3) and first.mask_N.all()
    turned = info.video.rotation in (90, 270)
    with av.open(str(media / name)) as source:
        for frame in source.decode(source.streams[info.video.index]):
            assert isinstance(frame, av.VideoFrame) and frame.pts is not None
            if (frame.pts - info.video.start_pts) * info.video.time_base * 10**9 > plan.sample_ns(0):
                break
            shown = frame
        size = {"width": 64, "height": 96} if turned else {"width": 96, "height": 64}
        small = shown.reformat(format="rgb24", interpolation=Interpolation.BICUBIC, **size).to_ndarray()
    expected = np.rot90(small, k=-info.video.rotation // 90)
    assert np.array_equal(first.frames_NHWC[0], expected)
