"""Tiny models of the real classes, with random weights, saved as complete directories: nothing is downloaded.

A `Scene` is one short video for one of them: as snippets for our side, and as the inputs of the class's own forward,
written here by hand from what its processor does (tests/operators/vlm/test_processors.py runs the processor itself).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.operators.vlm import VLM, Clip, SnippetTokens, VideoTokens, load_vlm
from longtake.operators.vlm.sound import MelStream

try:
    import transformers
except ImportError:  # an extra: without it the tests that need a model are skipped
    transformers = None

CORPUS = (
    "user assistant system seconds which colour was on the screen while a horn sounded? what? yes no red green blue"
)
CHATML = (
    "{%- for message in messages -%}<|im_start|>{{ message.role + '\\n' }}"
    "{%- if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{%- if part.type == 'video' %}VIDEO{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{%- endfor %}{% endif %}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\nTHINK{% endif -%}"
)
THINK = "<think>\n{% if enable_thinking is defined and enable_thinking is false %}\n</think>\n\n{% endif %}"
# As published: where each family's chat template puts the video and what it says around it.
TEMPLATES = {
    "qwen3_5": CHATML.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>").replace("THINK", THINK),
    "llava_onevision": CHATML.replace("role + '\\n'", "role + ' '")
    .replace("VIDEO", "<video>\n")
    .replace("THINK", "")
    .replace("<|im_end|>\n", "<|im_end|>"),
    "qwen2_5_vl": CHATML.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>").replace("THINK", ""),
    "qwen2_5_omni": CHATML.replace("VIDEO", "<|vision_bos|><|VIDEO|><|vision_eos|>").replace("THINK", ""),
}
SPECIALS = {
    "qwen3_5": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "qwen2_5_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "llava_onevision": ["<image>", "<video>"],
    "qwen2_5_omni": [
        "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
    ],
}  # fmt: skip
OMNI_NAMES = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}


def tokenizer_for(family: str) -> Any:
    """A byte-level BPE tokenizer with the family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([CORPUS] * 3, trainer)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIALS[family]]
    names = OMNI_NAMES if family == "qwen2_5_omni" else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            **names,
            **{f"special_{n}": s for n, s in enumerate(specials) if s not in names.values()},
        },
    )


def text_config(**changes: Any) -> dict[str, Any]:
    """The language model that the families share, in miniature."""
    return {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.1,
    } | changes  # fmt: skip


def qwen3_5(tokenizer: Any, *, experts: bool = False) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    text = text_config(
        vocab_size=len(tokenizer), num_hidden_layers=4, full_attention_interval=2, head_dim=32,
        # The gated delta rule amplifies rounding: with 0.2 float32 itself would be 1e-4 from float64.
        initializer_range=0.04,
        linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
        rope_parameters={**MROPE, "partial_rotary_factor": 0.5, "mrope_interleaved": True},
    )  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 24, "intermediate_size": 32, "num_heads": 2, "patch_size": 8, "out_hidden_size": 32,
        "num_position_embeddings": 16, "initializer_range": 0.2,
    }  # fmt: skip
    tokens = {
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"), "vision_end_token_id": ids("<|vision_end|>"),
    }  # fmt: skip
    if not experts:
        config = transformers.Qwen3_5Config(text_config=text, vision_config=vision, **tokens)
        return transformers.Qwen3_5ForConditionalGeneration(config)
    del text["intermediate_size"]
    text |= {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16
    }  # fmt: skip
    config = transformers.Qwen3_5MoeConfig(text_config=text, vision_config=vision, **tokens)
    return transformers.Qwen3_5MoeForConditionalGeneration(config)


