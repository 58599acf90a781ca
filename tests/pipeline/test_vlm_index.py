"""Public models write an index: real jobs on real files, against the same model in one process, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", minversion="5.18")

from longtake.operators.errors import CheckpointError, IndexMismatchError, InputError, LongTakeError
from longtake.operators.vlm import SnippetTokens, load_vlm
from longtake.operators.vlm.describe import describe_vlm
from longtake.operators.vlm.model import Clip
from longtake.operators.vlm.random_model import write_random_vlm
from longtake.operators.vlm.sound import whole_mel
from longtake.pipeline.actors import Session
from longtake.pipeline.indexing import IndexOptions, index
from longtake.pipeline.media.demux import demux, make_plan
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.media.snippets import read_snippets
from longtake.pipeline.media.vlm_intake import VLMIntake
from longtake.pipeline.models import Compression
from longtake.pipeline.tables import IndexReader

# Real jobs: on a machine that is busy with other things they take minutes.
pytestmark = pytest.mark.timeout(900)

RATE = Sampling(rate_hz=2.0)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[Session]:
    """One Ray for the whole module: jobs join the one that their process is already in."""
    session = Session()
    yield session
    session.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Writes a family's tiny model once; "vlm:PATH"."""
    made: dict[str, Path] = {}

    def make(family: str, seed: int = 0) -> str:
        name = f"{family}-{seed}"
        if name not in made:
            made[name] = write_random_vlm(tmp_path_factory.mktemp("vlm") / name, family, seed=seed)
        return f"vlm:{made[name]}"

    return make


def expected(path: Path, model: str, combiner: str, tokens: int | None) -> list[SnippetTokens]:
    """A file's snippets in one process; its sound is read at once and turned into mel frames as a whole."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    vlm, info = load_vlm(model.removeprefix("vlm:")), probe(path)
    intake = VLMIntake(model=describe_vlm(model.removeprefix("vlm:")), frames=8, most_tokens=256)
    plan = make_plan(info, RATE, 8)
    mel_NM, peak = None, None
    if vlm.front is not None and info.audio is not None:
        items = demux(info, plan, intake.picture_format(info))
        waves = [
            torch.from_numpy(item.wave_S) for item in items if isinstance(item, SoundChunk) and item.wave_S is not None
        ]
        mel_NM, peak = whole_mel(torch.cat(waves), vlm.front)
    made = []
    for item in read_snippets(info, intake, RATE):
        if not isinstance(item, Snippet):
            continue
        times_s = [plan.sample_ns(8 * item.index + frame) / 1e9 for frame in range(8)]
        seen = [frame for frame in range(8) if item.frame_mask_F[frame]]
        # Windows of four seconds: 400 frames, fewer at the end.
        last = -(-item.stop_ns * 100 // 1_000_000_000)
        heard_NM = None if mel_NM is None else mel_NM[400 * item.index : last]
        if heard_NM is not None and not len(heard_NM):
            heard_NM = None
        clip = Clip(
            frames_FHWC=torch.from_numpy(item.frames_FHWC[seen]),
            times_s=tuple(times_s[frame] for frame in seen),
            start_s=item.start_ns / 1e9,
            mel_NM=heard_NM,
            peak=None if heard_NM is None else peak,
        )
        made.append(vlm.encode_snippet(clip, combiner=combiner, tokens=tokens))
    torch.set_num_threads(threads)
    return made


def assert_equal(reader: IndexReader, uri: Path, wanted: list[SnippetTokens], tolerance: float = 0.0) -> None:
    """Places and times are the same; tokens as well, or within a tolerance (of the sound's block-wise mel frames)."""
    [row] = [row for row in reader.videos() if row.uri == str(uri)]
    video, start_ns, stop_ns, _ = reader.video_tokens(row.video_id)
    assert len(video.snippets) == len(wanted) and bool((stop_ns > start_ns).all())
    for stored, one in zip(video.snippets, wanted, strict=True):
        assert torch.equal(stored.places_N4, one.places_N4)
        assert dataclasses.replace(stored, tokens_ND=one.tokens_ND, places_N4=one.places_N4) == one
        torch.testing.assert_close(stored.tokens_ND, one.tokens_ND, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("family", "combiner", "tokens"),
    [("qwen3_5", None, None), ("llava_onevision", "none", None), ("qwen2_5_omni", "merge", 40)],
)
def test_rows_are_what_one_process_encodes(
    tmp_path: Path, media: Path, models: Callable[..., str], family: str, combiner: str | None, tokens: int | None
) -> None:
    # Sound and none, a rotation, damage, and a file that is no video.
    files = [media / name for name in ("chaplin.mp4", "rotated_90.mov", "corrupted.mp4")]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 99)
    into, model = str(tmp_path / "index"), models(family)
    compression = Compression(combiner=combiner, tokens=tokens)
    options = IndexOptions(into=into, model=model, token_store="float32", compression=compression, lanes=2)
    summary = index([str(path) for path in [*files, broken]], options)
    assert (summary.videos, summary.indexed, summary.failed) == (4, 3, 1)
    assert [row.uri for row in summary.failures] == [str(broken)]
    reader = IndexReader.open(into)
    told = reader.metadata
    assert (told.kind, told.model, told.rate_hz, told.snippet_frames) == ("vlm", model, 2.0, 8)
    assert (told.combiner, told.tokens) == (combiner or "pool", tokens or (0 if combiner == "none" else 128))
    for path in files:
        wanted = expected(path, model, told.combiner, told.tokens or None)
        assert_equal(reader, path, wanted, 2e-5 if family == "qwen2_5_omni" else 0.0)
        assert all(one.sounds == (100 if family == "qwen2_5_omni" else 0) for one in wanted[:1] if path == files[0])
    # Again with nothing said: the index's own settings, and nothing to do.
    again = index([str(path) for path in files], IndexOptions(into=into, model=model))
    assert (again.indexed, again.skipped, again.snippets) == (0, 3, 0)
    assert IndexReader.open(into).version == reader.version


