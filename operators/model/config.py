"""The model's configuration: frozen, keyword-only, and checked where it is built.

A config says everything that the weights do not: shapes of the input, of the tubes, of every transformer, and how
many tokens a snippet is compressed to. It is stored as `config.json` beside the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

CombinerName = Literal["transformer", "ttm", "average_pool", "attention_pool", "c_abstractor"]
Scope = Literal["current", "all_so_far"]

CONFIG_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Tube:
    """One kind of sparse video tube (TubeViT, arXiv 2212.03229, section 3): a strided 3D convolution.

    `kernel`, `stride` and `offset` are (frames, rows, columns). A tube of one frame is a 2D patch.
    """

    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    offset: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if min(self.kernel) < 1 or min(self.stride) < 1 or min(self.offset) < 0:
            raise ValueError(f"tube {self}: kernel and stride must be at least 1 and offset at least 0")

    def grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """How many tubes fit in a clip of `shape` (frames, rows, columns), without padding; 0 where none does."""
        return tuple(  # type: ignore[return-value]
            max(0, (size - offset - kernel) // stride + 1)
            for size, kernel, stride, offset in zip(shape, self.kernel, self.stride, self.offset, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A pre-norm transformer: `depth` layers of `heads` heads, the MLP `mlp_ratio` times as wide as the model."""

    depth: int
    heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.depth < 0 or self.heads < 1 or self.mlp_ratio <= 0:
            raise ValueError(f"{self}: depth >= 0, heads >= 1 and mlp_ratio > 0 are wanted")


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """A public encoder from transformers in the place of our own; see `longtake.operators.model.encoders`.

    `source` is a directory, absolute or relative to the checkpoint's own, or a hub name. `layer` is which of the
    class's `hidden_states` is wanted, None the last. Where `trained` is off the weights stay as published: a
    checkpoint then names them and holds no copy.
    """

    source: str
    layer: int | None = None
    trained: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source:
            raise ValueError(f"a pretrained encoder's source is a directory or a hub name, not {self.source!r}")
        if self.layer is not None and not isinstance(self.layer, int):
            raise ValueError(f"a pretrained encoder's layer is a whole number or null, not {self.layer!r}")


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """What a snippet's pictures look like and how they become tokens.

    Pictures are resized with their aspect kept and padded with black to `height` x `width` ("letterbox"). They become
    tokens by our own encoder, of `tubes` and `encoder`, or by a `pretrained` one, which resizes them once more where
    its checkpoint wants another size.
    """

    frames: int
    height: int
    width: int
    tubes: tuple[Tube, ...] = ()
    encoder: TransformerConfig | None = None
    pretrained: PretrainedConfig | None = None

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"video of {self.frames} x {self.height} x {self.width}: every side must be at least 1")
        if self.pretrained is not None:
            if self.tubes or self.encoder is not None:
                raise ValueError("VideoConfig: 'pretrained' stands in the place of 'tubes' and 'encoder'; not both")
            return
        if self.encoder is None:
            raise ValueError("VideoConfig: 'tubes' and 'encoder', or 'pretrained', are wanted")
        if not self.tubes:
            raise ValueError("a video encoder needs at least one tube")
        for tube in self.tubes:
            if 0 in tube.grid(self.clip):
                raise ValueError(f"{tube} yields no token on a clip of {self.clip} (frames, rows, columns)")

    @property
    def clip(self) -> tuple[int, int, int]:
        """(frames, rows, columns) of one snippet."""
        return (self.frames, self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """What a snippet's sound looks like: a log-mel spectrogram of `frames` x `mels`, cut into patches.

    The spectrogram is computed on the file's continuous 16 kHz mono stream with a 10 ms hop; the mel frames whose
    centre lies in the snippet are area-resampled to `frames`.

    A `pretrained` encoder hears the wave itself: `frames` is then how many samples the longest snippet has, and `mels`
    is 1. Nothing is resampled: a shorter snippet is filled up with silence, and a longer one is refused.
    """

    frames: int
    mels: int = 1
    patch: tuple[int, int] = (0, 0)  # (frames, mels)
    encoder: TransformerConfig | None = None
    sample_rate_hz: int = 16_000
    hop: int = 160
    fft: int = 400
    pretrained: PretrainedConfig | None = None

    def __post_init__(self) -> None:
        if self.pretrained is not None:
            if self.patch != (0, 0) or self.encoder is not None:
                raise ValueError("AudioConfig: 'pretrained' stands in the place of 'patch' and 'encoder'; not both")
            if self.mels != 1 or self.frames < 1:
                raise ValueError(
                    f"a pretrained encoder hears a wave of 'frames' samples, its 'mels' is 1,"
                    f" not {self.frames} x {self.mels}"
                )
            return
        if self.encoder is None or min(self.patch) < 1:
            raise ValueError("AudioConfig: 'patch' and 'encoder', or 'pretrained', are wanted")
        if self.frames % self.patch[0] or self.mels % self.patch[1]:
            raise ValueError(f"a spectrogram of {self.frames} x {self.mels} does not divide into patches {self.patch}")

    @property
    def grid(self) -> tuple[int, int]:
        """(patches in time, patches in frequency) of our own encoder."""
        return (self.frames // self.patch[0], self.mels // self.patch[1])


@dataclass(frozen=True, kw_only=True)
class CombinerConfig:
    """How a snippet's video and audio features become `tokens` tokens (Mirasol3B, section 3.2)."""

    name: CombinerName
    tokens: int
    transformer: TransformerConfig
    # transformer: whether a snippet sees earlier snippets' combined tokens, and how many snippets back at most.
    scope: Scope = "current"
    history: int = 64
    # ttm: K memory tokens, R read tokens (R = tokens), and the optional learned position embeddings and timestamp.
    memory_tokens: int = 0
    read_tokens: int = 0
    summary_hidden: int = 64
    position_embedding: bool = False
    timestamp: bool = False

    def __post_init__(self) -> None:
        if self.name not in get_args(CombinerName):
            raise ValueError(f"no combiner is named {self.name!r}; there are {', '.join(get_args(CombinerName))}")
        if self.scope not in get_args(Scope):
            raise ValueError(f"scope {self.scope!r} is neither of {', '.join(get_args(Scope))}")
        if self.tokens < 1:
            raise ValueError(f"a combiner needs at least 1 output token, not {self.tokens}")
        if self.name == "ttm" and (self.memory_tokens < 1 or self.read_tokens < 1):
            raise ValueError("the ttm combiner needs memory_tokens >= 1 and read_tokens >= 1")
        if self.name == "ttm" and self.read_tokens != self.tokens:
            raise ValueError(
                f"the outputs of the ttm combiner's {self.read_tokens} read tokens are its {self.tokens} tokens;"
                " read_tokens must equal tokens"
            )
        if self.scope == "all_so_far" and self.history < 1:
            raise ValueError("scope all_so_far needs history >= 1")


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """The latent model: a chunk-wise causal transformer over the snippets' tokens (Mirasol3B, section 3.3)."""

    transformer: TransformerConfig
    # Sizes of the reduced features that the reconstruction heads predict, averaged over a snippet's encoder tokens.
    reconstruct_video: int = 0
    reconstruct_audio: int = 0


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text decoder: a Llama-style transformer that cross-attends to the latents."""

    vocabulary: int
    context: int
    transformer: TransformerConfig
    kv_heads: int
    rope_theta: float = 10_000.0
    width: int | None = None  # None: the model's width
    # Whether what is looked at also says when it was, in sin/cos features: for answers in seconds.
    clock: bool = False

    def __post_init__(self) -> None:
        if self.kv_heads < 1 or self.transformer.heads % self.kv_heads:
            raise ValueError(f"{self.transformer.heads} heads do not divide into {self.kv_heads} key-value heads")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model. `snippet_s` is the range of snippet lengths, in seconds, that the weights were trained on."""

    name: str
    width: int
    video: VideoConfig
    audio: AudioConfig
    combiner: CombinerConfig
    latent: LatentConfig
    text: TextConfig
    snippet_s: tuple[float, float] | None = None
    # The sampling that `index` uses when the user names none, in frames a second.
    rate_hz: float = 8.0
    format: int = field(default=CONFIG_FORMAT)

    def to_json(self) -> str:
        """The config as indented JSON; `from_json` reads it back to an equal object."""
        return json.dumps(_plain(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> ModelConfig:
        """Read a config.

        Raises:
            ValueError: not JSON, a field is missing, unknown or out of range, or the format is another version's.
        """
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError(f"a config is a JSON object, not {type(data).__name__}")
        if data.get("format") != CONFIG_FORMAT:
            raise ValueError(f"config format {data.get('format')!r}; this version reads format {CONFIG_FORMAT}")
        return _build(ModelConfig, data)

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the config (not with the weights)."""
        return hashlib.sha256(json.dumps(_plain(self), sort_keys=True).encode()).hexdigest()[:16]


def _plain(config: ModelConfig) -> dict[str, Any]:
    """The config as plain values, each encoder by the fields of its kind alone."""
    plain = dataclasses.asdict(config)
    for part, own in (("video", ("tubes", "encoder")), ("audio", ("patch", "encoder", "hop", "fft"))):
        for name in ("pretrained",) if plain[part]["pretrained"] is None else own:
            del plain[part][name]
    # Configs without a clock are what they were before there was one.
    if not plain["text"]["clock"]:
        del plain["text"]["clock"]
    return plain


T = TypeVar("T")


def _build(kind: type[T], data: Any) -> T:
    """An instance of the dataclass `kind` from plain JSON values, nested dataclasses and tuples included."""
    if not isinstance(data, dict):
        raise ValueError(f"{kind.__name__}: wanted an object, not {data!r}")
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(f"{kind.__name__}: unknown fields {unknown}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        nested = _NESTED.get((kind.__name__, name))
        if nested is not None and isinstance(value, list):
            values[name] = tuple(_build(nested, item) for item in value)
        elif nested is not None and not (value is None and name == "pretrained"):
            values[name] = _build(nested, value)
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error


_NESTED: dict[tuple[str, str], type[Any]] = {
    ("ModelConfig", "video"): VideoConfig,
    ("ModelConfig", "audio"): AudioConfig,
    ("ModelConfig", "combiner"): CombinerConfig,
    ("ModelConfig", "latent"): LatentConfig,
    ("ModelConfig", "text"): TextConfig,
    ("VideoConfig", "tubes"): Tube,
    ("VideoConfig", "encoder"): TransformerConfig,
    ("VideoConfig", "pretrained"): PretrainedConfig,
    ("AudioConfig", "encoder"): TransformerConfig,
    ("AudioConfig", "pretrained"): PretrainedConfig,
    ("CombinerConfig", "transformer"): TransformerConfig,
    ("LatentConfig", "transformer"): TransformerConfig,
    ("TextConfig", "transformer"): TransformerConfig,
}