def qwen2_5_vl(tokenizer: Any) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 8, "out_hidden_size": 32,
        "window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2, "initializer_range": 0.2,
    }  # fmt: skip
    text = text_config(vocab_size=len(tokenizer), hidden_size=64, rope_parameters=MROPE)
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision | {"out_hidden_size": 64}, image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"), vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def llava_onevision(tokenizer: Any) -> Any:
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "patch_size": 8, "image_size": 40, "vision_use_head": False,
    }  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        text_config=text_config(model_type="qwen2", vocab_size=len(tokenizer)), vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"), image_grid_pinpoints=[[40, 40]],
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def qwen2_5_omni(tokenizer: Any) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 8, "out_hidden_size": 64,
        "window_size": 32, "fullatt_block_indexes": [1], "initializer_range": 0.2,
    }  # fmt: skip
    audio = {
        "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 24,
        "n_window": 100, "output_dim": 64, "initializer_range": 0.2,
    }  # fmt: skip
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config=text_config(vocab_size=len(tokenizer), hidden_size=64, rope_parameters=MROPE),
        vision_config=vision, audio_config=audio,
        audio_token_index=ids("<|AUDIO|>"), image_token_index=ids("<|IMAGE|>"), video_token_index=ids("<|VIDEO|>"),
        audio_start_token_id=ids("<|audio_bos|>"), audio_end_token_id=ids("<|audio_eos|>"),
        vision_start_token_id=ids("<|vision_bos|>"), vision_end_token_id=ids("<|vision_eos|>"),
    )  # fmt: skip
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)


def preprocessor(family: str) -> dict[str, dict[str, Any]]:
    """The preprocessor files of a family by name, laid out as in the published directories."""
    pictures = {"image_mean": MEAN, "image_std": STD, "rescale_factor": 1 / 255}
    patches = pictures | {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    if family == "qwen3_5":
        budget = {"size": {"shortest_edge": 256, "longest_edge": 16_777_216}}
        image = (
            patches | budget | {"processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
        )
        video = patches | budget | {"video_processor_type": "Qwen3VLVideoProcessor"}
        return {"preprocessor_config.json": image, "video_preprocessor_config.json": video}
    if family == "llava_onevision":
        sized = pictures | {"size": {"height": 40, "width": 40}}
        return {
            "preprocessor_config.json": sized | {"image_processor_type": "LlavaOnevisionImageProcessor"},
            "video_preprocessor_config.json": sized | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
            "processor_config.json": {
                "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 25,
                "vision_feature_select_strategy": "full",
            },
        }  # fmt: skip
    budget = {"min_pixels": 256, "max_pixels": 1_048_576}
    if family == "qwen2_5_vl":
        image = {"processor_class": "Qwen2_5_VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
        return {"preprocessor_config.json": patches | budget | image}
    sound = {
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16, "hop_length": 160, "n_fft": 400,
        "sampling_rate": 16_000, "chunk_length": 300,
    }  # fmt: skip
    omni = {"processor_class": "Qwen2_5OmniProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
    return {"preprocessor_config.json": patches | budget | sound | omni}


MAKERS: dict[str, Callable[[Any], Any]] = {
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": lambda tokenizer: qwen3_5(tokenizer, experts=True),
    "llava_onevision": llava_onevision,
    "qwen2_5_omni": qwen2_5_omni,
    "qwen2_5_vl": qwen2_5_vl,
}


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a family's complete directory once; tests that change it copy it."""
    if transformers is None:
        pytest.skip("transformers is not installed")
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            path = tmp_path_factory.mktemp("vlm") / family
            tokenizer = tokenizer_for(kind := family.removesuffix("_moe"))
            with torch.random.fork_rng():
                torch.manual_seed(7)
                model = MAKERS[family](tokenizer).eval()
                with torch.no_grad():
                    for parameter in model.parameters():
                        # Random everywhere: what is initialised to zeros or ones would hide mistakes.
                        parameter.add_(torch.randn_like(parameter) * 0.05)
            model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
            (path / "chat_template.jinja").write_text(TEMPLATES[kind])
            for name, content in preprocessor(kind).items():
                (path / name).write_text(json.dumps(content))
            made[family] = path
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
