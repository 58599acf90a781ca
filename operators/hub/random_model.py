"""Tiny models of the real classes with random weights, as complete directories: nothing is downloaded.

They answer nonsense, but everything else about them is real: config, weights, tokenizer, chat template and preprocessor
files as the published directories have them, read by transformers itself. Tests, benchmarks and a first try of the
command line need no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from longtake.errors import InputError
from longtake.operators.hub.locate import require_transformers

_CORPUS = (
    "user assistant system seconds which colour was on the screen while a horn sounded? what? yes no red green blue"
)
_CHATML = (
    "{%- for message in messages -%}<|im_start|>{{ message.role + '\\n' }}"
    "{%- if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{%- if part.type == 'video' %}VIDEO{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{%- endfor %}{% endif %}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\nTHINK{% endif -%}"
)
_THINK = "<think>\n{% if enable_thinking is defined and enable_thinking is false %}\n</think>\n\n{% endif %}"
# As published: where each family's chat template puts the video and what it says around it.
_TEMPLATES = {
    "qwen3_5": _CHATML.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>").replace("THINK", _THINK),
    "llava_onevision": _CHATML.replace("role + '\\n'", "role + ' '")
    .replace("VIDEO", "<video>\n")
    .replace("THINK", "")
    .replace("<|im_end|>\n", "<|im_end|>"),
    "qwen2_5_vl": _CHATML.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>").replace("THINK", ""),
    "qwen2_5_omni": _CHATML.replace("VIDEO", "<|vision_bos|><|VIDEO|><|vision_eos|>").replace("THINK", ""),
}
_SPECIALS = {
    "qwen3_5": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "qwen2_5_vl": ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "llava_onevision": ["<image>", "<video>"],
    "qwen2_5_omni": [
        "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
    ],
}  # fmt: skip
_OMNI_NAMES = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
_MEAN, _STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
_MROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """What of LLaVA-OneVision can be chosen."""

    side: int
    width: int


def _tokenizer(transformers: Any, family: str) -> Any:
    """A byte-level BPE tokenizer with the family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([_CORPUS] * 3, trainer)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_SPECIALS[family]]
    names = _OMNI_NAMES if family == "qwen2_5_omni" else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            **names,
            **{f"special_{n}": s for n, s in enumerate(specials) if s not in names.values()},
        },
    )


def _text_config(**changes: Any) -> dict[str, Any]:
    """The language model that the families share, in miniature."""
    return {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.1,
    } | changes  # fmt: skip


def _qwen3_5(transformers: Any, tokenizer: Any, sizes: _Sizes, *, experts: bool = False) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    text = _text_config(
        vocab_size=len(tokenizer), num_hidden_layers=4, full_attention_interval=2, head_dim=32,
        # The gated delta rule amplifies rounding: with 0.2 float32 itself would be 1e-4 from float64.
        initializer_range=0.04,
        linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
        rope_parameters={**_MROPE, "partial_rotary_factor": 0.5, "mrope_interleaved": True},
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


def _qwen2_5_vl(transformers: Any, tokenizer: Any, sizes: _Sizes) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 8, "out_hidden_size": 32,
        "window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2, "initializer_range": 0.2,
    }  # fmt: skip
    text = _text_config(vocab_size=len(tokenizer), hidden_size=64, rope_parameters=_MROPE)
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision | {"out_hidden_size": 64}, image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"), vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _llava_onevision(transformers: Any, tokenizer: Any, sizes: _Sizes) -> Any:
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "patch_size": 8, "image_size": sizes.side, "vision_use_head": False,
    }  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        text_config=_text_config(model_type="qwen2", vocab_size=len(tokenizer), hidden_size=sizes.width),
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"), image_grid_pinpoints=[[sizes.side, sizes.side]],
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def _qwen2_5_omni(transformers: Any, tokenizer: Any, sizes: _Sizes) -> Any:
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
        text_config=_text_config(vocab_size=len(tokenizer), hidden_size=64, rope_parameters=_MROPE),
        vision_config=vision, audio_config=audio,
        audio_token_index=ids("<|AUDIO|>"), image_token_index=ids("<|IMAGE|>"), video_token_index=ids("<|VIDEO|>"),
        audio_start_token_id=ids("<|audio_bos|>"), audio_end_token_id=ids("<|audio_eos|>"),
        vision_start_token_id=ids("<|vision_bos|>"), vision_end_token_id=ids("<|vision_eos|>"),
    )  # fmt: skip
    return transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)


