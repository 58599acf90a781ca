"""Public models write an index: real jobs on real files, against the same model in one process, bit for bit."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", minversion="5.18")

from tests.pipeline.indexing.held_job import HeldJob

from longtake.errors import CheckpointError, IndexMismatchError, InputError, LongTakeError
from longtake.jobs import cluster
from longtake.jobs.main import main
from longtake.operators.hub.random_model import write_random_vlm
from longtake.operators.vlm import SnippetTokens, load_vlm
from longtake.operators.vlm.describe import describe_vlm
from longtake.operators.vlm.model import Clip
from longtake.operators.vlm.sound import whole_mel
from longtake.pipeline.indexing.actors import Session
from longtake.pipeline.indexing.index import IndexOptions, index
from longtake.pipeline.indexing.messages import LaneWork
from longtake.pipeline.indexing.model import Compression
from longtake.pipeline.indexing.stages.decode import DecodeStage
from longtake.pipeline.indexing.stages.demux import DemuxStage
from longtake.pipeline.indexing.stages.encode_vlm import VLMStage
from longtake.pipeline.media.demux import demux, make_plan
from longtake.pipeline.media.plan import Sampling
from longtake.pipeline.media.probe import probe
from longtake.pipeline.media.segment import SoundChunk
from longtake.pipeline.media.snippet import Snippet
from longtake.pipeline.media.snippets import read_snippets
from longtake.pipeline.media.sound.whisper_mel import loudest_mel
from longtake.pipeline.media.vlm_input import VLMInput
from longtake.pipeline.table.metadata import IndexMetadata
from longtake.pipeline.table.schema import IndexReader
from longtake.pipeline.table.writer import Committer

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


def input_of(model: str) -> VLMInput:
    return VLMInput(model=describe_vlm(model.removeprefix("vlm:")), frames=8, most_tokens=256)


def expected(
    path: Path, model: str, combiner: str, tokens: int | None, *, at_once: bool = False
) -> list[SnippetTokens]:
    """A file's snippets in one process. `at_once`: its sound is turned into mel frames as a whole, not in blocks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    vlm, info, model_input = load_vlm(model.removeprefix("vlm:")), probe(path), input_of(model)
    plan = make_plan(info, RATE, 8)
    mel_NM, peak = None, None
    if vlm.front is not None and info.audio is not None:
        items = demux(info, plan, model_input.picture_format(info))
        waves = [item.wave_S for item in items if isinstance(item, SoundChunk)]
        mel_NM, peak = whole_mel(torch.cat([torch.from_numpy(wave) for wave in waves if wave is not None]), vlm.front)
        peak = peak if at_once else loudest_mel(info, vlm.front)
    made = []
    for item in read_snippets(info, model_input, RATE):
        if not isinstance(item, Snippet):
            continue
        times_s = [plan.sample_ns(8 * item.index + frame) / 1e9 for frame in range(8)]
        seen = [frame for frame in range(8) if item.frame_mask_F[frame]]
        # Windows of four seconds: 400 frames, fewer at the end.
        last = -(-item.stop_ns * 100 // 1_000_000_000)
        heard_NM = None if mel_NM is None else mel_NM[400 * item.index : last]
        if heard_NM is not None and not at_once:
            heard_NM = torch.from_numpy(item.sound_AM[: len(heard_NM)])
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
    """Places and times are the same; tokens as well, or within a tolerance (of mel frames made in blocks)."""
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
        assert_equal(reader, path, wanted)
        if path == files[0]:
            assert wanted[0].sounds == (100 if family == "qwen2_5_omni" else 0)
    if family == "qwen2_5_omni":
        at_once = expected(files[0], model, told.combiner, told.tokens, at_once=True)
        assert_equal(reader, files[0], at_once, tolerance=2e-5)
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


def test_a_killed_job_goes_on_to_the_same_tokens(
    tmp_path: Path, make_clip: Callable[..., Path], models: Callable[..., str]
) -> None:
    """With sound, whose loudest value is found anew, and whose mel frames are computed from another place on."""
    clip, model, into = make_clip(tmp_path / "clip.mp4", 41, seed=9), models("qwen2_5_omni"), str(tmp_path / "index")
    job = HeldJob([clip], Path(into), hold=1, model=model, token_store="float32", decoders=1)
    job.wait_held()
    job.process.kill()
    job.process.communicate()
    [row] = IndexReader.open(into).videos()
    assert row.status == "indexing" and 0 < row.snippets < 11
    summary = index([str(clip)], IndexOptions(into=into, model=model))
    assert (summary.indexed, summary.snippets) == (1, 11 - row.snippets)
    wanted = expected(clip, model, "pool", 128)
    assert sum(one.sounds for one in wanted) == 41 * 25
    assert_equal(IndexReader.open(into), clip, wanted)


def test_lanes_that_go_through_the_tower_together_keep_their_tokens(
    tmp_path: Path, media: Path, make_clip: Callable[..., Path], models: Callable[..., str]
) -> None:
    """As on a GPU: snippets of one shape in one batch, others beside it; here on the CPU, within its rounding."""
    model = models("qwen3_5")
    model_input, files = (
        input_of(model),
        [media / "chaplin.mp4", make_clip(tmp_path / "clip.mp4", 9), media / "chaplin.mp4"],
    )
    metadata = IndexMetadata(
        model=model, fingerprint=model_input.model.fingerprint, tokens=32, width=model_input.model.width, rate_hz=2.0,
        token_store="float32", kind="vlm", combiner="drop", snippet_frames=8, most_tokens_a_step=256,
    )  # fmt: skip
    committer = Committer(str(tmp_path / "index"), metadata)
    stage = VLMStage(model, 3, "cpu", 1, committer.uri, metadata)
    stage._alone = False
    demuxer, decoder = DemuxStage(model_input, RATE, "auto"), DecodeStage("auto")
    for lane, path in enumerate(files):
        looked = demuxer.look(str(path), "")
        assert looked.info is not None and looked.plan is not None and looked.form is not None
        work = LaneWork(
            run=lane, video_id=str(lane), plan=looked.plan, form=looked.form, has_sound=False, sound_peak=None, first=0,
            memory=None,
        )  # fmt: skip
        stage.begin(lane, work)
        demuxer.start(lane, looked.info, looked.plan, looked.form, 0)
        last, number = False, 0
        while not last:
            note, items, segment = demuxer.read(lane)
            pictures = decoder.decode(segment)[1] if segment is not None else None
            stage.feed([(lane, lane, number)], False, items, pictures)
            last, number = note.last, number + 1
    stage.feed([], True)
    committer.commit_snippets([stage.flush()])
    reader = IndexReader.open(committer.uri)
    for lane, path in enumerate(files):
        wanted = expected(path, model, "drop", 32)
        video, *_ = reader.video_tokens(str(lane))
        assert [one.step_s for one in video.snippets] == [one.step_s for one in wanted]
        for stored, one in zip(video.snippets, wanted, strict=True):
            assert torch.equal(stored.places_N4, one.places_N4)
            torch.testing.assert_close(stored.tokens_ND, one.tokens_ND, rtol=0, atol=1e-5)


def test_the_command_line_names_model_and_settings(
    tmp_path: Path, media: Path, models: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    into, model = tmp_path / "index", models("llava_onevision")
    video = str(media / "rotated_90.mov")
    given = ["--model", model, "--combiner", "drop", "--tokens-per-snippet", "7", "--tokens", "bfloat16"]
    assert main(["index", video, "--into", str(into), *given]) == 0
    capsys.readouterr()
    assert main(["status", str(into)]) == 0
    said = capsys.readouterr().out
    assert "bfloat16 tokens" in said and "at most 7 tokens (x 32) a snippet of 8 pictures" in said
    assert main(["index", video, "--into", str(into), "--combiner", "merge"]) != 0
    assert "use these settings, another index, or --rebuild" in " ".join(capsys.readouterr().err.split())
    told = IndexReader.open(str(into)).metadata
    assert (told.combiner, told.tokens, told.token_store, told.format) == ("drop", 7, "bfloat16", 3)
    assert main(["index", video, "--into", str(into), "--model", "tiny", "--rebuild"]) == 0
    assert IndexReader.open(str(into)).metadata.format == 2
    parser = argparse.ArgumentParser()
    cluster.add_parser(parser.add_subparsers())
    args = parser.parse_args(["submit", video, "--into", str(into), *given])
    words = cluster.index_arguments(args)
    assert words[words.index("--model") + 1] == model and words[words.index("--tokens-per-snippet") + 1] == "7"
    assert words[words.index("--combiner") + 1] == "drop"
