"""Fixtures that the whole suite shares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the kernels' tests do without, on machines that have little more than torch and pytest
    pass
else:
    # How long an example takes is the machine's affair: no test fails by the clock.
    settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("no clock")

if TYPE_CHECKING:
    from longtake.operators.model.checkpoint import LoadedModel
    from longtake.pipeline.table.writer import Committer

# One thread a process: the suite runs many processes on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Without a GPU the Triton programs run in Triton's interpreter, which is chosen when they are imported.
if not Path("/dev/nvidiactl").exists() and not Path("/dev/kfd").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


# The folders whose tests start Ray, decoders and processes of their own: one after another, in one process.
OF_PROCESSES = ("benchmarks", "docs", "jobs", "pipeline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2 --dist loadgroup`, as `make test` has it, tests that start processes run beside all others."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(pytest.mark.xdist_group("processes" if folder in OF_PROCESSES else "others"))


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """A test draws the same random numbers whatever ran before it in its process.

    Rules that compare two rounding errors hold for nearly every draw, not for all: kernels are on average twice as
    exact as plain PyTorch in the same dtype, and one draw in some hundred finds PyTorch lucky.
    """
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real videos that lies beside the repository."""
    folder = SHARED / "media"
    if not folder.is_dir():
        pytest.skip("the folder of real videos (../shared/media) is not here")
    return folder


@pytest.fixture(scope="session")
def world_material() -> Path:
    """The folder of pictures and recorded words that lies beside the repository."""
    folder = SHARED / "world"
    if not folder.is_dir():
        pytest.skip("the folder of pictures and recordings (../shared/world) is not here")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference values that lies beside the repository."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the folder of reference values (../shared/reference) is not here")
    return folder


class IndexWriter:
    """Writes real indexes of made-up tokens through the real committer: for tests of reading and asking."""

    def __init__(self, checkpoint: Path) -> None:
        from longtake.operators.model.checkpoint import load_model

        self.checkpoint = checkpoint
        self.loaded: LoadedModel = load_model(str(checkpoint))

    def create(self, folder: Path, videos: Mapping[str, int], *, status: str = "done") -> Committer:
        """An index with `videos` (uri: how many snippets of one second); the committer can add more."""
        from longtake.pipeline.table.metadata import IndexMetadata
        from longtake.pipeline.table.writer import Committer

        config = self.loaded.config
        metadata = IndexMetadata(
            model=str(self.checkpoint),
            fingerprint=self.loaded.fingerprint,
            tokens=config.combiner.tokens,
            width=config.width,
            rate_hz=8.0,
        )
        committer = Committer(str(folder), metadata)
        for uri, snippets in videos.items():
            self.add(committer, uri, range(snippets), status=status)
        return committer

    def add(self, committer: Committer, uri: str, numbers: range, *, status: str = "done") -> None:
        """Commit snippets of one video (random tokens that depend on uri and number), then its row."""
        import numpy as np

        from longtake.pipeline.table.identity import video_id
        from longtake.pipeline.table.schema import VideoRow
        from longtake.pipeline.table.writer import SnippetRow, write_snippets

        metadata = committer.metadata
        key = video_id(uri, "rate=8.0", metadata.fingerprint)
        rows = [
            SnippetRow(
                video_id=key,
                snippet=number,
                start_ns=number * 1_000_000_000,
                stop_ns=(number + 1) * 1_000_000_000,
                pictures=8,
                tokens=np.random.default_rng([int(key[:8], 16), number])
                .standard_normal((metadata.tokens, metadata.width))
                .astype(np.float32),
                text="",
                memory=b"" if number == numbers[-1] else None,
            )
            for number in numbers
        ]
        after = {key: numbers.start - 1}
        committer.commit_snippets([write_snippets(committer.uri, metadata, rows, after)] if rows else [])
        span = committer.spans.get(key)
        committer.put_videos(
            [
                VideoRow(
                    uri=uri,
                    video_id=key,
                    snippets=span.rows if span else 0,
                    frames=span.frames if span else 0,
                    duration_s=float(span.last + 1) if span else None,
                    status=status,
                    model=metadata.model,
                )
            ]
        )


@pytest.fixture(scope="session")
def index_writer(tmp_path_factory: pytest.TempPathFactory) -> IndexWriter:
    """Writes indexes for an untrained model of the shipped size."""
    from longtake.operators.model import presets
    from longtake.operators.model.checkpoint import save_model
    from longtake.operators.synthetic.random_model import random_model

    checkpoint = tmp_path_factory.mktemp("checkpoint") / "random"
    made = random_model(presets.tiny(), seed=1)
    save_model(checkpoint, made.model, made.tokenizer)
    return IndexWriter(checkpoint)


@pytest.fixture(scope="session")
def random_encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the directories `siglip` and `whisper`: tiny public encoders of random weights."""
    import json

    import torch

    transformers = pytest.importorskip("transformers")
    vision = transformers.SiglipVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=16, image_size=64
    )
    sound = transformers.WhisperConfig(
        num_mel_bins=16, d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=40, max_source_positions=100,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = {"siglip": transformers.SiglipVisionModel(vision), "whisper": transformers.WhisperModel(sound)}
    prepared = {
        "siglip": {"image_processor_type": "SiglipImageProcessor", "resample": 3, "image_mean": [0.5] * 3,
                   "image_std": [0.5] * 3, "size": {"height": 64, "width": 64}},
        "whisper": {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16, "chunk_length": 2,
                    "n_fft": 400, "hop_length": 160, "sampling_rate": 16_000},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("encoders")
    for name, model in made.items():
        model.save_pretrained(folder / name)
        (folder / name / "preprocessor_config.json").write_text(json.dumps(prepared[name]))
    return folder