def _preprocessor(family: str, side: int) -> dict[str, dict[str, Any]]:
    """The preprocessor files of a family by name, laid out as in the published directories."""
    pictures = {"image_mean": _MEAN, "image_std": _STD, "rescale_factor": 1 / 255}
    patches: dict[str, Any] = pictures | {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    if family == "qwen3_5":
        budget = {"size": {"shortest_edge": 256, "longest_edge": 16_777_216}}
        image = (
            patches | budget | {"processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
        )
        video = patches | budget | {"video_processor_type": "Qwen3VLVideoProcessor"}
        return {"preprocessor_config.json": image, "video_preprocessor_config.json": video}
    if family == "llava_onevision":
        sized = pictures | {"size": {"height": side, "width": side}}
        return {
            "preprocessor_config.json": sized | {"image_processor_type": "LlavaOnevisionImageProcessor"},
            "video_preprocessor_config.json": sized | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
            "processor_config.json": {
                "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": (side // 8) ** 2,
                "vision_feature_select_strategy": "full",
            },
        }  # fmt: skip
    pixels = {"min_pixels": 256, "max_pixels": 1_048_576}
    if family == "qwen2_5_vl":
        image = {"processor_class": "Qwen2_5_VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
        return {"preprocessor_config.json": patches | pixels | image}
    sound = {
        "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 16, "hop_length": 160, "n_fft": 400,
        "sampling_rate": 16_000, "chunk_length": 300,
    }  # fmt: skip
    omni = {"processor_class": "Qwen2_5OmniProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
    return {"preprocessor_config.json": patches | pixels | sound | omni}


_MAKERS: dict[str, Callable[[Any, Any, _Sizes], Any]] = {
    "qwen3_5": _qwen3_5,
    "qwen3_5_moe": partial(_qwen3_5, experts=True),
    "llava_onevision": _llava_onevision,
    "qwen2_5_omni": _qwen2_5_omni,
    "qwen2_5_vl": _qwen2_5_vl,
}
FAMILIES = tuple(_MAKERS)


def write_random_vlm(directory: str | Path, family: str, *, seed: int = 0, side: int = 40, width: int = 32) -> Path:
    """Write one tiny model: a complete directory that `load_vlm` and transformers' own `from_pretrained` read.

    The same seed gives the same weights. torch's global random state is left as it was.

    Args:
        directory: made where it is not there; must be empty.
        family: one of `FAMILIES`.
        side: of LLaVA-OneVision's pictures, in pixels; the other families take pictures of any size.
        width: of LLaVA-OneVision's tokens. Both are multiples of 8; a picture of 216 pixels has 196 tokens.
    Returns:
        The directory.
    Raises:
        CheckpointError: transformers is missing or too old.
        InputError: an unknown family, sizes that cannot be, or a directory that is not empty or cannot be written.
    """
    folder = Path(directory)
    if family not in _MAKERS:
        raise InputError(f"{family}: no class of models that can be made; there are {', '.join(FAMILIES)}")
    if min(side, width) < 8 or side % 8 or width % 8:
        raise InputError(f"pictures of {side} pixels a side and tokens of {width} numbers: multiples of 8 are wanted")
    transformers = require_transformers()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder}: is not empty; a model is written into a directory of its own")
        _write(transformers, folder, family, seed, _Sizes(side=side, width=width))
    except OSError as error:
        raise InputError(f"{folder}: cannot write a model there: {error.strerror or error}") from error
    return folder


def _write(transformers: Any, folder: Path, family: str, seed: int, sizes: _Sizes) -> None:
    kind = family.removesuffix("_moe")
    tokenizer = _tokenizer(transformers, kind)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _MAKERS[family](transformers, tokenizer, sizes).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Random everywhere: what is initialised to zeros or ones would hide mistakes.
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    # A bar for a file of half a megabyte only stands in the way.
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(_TEMPLATES[kind])
    for name, content in _preprocessor(kind, sizes.side).items():
        (folder / name).write_text(json.dumps(content))
