"""Named model sizes. Each docstring says what the preset is for and what it costs."""

from __future__ import annotations

from collections.abc import Callable

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


def tiny() -> ModelConfig:
    """The shipped size: 8 pictures of 48 x 64 and 32 mel frames a snippet, 4 tokens of width 96.

    About 1.8 M parameters; encodes some hundred snippets a second on a laptop's core, and answers in milliseconds.
    """
    return ModelConfig(
        name="tiny",
        width=96,
        video=VideoConfig(
            frames=8,
            height=48,
            width=64,
            tubes=(
                # One picture of each half of the snippet in overlapping patches, and sparse tubes over each half.
                Tube(kernel=(1, 16, 16), stride=(4, 8, 8), offset=(1, 0, 0)),
                Tube(kernel=(4, 16, 16), stride=(4, 24, 24), offset=(0, 4, 0)),
            ),
            encoder=TransformerConfig(depth=2, heads=4),
        ),
        audio=AudioConfig(frames=32, mels=40, patch=(4, 40), encoder=TransformerConfig(depth=1, heads=4)),
        combiner=CombinerConfig(name="transformer", tokens=4, transformer=TransformerConfig(depth=2, heads=4)),
        latent=LatentConfig(
            transformer=TransformerConfig(depth=2, heads=4), reconstruct_video=16, reconstruct_audio=16
        ),
        text=TextConfig(
            vocabulary=80,
            context=64,
            transformer=TransformerConfig(depth=3, heads=4, mlp_ratio=2.0),
            kv_heads=2,
            width=128,
        ),
        snippet_s=(0.8, 1.25),
        rate_hz=8.0,
    )


def small() -> ModelConfig:
    """The second shipped size, for real pictures and voices: 8 pictures of 64 x 80 and 64 mel frames a snippet.

    About 3.8 M parameters, 4 tokens of width 128 a snippet. Trains in about two hours and a half on two cores.
    """
    return ModelConfig(
        name="small",
        width=128,
        video=VideoConfig(
            frames=8,
            height=64,
            width=80,
            tubes=(
                # As in `tiny`, in larger patches: what is shown is drawn finer.
                Tube(kernel=(1, 20, 20), stride=(4, 10, 10), offset=(1, 2, 0)),
                Tube(kernel=(4, 16, 16), stride=(4, 24, 32)),
            ),
            encoder=TransformerConfig(depth=2, heads=4),
        ),
        # Words want a finer clock and more bands than the made world's sounds.
        audio=AudioConfig(frames=64, mels=48, patch=(4, 48), encoder=TransformerConfig(depth=3, heads=4)),
        combiner=CombinerConfig(name="transformer", tokens=4, transformer=TransformerConfig(depth=2, heads=4)),
        latent=LatentConfig(
            transformer=TransformerConfig(depth=2, heads=4), reconstruct_video=16, reconstruct_audio=16
        ),
        text=TextConfig(
            vocabulary=256,
            context=64,
            transformer=TransformerConfig(depth=4, heads=4, mlp_ratio=2.0),
            kv_heads=2,
            width=160,
            clock=True,
        ),
        snippet_s=(0.8, 1.25),
        rate_hz=8.0,
    )


