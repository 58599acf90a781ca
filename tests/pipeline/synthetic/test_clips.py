"""Clips repeated without re-encoding, strips of pictures, and the bare stages that jobs are held against."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longtake.operators.model.presets import tiny
from longtake.operators.synthetic.random_model import random_model
from longtake.operators.synthetic.script import write_script
from longtake.pipeline.bench.bare_stages import measure_bare
from longtake.pipeline.bench.loop_clip import loop_clip
from longtake.pipeline.media.plan import SECOND_NS, Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.media.snippets import read_snippets
from longtake.pipeline.media.thumbnails import SEEK_BEYOND_NS, read_strip
from longtake.pipeline.synthetic.write_videos import WorldOptions, write_video

CONFIG = tiny()
RATE = Sampling(rate_hz=CONFIG.rate_hz)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    path = folder / "made.mp4"
    write_video(write_script(3, 4), path, WorldOptions(out=folder, videos=1, width=128, height=96))
    return path


def snippets_of(path: Path) -> list[Snippet]:
    items = list(read_snippets(probe(path), CONFIG, RATE))
    assert all(isinstance(item, Snippet) for item in items)
    return [item for item in items if isinstance(item, Snippet)]


def test_a_looped_clip_shows_the_clip_again_and_again(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "long.mp4"
    assert loop_clip(made, target, 11.0) == 3
    once, thrice = snippets_of(made), snippets_of(target)
    assert len(once) == 4 and len(thrice) >= 12
    # The sound's packets reach a little beyond the last picture, so a loop may begin some milliseconds late.
    assert thrice[-1].stop_ns == pytest.approx(12 * SECOND_NS, abs=SECOND_NS // 5)
    for number in range(4):
        assert np.array_equal(thrice[number].frames_FHWC, once[number].frames_FHWC)
    later = thrice[9].frames_FHWC.astype(np.int16)[4]
    assert np.abs(later - once[1].frames_FHWC[4]).mean() < 8


@pytest.mark.parametrize("name", ["big_buck_bunny_30s.webm", "pancake.mkv", "chaplin.mp4", "nasa_two_streams.mp4"])
def test_a_clip_is_cut_where_it_was_asked_to_end(media: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / f"cut{Path(name).suffix}"
    loop_clip(media / name, target, 40.0, sound=False, cut=True)
    info = probe(target)
    assert info.audio is None
    read = list(read_snippets(info, CONFIG, Sampling(rate_hz=2.0)))
    assert all(isinstance(item, Snippet) for item in read)
    assert sum(int(item.frame_mask_F.sum()) for item in read if isinstance(item, Snippet)) == 80


@pytest.mark.parametrize("name", ["big_buck_bunny_30s.webm", "pancake.mkv", "chaplin.mp4", "nasa_two_streams.mp4"])
def test_real_clips_can_be_looped(media: Path, tmp_path: Path, name: str) -> None:
    import av

    source, target = media / name, tmp_path / f"long{Path(name).suffix}"
    loops = loop_clip(source, target, 70.0)
    counts, last = [], -1
    for path in (source, target):
        info = probe(path)
        with av.open(str(path)) as container:
            pts = sorted(p.pts for p in container.demux(container.streams[info.video.index]) if p.pts is not None)
        counts.append(len(pts))
        last = pts[-1] * info.video.time_base
        assert len(set(pts)) == len(pts)
    assert counts[1] == loops * counts[0]
    assert last > 69
    assert probe(target).audio is not None


def test_a_strip_has_the_pictures_of_its_moments(made: Path) -> None:
    info = probe(made)
    times = [SECOND_NS // 2 + k * SECOND_NS for k in range(4)]
    strip = read_strip(info, times, 48)
    for jpeg, snippet in zip(strip, snippets_of(made), strict=True):
        assert jpeg is not None
        picture = np.asarray(Image.open(io.BytesIO(jpeg)), dtype=np.int16)
        assert picture.shape == (48, 64, 3)
        # Half a second into its second: picture 4 of the 8.
        assert np.abs(picture - snippet.frames_FHWC[4]).mean() < 6


def test_a_strip_that_seeks_shows_the_same_as_one_that_does_not(media: Path, tmp_path: Path) -> None:
    target = tmp_path / "long.webm"
    loop_clip(media / "big_buck_bunny_30s.webm", target, 80.0)
    info = probe(target)
    dense = [k * SECOND_NS for k in range(0, 75, 5)]
    sparse = dense[::5]
    assert sparse[1] - sparse[0] > SEEK_BEYOND_NS
    assert read_strip(info, sparse, 36) == read_strip(info, dense, 36)[::5]


def test_rotation_and_damage_on_a_strip(media: Path) -> None:
    [tall] = read_strip(probe(media / "rotated_90.mov"), [0], 71)
    assert tall is not None and Image.open(io.BytesIO(tall)).size == (40, 71)
    damaged = read_strip(probe(media / "corrupted.mp4"), [0, SECOND_NS], 36)
    assert len(damaged) == 2 and damaged[0] is not None


def test_bare_stages_do_what_a_job_does(made: Path) -> None:
    cost = measure_bare(made, random_model(CONFIG, seed=1), RATE)
    assert (cost.decoded, cost.frames, cost.snippets) == (32, 32, 4)
    assert min(cost.pictures_s, cost.sound_s, cost.log_mel_s, cost.encode_s) > 0
    both = cost + cost
    assert both.total_s == pytest.approx(2 * cost.total_s) and both.snippets == 8
