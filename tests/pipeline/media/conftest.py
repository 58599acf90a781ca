"""Videos made on the spot, whose every frame carries its own number, and a small model's shapes to read them with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from longtake.operators.model.config import (
    AudioConfig,
    CombinerConfig,
    LatentConfig,
    ModelConfig,
    TextConfig,
    TransformerConfig,
    Tube,
    VideoConfig,
)

BITS = 12
WIDTH, HEIGHT = 160, 96


def _config(frames: int = 8, height: int = 64, width: int = 64) -> ModelConfig:
    transformer = TransformerConfig(depth=1, heads=1)
    return ModelConfig(
        name="shapes",
        width=64,
        video=VideoConfig(
            frames=frames,
            height=height,
            width=width,
            tubes=(Tube(kernel=(1, 16, 16), stride=(1, 16, 16)),),
            encoder=transformer,
        ),
        audio=AudioConfig(frames=64, mels=64, patch=(16, 16), encoder=transformer),
        combiner=CombinerConfig(name="average_pool", tokens=4, transformer=transformer),
        latent=LatentConfig(transformer=transformer),
        text=TextConfig(vocabulary=100, context=64, transformer=transformer, kv_heads=1),
    )


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    """Eight frames of 64 x 64 a snippet."""
    return _config()


@pytest.fixture(scope="session")
def make_config() -> Callable[..., ModelConfig]:
    """Shapes of one's own: make_config(frames=8, height=64, width=64)."""
    return _config


def numbered(number: int) -> NDArray[np.uint8]:
    """A picture that carries `number`: 4 x 3 grey blocks, white where a bit is set, below a moving stripe."""
    picture = np.full((HEIGHT, WIDTH, 3), 40, dtype=np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        value = 230 if number >> bit & 1 else 20
        picture[24 + row * 24 : 48 + row * 24, column * 40 : column * 40 + 40] = value
    x = number * 5 % (WIDTH - 24)
    picture[4:20, x : x + 24] = (230, 200, 30)
    return picture


def read_number(picture_HWC: NDArray[np.uint8]) -> int:
    """The number that a picture carries, after scaling into a square box with black above and below."""
    box, width = picture_HWC.shape[:2]
    scale = min(box / HEIGHT, width / WIDTH)
    top, left = (box - HEIGHT * scale) / 2, (width - WIDTH * scale) / 2
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        y, x = int(top + (36 + row * 24) * scale), int(left + (20 + column * 40) * scale)
        number |= int(picture_HWC[y, x].mean() > 125) << bit
    return number


@pytest.fixture(scope="session")
def number_of() -> Callable[[NDArray[np.uint8]], int]:
    """Reads the number that a made picture carries."""
    return read_number


def _write_clip(
    path: Path,
    *,
    frames: int = 48,
    rate: int | Fraction = 24,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixel_format: str = "yuv420p",
    times_s: Sequence[Fraction] | None = None,
    sound: NDArray[np.float32] | None = None,
    sound_rate_hz: int = 48_000,
    sound_at_s: Fraction = Fraction(0),
    sound_codec: str = "aac",
    video_at_s: Fraction = Fraction(0),
    pictures: Callable[[int], NDArray[np.uint8]] = numbered,
    container: str | None = None,
    sample_aspect: Fraction | None = None,
    muxer_options: dict[str, str] | None = None,
) -> Path:
    """Encode a clip of numbered pictures, at a fixed rate or at `times_s`, with sound that starts at `sound_at_s`."""
    with av.open(str(path), "w", format=container, container_options=muxer_options or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate, options=options or {})
        first = pictures(0)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixel_format
        if sample_aspect is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        # MPEG-2 counts frames and nothing finer.
        base = 1 / Fraction(rate) if codec == "mpeg2video" else Fraction(1, 60_000)
        stream.codec_context.time_base = base
        audio: Any = None
        if sound is not None:
            audio = out.add_stream(sound_codec, rate=sound_rate_hz)
            audio.codec_context.layout = "mono"
        packets: list[tuple[Fraction, Any]] = []
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(pictures(i), format="rgb24")
            at_s = video_at_s + (times_s[i] if times_s is not None else Fraction(i) / Fraction(rate))
            frame.pts, frame.time_base = round(at_s / base), base
            packets += [(Fraction(p.dts) * p.time_base, p) for p in stream.encode(frame)]
        packets += [(Fraction(p.dts) * p.time_base, p) for p in stream.encode()]
        if sound is not None:
            size = 960
            for start in range(0, len(sound), size):
                block = np.ascontiguousarray(sound[start : start + size])[None]
                piece = av.AudioFrame.from_ndarray(block.astype(np.float32), format="fltp", layout="mono")
                piece.sample_rate, piece.time_base = sound_rate_hz, Fraction(1, sound_rate_hz)
                piece.pts = start + round(sound_at_s * sound_rate_hz)
                packets += [(Fraction(p.dts) * p.time_base, p) for p in audio.encode(piece)]
            packets += [(Fraction(p.dts) * p.time_base, p) for p in audio.encode()]
        # Interleaved, as every recorder writes them.
        for _, packet in sorted(packets, key=lambda pair: pair[0]):
            out.mux(packet)
    return path


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """write_clip(path, frames=48, rate=24, codec=..., options=..., times_s=..., sound=..., ...): a numbered clip."""
    return _write_clip


@pytest.fixture(scope="session")
def pyav_frames() -> Callable[[Path, int], Iterator[tuple[Fraction, Any]]]:
    """Every decoded frame of a file's stream with its exact time in seconds, read plainly with PyAV."""

    def read(path: Path, stream: int) -> Iterator[tuple[Fraction, Any]]:
        with av.open(str(path)) as source:
            video: Any = source.streams[stream]
            # With several threads, what is made up around damage is a matter of chance.
            video.codec_context.thread_count = 1
            for packet in source.demux(video):
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    continue
                for frame in decoded:
                    yield frame.pts * Fraction(frame.time_base), frame

    return read