def base() -> ModelConfig:
    """A size to train from scratch on one GPU: 16 pictures of 224 x 224 and 64 mel frames a snippet, 32 tokens.

    About 150 M parameters (0.6 GB in float32, 2.4 GB with gradients and AdamW's state). It has no shipped weights. The
    tubes are TubeViT's with their length in frames halved, since its clip of 32 frames is twice a snippet's.
    """
    return ModelConfig(
        name="base",
        width=576,
        video=VideoConfig(
            frames=16,
            height=224,
            width=224,
            tubes=(
                Tube(kernel=(4, 8, 8), stride=(8, 32, 32)),
                Tube(kernel=(8, 4, 4), stride=(3, 32, 32), offset=(2, 8, 8)),
                Tube(kernel=(2, 12, 12), stride=(8, 32, 32), offset=(0, 16, 16)),
                Tube(kernel=(1, 16, 16), stride=(16, 16, 16)),
            ),
            encoder=TransformerConfig(depth=8, heads=9),
        ),
        audio=AudioConfig(frames=64, mels=80, patch=(8, 16), encoder=TransformerConfig(depth=4, heads=9)),
        combiner=CombinerConfig(name="transformer", tokens=32, transformer=TransformerConfig(depth=3, heads=9)),
        latent=LatentConfig(
            transformer=TransformerConfig(depth=8, heads=9), reconstruct_video=64, reconstruct_audio=64
        ),
        text=TextConfig(
            vocabulary=16_000,
            context=512,
            transformer=TransformerConfig(depth=8, heads=9, mlp_ratio=8 / 3),
            kv_heads=3,
        ),
        rate_hz=8.0,
    )


def mirasol_3b() -> ModelConfig:
    """The paper's size (Mirasol3B, arXiv 2311.05698): 512 frames as 16 snippets of 32 pictures of 224 x 224.

    About 3 B parameters: 12 GB in float32, 6 GB in bfloat16, 48 GB with gradients and AdamW's state in float32. One
    snippet costs about 0.5 TFLOP to encode. It is there to be measured and trained on a cluster: no weights of this
    size are public.

    Parts are counted by the model's five modules. The audio-video autoregressive part, about half of the whole as in
    the paper, is the combiner and the latent model together (with its prediction heads): what reads snippets one after
    another. The encoders, which see one snippet, and the text decoder with both its embeddings are the other half.
    Which widths and depths the paper has is not published; these are ours. Tubes are TubeViT's own (539 tokens), the
    combiner is the Token Turing Machine with the memory of its paper's default (96 tokens).
    """
    return ModelConfig(
        name="mirasol_3b",
        width=1536,
        video=VideoConfig(
            frames=32,
            height=224,
            width=224,
            tubes=(
                Tube(kernel=(8, 8, 8), stride=(16, 32, 32)),
                Tube(kernel=(16, 4, 4), stride=(6, 32, 32), offset=(4, 8, 8)),
                Tube(kernel=(4, 12, 12), stride=(16, 32, 32), offset=(0, 16, 16)),
                Tube(kernel=(1, 16, 16), stride=(32, 16, 16)),
            ),
            encoder=TransformerConfig(depth=12, heads=24),
        ),
        audio=AudioConfig(frames=256, mels=128, patch=(16, 16), encoder=TransformerConfig(depth=8, heads=24)),
        combiner=CombinerConfig(
            name="ttm",
            tokens=32,
            transformer=TransformerConfig(depth=12, heads=24),
            memory_tokens=96,
            read_tokens=32,
            timestamp=True,
        ),
        latent=LatentConfig(
            transformer=TransformerConfig(depth=40, heads=24), reconstruct_video=256, reconstruct_audio=256
        ),
        text=TextConfig(
            vocabulary=32_000,
            context=1024,
            transformer=TransformerConfig(depth=24, heads=24, mlp_ratio=8 / 3),
            kv_heads=8,
        ),
        rate_hz=8.0,
    )


PRESETS: dict[str, Callable[[], ModelConfig]] = {
    "tiny": tiny, "small": small, "base": base, "mirasol_3b": mirasol_3b
}  # fmt: skip


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """How many parameters each of the model's parts has, by the part's name; nothing is allocated.

    The parts are `video_encoder`, `audio_encoder`, `combiner`, `latent_model` and `text_decoder`; together they are the
    whole model.
    """
    # Here and not at the top: presets can be named and read without loading torch.
    import torch

    from longtake.operators.model.model import LongTakeModel

    with torch.device("meta"):
        model = LongTakeModel(config)
    return {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}


def by_name(name: str) -> ModelConfig:
    """The preset of a name.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset is named {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]()
