"""Tiny models of the real classes (`operators/hub/random_model.py`), each written and loaded once, and scenes for them.

A `Scene` is one short video for one of them: as snippets for our side, and as the inputs of the class's own forward,
written here by hand from what its processor does (tests/operators/vlm/test_processors.py runs the processor itself).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.operators.hub.random_model import write_random_vlm
from longtake.operators.vlm import VLM, Clip, SnippetTokens, VideoTokens, load_vlm
from longtake.operators.vlm.sound import MelStream

try:
    import transformers
except ImportError:  # an extra: without it the tests that need a model are skipped
    transformers = None

MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a family's complete directory once; tests that change it copy it."""
    if transformers is None:
        pytest.skip("transformers is not installed")
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = write_random_vlm(tmp_path_factory.mktemp("vlm") / family, family, seed=7)
        return made[family]

    return make


@pytest.fixture(scope="session")
def load(directory: Callable[[str], Path]) -> Callable[[str], VLM]:
    """Loads a family's model once; tests that change it load their own."""
    loaded: dict[str, VLM] = {}

    def get(family: str) -> VLM:
        if family not in loaded:
            loaded[family] = load_vlm(directory(family))
        return loaded[family]

    return get


QUESTION = "which colour was on the screen?"
FRAMES, FPS = 10, 2.0
SNIPPET = 4


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Ten random pictures at two a second, in snippets of four (the last one short), with a tone where asked."""

    family: str
    vlm: VLM
    frames_FHWC: Tensor
    wave_S: Tensor | None

    def clips(self) -> list[Clip]:
        """The snippets."""
        mels, peak = None, None
        if self.wave_S is not None:
            assert self.vlm.front is not None
            stream = MelStream(front=self.vlm.front)
            mel_NM, peak = stream.push(self.wave_S, last=True), 0.0
            mels, peak = mel_NM.split(int(SNIPPET / FPS * 100)), stream.peak
        return [
            Clip(
                frames_FHWC=self.frames_FHWC[start : start + SNIPPET],
                times_s=tuple(n / FPS for n in range(start, min(start + SNIPPET, FRAMES))),
                start_s=start / FPS,
                mel_NM=None if mels is None else mels[start // SNIPPET],
                peak=peak,
            )
            for start in range(0, FRAMES, SNIPPET)
        ]

    def snippets(self, **how: Any) -> list[SnippetTokens]:
        """The snippets' tokens, encoded one by one."""
        return [self.vlm.encode_snippet(clip, **how) for clip in self.clips()]

    def video(self, **how: Any) -> VideoTokens:
        """The video's tokens."""
        return VideoTokens(snippets=tuple(self.snippets(**how)))

    def text(self, question: str = QUESTION) -> str:
        """What the chat template writes, the video still one placeholder."""
        parts = [{"type": "video"}, {"type": "text", "text": question}]
        made: str = self.vlm.tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return made

    def inputs(self, question: str = QUESTION, *, outer: bool = True) -> dict[str, Any]:
        """The inputs of the class's own forward; `outer` is what transformers does with Qwen3.5's markers."""
        pixels = (self.frames_FHWC.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
            :, None, None
        ]
        text = self.text(question)
        if self.family == "llava_onevision":
            text = text.replace("<video>", "<video>" * (FRAMES * 9 + 1))
            return self._tokens(text, "<video>") | {"pixel_values_videos": pixels[None]}
        patches, grid = patchified(pixels)
        made: dict[str, Any] = {"pixel_values_videos": patches, "video_grid_thw": grid}
        steps, each = FRAMES // 2, int(grid[0, 1:].prod()) // 4
        if self.family.startswith("qwen3_5"):
            times = [(2 * n + 0.5) / FPS for n in range(steps)]
            block = "<|vision_start|>" + "<|video_pad|>" * each + "<|vision_end|>"
            blocks = "".join(f"<{time_s:.1f} seconds>{block}" for time_s in times)
            mark = "<|video_pad|>" if outer else "<|vision_start|><|video_pad|><|vision_end|>"
            return made | self._tokens(text.replace(mark, blocks), "<|video_pad|>")
        if self.family == "qwen2_5_vl":
            made["second_per_grid_ts"] = [2 / FPS]
            return made | self._tokens(text.replace("<|video_pad|>", "<|video_pad|>" * steps * each), "<|video_pad|>")
        made["video_second_per_grid"] = torch.tensor([2 / FPS])
        if self.wave_S is None:
            made |= self._tokens(text.replace("<|VIDEO|>", "<|VIDEO|>" * steps * each), "<|VIDEO|>")
            del made["mm_token_type_ids"]
            return made
        assert self.vlm.front is not None
        extractor = transformers.WhisperFeatureExtractor(feature_size=self.vlm.front.mels, chunk_length=300)
        heard = extractor(self.wave_S.numpy(), sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
        sounds = int(heard.attention_mask.sum()) // 4
        # Chunks of two seconds: two steps of pictures, then fifty tokens of sound.
        block = "".join(
            "<|VIDEO|>" * each * min(2, steps - n) + "<|AUDIO|>" * min(50, sounds - 25 * n) for n in range(0, steps, 2)
        )
        made |= self._tokens(text.replace("<|VIDEO|>", f"<|audio_bos|>{block}<|audio_eos|>"), "<|VIDEO|>")
        del made["mm_token_type_ids"]
        return made | {
            "input_features": heard.input_features,
            "feature_attention_mask": heard.attention_mask,
            "use_audio_in_video": True,
        }

    def _tokens(self, text: str, pad: str) -> dict[str, Tensor]:
        ids = torch.tensor([self.vlm.tokenizer(text, add_special_tokens=False).input_ids])
        video = (ids == self.vlm.tokenizer.convert_tokens_to_ids(pad)).long() * 2
        tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return tokens if self.family == "llava_onevision" else tokens | {"mm_token_type_ids": video}


def patchified(pixels_FCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Patches and grid by the library's own method."""
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    patches, *grid = Qwen3VLVideoProcessor.patchify(SimpleNamespace(), pixels_FCHW[None], 8, 2, 2)
    return patches[0], torch.tensor([grid])


@pytest.fixture(scope="session")
def scene(load: Callable[[str], VLM]) -> Callable[..., Scene]:
    """Makes a family's scene; `sound` gives it five seconds of it."""

    def make(family: str, *, sound: bool = False, seed: int = 3) -> Scene:
        vlm, generator = load(family), torch.Generator().manual_seed(seed)
        height, width = vlm.frame_size(32, 48)
        frames = torch.randint(0, 256, (FRAMES, height, width, 3), dtype=torch.uint8, generator=generator)
        wave = None
        if sound:
            wave = torch.randn(int(FRAMES / FPS * 16_000), generator=generator) * torch.linspace(0.01, 0.3, 80_000)
        return Scene(family=family, vlm=vlm, frames_FHWC=frames, wave_S=wave)

    return make
