"""Material from folders: pictures and recordings of every allowed kind, written here by PyAV, and damaged ones."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from longtake.errors import InputError
from longtake.operators.synthetic.recorded.material import SIDE, Material
from longtake.pipeline.synthetic.read_material import read_material, read_recording, read_sprite

# An OGG file holds Opus or Vorbis; what encodes Vorbis here takes two channels.
ENCODERS = {".wav": "pcm_s16le", ".flac": "flac", ".ogg": "libopus", ".stereo.ogg": "vorbis"}
SHARED = Path(__file__).resolve().parents[4] / "shared" / "world"


def write_picture(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """PNG (RGB or RGBA) or JPEG, by PyAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = av.CodecContext.create("png" if path.suffix == ".png" else "mjpeg", "w")
    form = "rgba" if pixels.shape[2] == 4 else "rgb24"
    frame = av.VideoFrame.from_ndarray(pixels, format=form)
    if path.suffix != ".png":
        frame = frame.reformat(format="yuvj444p")
    encoder.width, encoder.height, encoder.pix_fmt = pixels.shape[1], pixels.shape[0], frame.format.name
    encoder.time_base = Fraction(1, 1)
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))


def write_sound(path: Path, wave: npt.NDArray[np.float32], rate_hz: int, layout: str = "mono") -> None:
    """WAV, FLAC or OGG, by PyAV; `wave` is [channels, samples]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        encoder = ENCODERS[".stereo.ogg" if path.suffix == ".ogg" and layout == "stereo" else path.suffix]
        stream = container.add_stream(encoder, rate=rate_hz, layout=layout, options={"strict": "experimental"})
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        resampler = av.AudioResampler(stream.format.name, layout, rate_hz, frame_size=stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))


def tone(hz: float, seconds: float, rate_hz: int) -> npt.NDArray[np.float32]:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.4 * np.sin(2 * np.pi * hz * t))[None].astype(np.float32)


def loudest_hz(wave: npt.NDArray[np.float32]) -> float:
    return float(np.fft.rfftfreq(len(wave), 1 / 16_000)[np.abs(np.fft.rfft(wave)).argmax()])


@pytest.mark.parametrize(("suffix", "channels"), [(".png", 4), (".png", 3), (".jpg", 3), (".jpeg", 3)])
def test_a_picture_is_fitted_and_the_rest_is_clear(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = np.zeros((60, 90, channels), np.uint8)
    pixels[..., 0] = 200
    if channels == 4:
        # The right half is clear; its colour is never seen.
        pixels[:, :45, 3] = 255
        pixels[:, 45:, 1] = 255
    write_picture(tmp_path / f"a{suffix}", pixels)
    sprite = read_sprite(tmp_path / f"a{suffix}")
    assert (sprite.shape, sprite.dtype) == ((SIDE, SIDE, 4), np.uint8)
    # 90 x 60 becomes 128 x 85, in the middle.
    assert not sprite[:21, :, 3].any() and not sprite[107:, :, 3].any()
    left, right = sprite[24:104, :60], sprite[24:104, 68:]
    assert (left[..., 3] == 255).all() and (right[..., 3] == (0 if channels == 4 else 255)).all()
    assert np.abs(left[..., :3].astype(int) - (200, 0, 0)).max() <= 6
    # What is half clear at the edge is still red: the unseen green does not bleed in.
    edge = sprite[24:104, 60:68][sprite[24:104, 60:68, 3] > 64]
    assert edge[:, 0].min() > 190 and edge[:, 1:3].max() <= (2 if channels == 4 else 6)


@pytest.mark.parametrize("suffix", (".wav", ".flac", ".ogg"))
@pytest.mark.parametrize(("rate_hz", "layout"), [(8_000, "mono"), (16_000, "mono"), (44_100, "stereo")])
def test_a_recording_is_whole_at_16_khz(tmp_path: Path, suffix: str, rate_hz: int, layout: str) -> None:
    wave = tone(1000, 0.5, rate_hz)
    path = tmp_path / f"a{suffix}"
    write_sound(path, np.concatenate([wave, wave]) if layout == "stereo" else wave, rate_hz, layout)
    read = read_recording(path)
    # Lossy codecs may end within a block of padding.
    assert read.dtype == np.float32 and 0 <= len(read) - 8_000 <= (1_600 if suffix == ".ogg" else 1)
    assert loudest_hz(read[:8_000]) == pytest.approx(1000, abs=2)
    assert np.sqrt(np.mean(np.square(read[1_000:7_000]))) == pytest.approx(0.4 / np.sqrt(2), rel=0.05)


def test_resampling_keeps_the_band_and_adds_no_mirror_image(tmp_path: Path) -> None:
    write_sound(tmp_path / "a.wav", tone(3600, 1.0, 8_000), 8_000)
    wave = read_recording(tmp_path / "a.wav")
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    hz = np.fft.rfftfreq(len(wave), 1 / 16_000)
    band = power[np.abs(hz - 3600) < 50].sum()
    assert band / power[:].sum() > 0.999
    # The mirror of 3,600 Hz at 4,400 Hz is 60 dB down.
    assert 10 * np.log10(power[np.abs(hz - 4400) < 50].sum() / band) < -60


def small_material(folder: Path) -> tuple[Path, Path]:
    """Three pictures and three words by two speakers, in every format."""
    for number, (label, suffix) in enumerate((("fire_truck", ".png"), ("Guitar", ".jpg"), ("tree", ".png"))):
        pixels = np.full((40, 40, 4 if suffix == ".png" else 3), 255, np.uint8)
        pixels[..., number] = 0
        write_picture(folder / "pictures" / label / f"a{suffix}", pixels)
    for number, (label, suffix) in enumerate((("one", ".wav"), ("two", ".flac"), ("three", ".ogg"))):
        for speaker in ("anna", "old_ben"):
            for take in range(3):
                wave = tone(300 * (number + 1), 0.3 + 0.1 * take, 8_000 if suffix == ".wav" else 24_000)
                path = folder / "sounds" / label / f"{speaker}_{take}{suffix}"
                write_sound(path, wave, 8_000 if suffix == ".wav" else 24_000)
    return folder / "pictures", folder / "sounds"


def test_folders_give_labels_and_names_give_speakers(tmp_path: Path) -> None:
    pictures, sounds = small_material(tmp_path)
    write_sound(sounds / "one" / "alone.wav", tone(500, 0.2, 16_000), 16_000)
    # What is no material is passed over in silence.
    (sounds / "one" / "licence.txt").write_text("free")
    (sounds / "one" / ".hidden.wav").write_text("no sound")
    (pictures / "index.html").write_text("<p>")
    warnings: list[str] = []
    material = read_material(pictures, sounds, warnings.append)
    assert warnings == []
    # Sorted by the folders' names; labels are words in lower case.
    assert material.names == ("guitar", "fire truck", "tree")
    assert material.words == ("one", "three", "two") and len(material.recordings) == 19
    assert material.speakers == ("anna", "old_ben", "unnamed")
    for recording in material.recordings:
        if recording.speaker != "unnamed":
            number = ("one", "two", "three").index(recording.label) + 1
            assert loudest_hz(recording.samples) == pytest.approx(300 * number, abs=6)
            assert recording.duration_s == pytest.approx(0.3 + 0.1 * int(recording.take), abs=0.1)
    again = read_material(pictures, sounds)
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(material.recordings, again.recordings, strict=True))


def test_files_that_cannot_be_used_are_named_and_left_out(tmp_path: Path) -> None:
    pictures, sounds = small_material(tmp_path)
    before = len(read_material(pictures, sounds).recordings)
    whole = (pictures / "tree" / "a.png").read_bytes()
    (pictures / "tree" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "tree" / "text.jpg").write_text("no picture")
    write_picture(pictures / "tree" / "clear.png", np.zeros((20, 20, 4), np.uint8))
    (sounds / "one" / "anna_90.wav").write_bytes(b"RIFF no sound")
    (sounds / "one" / "anna_91.flac").write_bytes(b"")
    write_sound(sounds / "one" / "anna_92.wav", np.zeros((1, 4_000), np.float32), 8_000)
    write_sound(sounds / "one" / "anna_93.flac", tone(400, 1.6, 16_000), 16_000)
    warnings: list[str] = []
    material = read_material(pictures, sounds, warnings.append)
    assert len(material.recordings) == before and len(material.names) == 3
    found = [warning.removeprefix(f"{tmp_path}/") for warning in warnings]
    assert [text.split(": left out: ")[0] for text in found] == [
        *(f"pictures/tree/{name}" for name in ("clear.png", "cut.png", "text.jpg")),
        *(f"sounds/one/{name}" for name in ("anna_90.wav", "anna_91.flac", "anna_92.wav", "anna_93.flac")),
    ]
    reasons = [text.split(": left out: ")[1] for text in found]
    assert reasons[0] == "nothing is visible in it"
    assert [reason for reason in reasons[1:5] if not reason.startswith(("cannot be decoded: ", "holds no sound"))] == []
    assert reasons[5] == "nothing can be heard in it"
    assert reasons[6].startswith("longer than 1.45 s")


def test_too_little_material_is_one_clear_error(tmp_path: Path) -> None:
    pictures, sounds = small_material(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no such folder; wanted is one that holds a folder for each label"):
        read_material(tmp_path / "nowhere", sounds)
    with pytest.raises(
        InputError, match=r"sounds: has usable pictures \(\.png, \.jpg, \.jpeg\) of 0 labels; at least 2"
    ):
        read_material(sounds, sounds)
    for label in ("two", "three"):
        for path in (sounds / label).iterdir():
            path.write_bytes(b"")
    with pytest.raises(InputError, match=r"sounds: has usable recordings .* of 1 labels; at least 2 are wanted"):
        read_material(pictures, sounds)


@pytest.fixture(scope="module")
def shared() -> Material:
    if not SHARED.is_dir():
        pytest.skip("the folder of pictures and recordings (../shared/world) is not here")
    return read_material(SHARED / "pictures", SHARED / "sounds", pytest.fail)


def test_the_shared_material_is_read_whole_and_split_as_its_makers_do(shared: Material) -> None:
    assert len(shared.objects) == len(shared.names) == 32 and len(shared.words) == 10
    assert len(shared.recordings) == 2_500 and len(shared.speakers) == 5
    test = shared.split("test", "george")
    # The Free Spoken Digit Dataset's own convention: takes 0 to 4 are for tests.
    assert {int(r.take) for r in test.recordings if r.voice == "trained"} == set(range(5))
    assert sum(r.voice == "unseen" for r in test.recordings) == 500
    assert {r.speaker for r in shared.split("train", "george").recordings} == set(shared.speakers) - {"george"}
    # Most pictures have clear corners, and speech at 8 kHz has nothing above its band.
    assert (shared.sprites_PSS4[:, 0, 0, 3] == 0).mean() > 0.9
    wave = np.concatenate([r.samples for r in shared.recordings[::50]])
    power = np.abs(np.fft.rfft(wave)) ** 2
    assert power[int(len(power) * 4200 / 8000) :].sum() < 1e-4 * power.sum()