def test_another_model_or_other_settings_are_refused(tmp_path: Path, media: Path, models: Callable[..., str]) -> None:
    into, files = str(tmp_path / "index"), [str(media / "rotated_90.mov")]
    model = models("qwen3_5")

    def refused(match: str, error: type[LongTakeError] = IndexMismatchError, **changed: object) -> None:
        given = {"model": model, "into": into, **changed}
        with pytest.raises(error, match=match) as told:
            index(files, IndexOptions(**given))  # type: ignore[arg-type]
        assert "\n" not in str(told.value)

    index(files, IndexOptions(into=into, model=model, compression=Compression(tokens=24)))
    for compression in (Compression(combiner="merge"), Compression(tokens=12), Compression(combiner="none")):
        refused("holds at most 24 tokens .* --rebuild", compression=compression)
    refused("indexed with model vlm:.*--rebuild", model=models("qwen3_5", 1))
    refused("indexed with model vlm:.*--rebuild", model="tiny")
    refused("stores tokens as int8, not bfloat16", token_store="bfloat16")
    new = str(tmp_path / "new")
    omni = models("qwen2_5_omni")
    refused(
        "lasts 2.66667 s, which is no multiple; 2 or 4 frames/s",
        InputError,
        into=new,
        model=omni,
        sampling=Sampling(rate_hz=3.0),
    )
    refused(
        "which a number of frames spread over a video does not keep to",
        InputError,
        into=new,
        model=omni,
        sampling=Sampling(frames=8),
    )
    refused("has a combiner of its own", InputError, into=new, model="tiny", compression=Compression(tokens=24))
    refused("needs 2 tokens at least", InputError, into=new, model=omni, compression=Compression(tokens=1))
    refused("not a model directory", CheckpointError, into=new, model="vlm:nowhere")
    with pytest.raises(InputError, match="combiner none keeps every token"):
        Compression(combiner="none", tokens=12)


DRIVER = """
import sys
from longtake.pipeline.indexing import IndexOptions, index
options = IndexOptions(into=sys.argv[2], model=sys.argv[3], commit_s=0.0, decoders=1, budget_bytes=1)
index([sys.argv[1]], options)
"""


def test_a_killed_job_goes_on_to_the_same_tokens(
    tmp_path: Path, make_clip: Callable[..., Path], models: Callable[..., str]
) -> None:
    """With sound, whose loudest value is found anew, and whose mel frames are computed from another place on."""
    clip, model = make_clip(tmp_path / "clip.mp4", 61, seed=9), models("qwen2_5_omni")
    whole, killed = str(tmp_path / "whole"), str(tmp_path / "killed")
    index([str(clip)], IndexOptions(into=whole, model=model))
    job = subprocess.Popen([sys.executable, "-c", DRIVER, str(clip), killed, model], start_new_session=True)
    stop, kept = time.monotonic() + 300, 0
    while not kept and time.monotonic() < stop and job.poll() is None:
        with contextlib.suppress(LongTakeError, ValueError, OSError):
            kept = sum(row.snippets for row in IndexReader.open(killed).videos())
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    [row] = IndexReader.open(killed).videos()
    assert row.status == "indexing" and 0 < row.snippets < 16
    summary = index([str(clip)], IndexOptions(into=killed, model=model))
    assert (summary.indexed, summary.snippets) == (1, 16 - row.snippets)
    one, other = (IndexReader.open(place).video_tokens(row.video_id)[0] for place in (whole, killed))
    assert len(one.snippets) == 16 and one.sounds == 61 * 25
    assert torch.equal(one.tokens_SD, other.tokens_SD) and torch.equal(one.places_S4, other.places_S4)
    assert one.step_s == other.step_s
