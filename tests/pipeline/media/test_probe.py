"""Probing real files, and refusing what is not a video, each with its own reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from longtake.errors import MediaError
from longtake.pipeline.media.probe import probe

# name: codec, stream, size as shown, rotation, start (ns), stated length (ns), audio codec, subtitle streams
FACTS: dict[str, tuple[str, int, tuple[int, int], int, int, int | None, str | None, tuple[int, ...]]] = {
    "av1.mkv": ("av1", 0, (640, 360), 0, 0, 5_000_000_000, None, ()),
    "big_buck_bunny_30s.webm": ("vp8", 0, (1280, 720), 0, 3_000_000, 30_003_000_000, "vorbis", ()),
    "chaplin.mp4": ("h264", 0, (640, 360), 0, 0, 9_640_000_000, "mp3", ()),
    "corrupted.mp4": ("h264", 0, (1280, 720), 0, 0, 5_000_000_000, None, ()),
    "delayed_start.mp4": ("mpeg4", 0, (480, 320), 0, 1_075_000_000, 960_000_000, None, ()),
    "h265_10bit.mp4": ("hevc", 0, (200, 200), 0, 0, 1_000_000_000, None, ()),
    "nasa_two_streams.mp4": ("h264", 3, (480, 270), 0, 0, 13_013_000_000, "aac", (2, 5)),
    "no_duration.webm": ("vp9", 0, (1280, 720), 0, 0, None, "opus", ()),
    "pancake.mkv": ("h264", 0, (426, 240), 0, 0, 10_381_000_000, "opus", ()),
    "rotated_90.mov": ("h264", 0, (320, 568), 90, 0, 100_000_000, None, ()),
    "unordered_pts.mov": ("h264", 0, (50, 50), 0, 0, 125_000_000, None, ()),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_real_files(media: Path, name: str) -> None:
    codec, stream, size, rotation, start_ns, duration_ns, audio, subtitles = FACTS[name]
    info = probe(media / name)
    assert (info.video.codec, info.video.index) == (codec, stream)
    assert (info.video.width, info.video.height) == size
    assert info.video.rotation == rotation
    assert info.video.start_ns == start_ns
    assert info.duration_ns == duration_ns
    assert (info.audio.codec if info.audio else None) == audio
    assert info.subtitles == subtitles
    assert info.title == Path(name).stem
    assert info.size_bytes == (media / name).stat().st_size


def test_every_real_file_is_in_the_table(media: Path) -> None:
    assert {p.name for p in media.iterdir() if p.suffix != ".md"} == set(FACTS)


def _refusal(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        probe(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "missing.mp4")
    assert "a directory" in _refusal(tmp_path)
    fifo = tmp_path / "pipe.mp4"
    os.mkfifo(fifo)
    assert "not a regular file" in _refusal(fifo)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert "empty" in _refusal(empty)


def test_what_is_not_media_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "letter.mp4"
    text.write_text("Dear Sir,\n" * 500)
    assert "not a media file" in _refusal(text)
    noise = tmp_path / "noise.mkv"
    noise.write_bytes(np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes())
    assert "not a media file" in _refusal(noise)


def test_a_file_cut_before_its_index_is_refused(media: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    # This file's index lies at its end.
    data = (media / "corrupted.mp4").read_bytes()
    cut.write_bytes(data[: data.rindex(b"moov") - 4])
    assert "not a media file" in _refusal(cut)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16_000)
        stream.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert "no video stream (the file holds audio)" in _refusal(path)


def test_a_container_off_the_list_is_refused(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    path = write_clip(tmp_path / "old.avi", codec="mpeg4", options={"bf": "0"}, container="avi")
    assert "its container is not one that LongTake reads" in _refusal(path)


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
    "hls of a url": "#EXTM3U\n#EXTINF:10,\nfile://{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": '<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT30S"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="v" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".m3u8", ".webm"])
def test_a_playlist_is_refused_and_what_it_names_is_not_read(tmp_path: Path, kind: str, suffix: str) -> None:
    """The playlist names a pipe without a writer: whoever opened it would wait there for ever."""
    target = tmp_path / "other.ts"
    os.mkfifo(target)
    path = tmp_path / f"video{suffix}"
    path.write_text(PLAYLISTS[kind].format(target=target))
    assert "a playlist, not a video" in _refusal(path)


def test_a_playlist_of_a_real_video_is_refused_too(media: Path, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_text(PLAYLISTS["hls"].format(target=media / "chaplin.mp4"))
    assert "a playlist" in _refusal(path)


def test_names_that_look_like_protocols_are_names(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("concat:a|b.mp4").write_bytes((media / "unordered_pts.mov").read_bytes())
    assert probe("concat:a|b.mp4").video.width == 50
    with pytest.raises(MediaError, match="no such file"):
        probe("http://example.com/video.mp4")


def test_pixel_aspect_is_applied(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    path = write_clip(tmp_path / "wide.mp4", sample_aspect=Fraction(4, 3))
    info = probe(path)
    assert info.video.sample_aspect == Fraction(4, 3)
    assert (info.video.coded_width, info.video.coded_height) == (160, 96)
    assert (info.video.width, info.video.height) == (213, 96)


def test_a_title_in_the_file_is_its_title(tmp_path: Path, media: Path) -> None:
    path = tmp_path / "file.mkv"
    with av.open(str(media / "unordered_pts.mov")) as source, av.open(str(path), "w") as out:
        out.metadata["title"] = "The kite"
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    assert probe(path).title == "The kite"
