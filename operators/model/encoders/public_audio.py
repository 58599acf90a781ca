"""Public sound encoders as a model's audio encoder: Whisper's encoder, CLAP, AST.

Shapes: S snippets, P samples, T steps in time, N tokens, D width of the tower, E width of the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from longtake.errors import CheckpointError
from longtake.operators.model.config import AudioConfig
from longtake.operators.model.encoders.spectrogram import ClapFront, KaldiFront, WhisperFront
from longtake.operators.model.encoders.tower import Loaded, Source, load_tower, resolve_layer
from longtake.operators.model.encoders.tower_encoder import TowerEncoder, grid_positions

# model_type of config.json: where transformers keeps the tower.
SOURCES = {
    "whisper": Source(loaded="WhisperModel", inner="encoder", layers="layers", norm="layer_norm", tied=True),
    "clap": Source(loaded="ClapModel", inner="audio_model"),
    "clap_audio_model": Source(loaded="ClapAudioModel"),
    "audio-spectrogram-transformer": Source(loaded="ASTModel", layers="layers", norm="layernorm"),
}


class SoundTower(nn.Module, ABC):
    """A front end and a tower. Features lie on a grid of steps in time and bands of frequency."""

    front: WhisperFront | KaldiFront | ClapFront
    width: int
    bands: int

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.model = loaded.model

    @property
    def dtype(self) -> torch.dtype:
        """Of the tower's weights."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    @abstractmethod
    def count(self, length_S: Tensor) -> Tensor:
        """How many steps sounds of so many samples reach into."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """The front end's output to features [S, T, bands, D] of the whole window that the tower sees."""


class WhisperTower(SoundTower):
    """Whisper's encoder: a token every 20 ms of a window of 30 s."""

    front: WhisperFront

    def __init__(self, loaded: Loaded, layer: int | None) -> None:
        super().__init__(loaded)
        config = loaded.config
        self.front = WhisperFront.read(loaded.folder, int(config.num_mel_bins), 2 * int(config.max_source_positions))
        self.width, self.bands = int(config.d_model), 1

    def count(self, length_S: Tensor) -> Tensor:
        """Two mel frames make a step."""
        step = 2 * self.front.front.hop
        return (length_S + step - 1) // step

    def forward(self, inputs: Tensor) -> Tensor:
        """float [S, M, A] to features [S, T, 1, D]."""
        features_STD: Tensor = self.model(inputs.to(self.dtype)).last_hidden_state
        return features_STD[:, :, None]


class ASTTower(SoundTower):
    """The Audio Spectrogram Transformer: overlapping patches of 16 x 16 of a window of 10.24 s."""

    front: KaldiFront

    def __init__(self, loaded: Loaded, layer: int | None) -> None:
        super().__init__(loaded)
        config = loaded.config
        self.front = KaldiFront.read(loaded.folder, int(config.num_mel_bins), int(config.max_length))
        self.width, self.stride = int(config.hidden_size), int(config.time_stride)
        self.bands = (int(config.num_mel_bins) - config.patch_size) // config.frequency_stride + 1
        self.steps = (int(config.max_length) - config.patch_size) // config.time_stride + 1

    def count(self, length_S: Tensor) -> Tensor:
        """A step counts once its first mel frame is there."""
        return ((self.front.count(length_S) + self.stride - 1) // self.stride).clamp_max(self.steps)

    def forward(self, inputs: Tensor) -> Tensor:
        """float [S, A, M] to features [S, T, bands, D]; the class token and the distillation token are left out."""
        features_SND = self.model(inputs.to(self.dtype)).last_hidden_state[:, 2:]
        features_STBD: Tensor = rearrange(features_SND, "s (b t) d -> s t b d", b=self.bands)
        return features_STBD


class ClapTower(SoundTower):
    """CLAP's audio encoder, a Swin transformer: `layer` counts its stages, the time is in steps of the layer's own.

    Of fusion models only the global branch is used: it is the one for sounds that fit into the window. The stock
    extractor marks one random sound of a batch as longer; here none is.
    """

    front: ClapFront

    def __init__(self, loaded: Loaded, layer: int | None) -> None:
        super().__init__(loaded)
        config, encoder = loaded.config, loaded.model.audio_encoder
        self.front = ClapFront.read(loaded.folder, int(config.num_mel_bins))
        stages = len(config.depths)
        self.layer = None if layer is None else resolve_layer(layer, stages, loaded.folder)
        depth = stages - 1 if self.layer is None else min(self.layer, stages - 1)
        self.width = int(config.patch_embeds_hidden_size) * 2**depth
        # The spectrogram is folded: its time is cut into `folds` pieces, one below the other.
        self.folds = int(encoder.freq_ratio)
        rows, columns = encoder.input_resolutions[depth]
        if rows % self.folds:
            raise CheckpointError(f"{loaded.folder}: layer {layer} has {rows} rows, no multiple of {self.folds}")
        self.bands, self.steps = rows // self.folds, columns * self.folds

    def count(self, length_S: Tensor) -> Tensor:
        """The window is shared out evenly."""
        reached_S: Tensor = (length_S * self.steps + self.front.samples - 1) // self.front.samples
        return reached_S

    def forward(self, inputs: Tensor) -> Tensor:
        """float [S, K, A, M] to features [S, T, bands, D]."""
        longer_S1 = torch.zeros(len(inputs), 1, dtype=torch.bool, device=inputs.device)
        made = self.model(
            input_features=inputs.to(self.dtype), is_longer=longer_S1, output_hidden_states=self.layer is not None
        )
        features_STBD: Tensor
        if self.layer is None:
            features_STBD = rearrange(made.last_hidden_state, "s d b t -> s t b d")
        else:
            features_STBD = rearrange(made.hidden_states[self.layer], "s d (k b) c -> s (k c) b d", k=self.folds)
        return features_STBD


class SoundEncoder(TowerEncoder):
    """A public tower and a projection to the model's width; it serves where `AudioEncoder` does, but hears the wave."""

    tower: SoundTower

    def __init__(
        self,
        tower: SoundTower,
        *,
        rate_hz: int,
        width: int | None,
        trained: bool,
        fingerprint: str,
        position_ND: Tensor | None = None,
    ) -> None:
        super().__init__(
            tower,
            tower_width=tower.width,
            width=width,
            trained=trained,
            fingerprint=fingerprint,
            position_ND=position_ND,
        )
        self.rate_hz = rate_hz

    def for_model(self, config: AudioConfig, width: int) -> SoundEncoder:
        """The same tower with a projection to a model's width, and the places of its features in the snippet.

        Raises:
            ValueError: the model's snippets are longer than what the tower hears as a whole.
        """
        if config.frames > self.most_samples:
            raise ValueError(
                f"a snippet of {config.frames} samples is longer than the {self.most_samples} samples"
                f" ({self.most_samples / self.rate_hz:g} s) that the audio encoder hears at once"
            )
        # In the units of our own encoder's grid: frames of 10 ms, and bands.
        grid = self.grid(config.frames)
        place_ND = grid_positions(grid, (100 * config.frames / self.rate_hz, float(grid[1]), 0.0), width)
        return SoundEncoder(
            self.tower,
            rate_hz=self.rate_hz,
            width=width,
            trained=self.trained,
            fingerprint=self.fingerprint,
            position_ND=place_ND,
        )

    @property
    def most_samples(self) -> int:
        """The longest wave that the tower hears as a whole, at `rate_hz`."""
        return self.tower.front.samples * self.rate_hz // self.tower.front.rate_hz

    def grid(self, samples: int) -> tuple[int, int, int]:
        """Features of waves of so many samples: steps in time, bands from low to high, 1; their product is N."""
        # A number, even where a model is only sketched on the meta device.
        length = self._lengths(torch.tensor([samples], device="cpu"))
        return max(1, int(self.tower.count(length))), self.tower.bands, 1

    def forward(self, wave_SP: Tensor, mask_SP: Tensor) -> tuple[Tensor, Tensor]:
        """Encode mono waves.

        Args:
            wave_SP: float32 [S, P], -1 to 1, `rate_hz` samples a second.
            mask_SP: bool, False where there is no sound; a row's sound ends with its last True.
        Returns:
            features [S, N, E], N as `grid(P)` says, and bool [S, N], False where a token lies behind the sound's end.
        Raises:
            ValueError: the wave or the mask have another shape or dtype, or the wave is longer than the window.
        """
        features_SND, mask_SN = self.features(wave_SP, mask_SP)
        return self.project(features_SND), mask_SN

    def features(self, wave_SP: Tensor, mask_SP: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's own features [S, N, D], worth storing while it is frozen; otherwise as `forward`."""
        return self.encode(*self.prepare(wave_SP, mask_SP), samples=wave_SP.shape[1])

    def prepare(self, wave_SP: Tensor, mask_SP: Tensor) -> tuple[Tensor, Tensor]:
        """The tower's input, float32, as the class's feature extractor makes it, and each row's steps, int64 [S]."""
        if wave_SP.dtype != torch.float32 or wave_SP.ndim != 2 or not 0 < wave_SP.shape[1] <= self.most_samples:
            raise ValueError(
                f"sound is {wave_SP.dtype} {tuple(wave_SP.shape)}; wanted float32 [S, 1 to {self.most_samples}] at"
                f" {self.rate_hz} Hz"
            )
        if mask_SP.dtype != torch.bool or mask_SP.shape != wave_SP.shape:
            raise ValueError(
                f"the sound's mask is {mask_SP.dtype} {tuple(mask_SP.shape)}; wanted bool {tuple(wave_SP.shape)}"
            )
        place_P = torch.arange(1, wave_SP.shape[1] + 1, device=wave_SP.device)
        length_S = torch.where(mask_SP, place_P, 0).amax(dim=1)
        wave_SP = torch.where(mask_SP, wave_SP, 0.0)
        wanted_hz = self.tower.front.rate_hz
        if self.rate_hz != wanted_hz:
            from torchaudio.functional import resample

            wave_SP = resample(wave_SP, self.rate_hz, wanted_hz)
            length_S = self._lengths(length_S)
        return self.tower.front(wave_SP, length_S), self.tower.count(length_S)

    def encode(self, inputs: Tensor, steps_S: Tensor, *, samples: int) -> tuple[Tensor, Tensor]:
        """Features of prepared input, cut to the steps of a wave of so many samples, and their mask."""
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            times, bands, _ = self.grid(samples)
            features_SND = self.tower(inputs)[:, :times].flatten(1, 2)
        heard_ST = torch.arange(times, device=inputs.device) < steps_S[:, None]
        return features_SND, heard_ST.repeat_interleave(bands, dim=1)

    def _lengths(self, length_S: Tensor) -> Tensor:
        """Samples at the tower's rate."""
        wanted_hz = self.tower.front.rate_hz
        return (length_S * wanted_hz + self.rate_hz - 1) // self.rate_hz


def load_sound_encoder(
    path: str | Path,
    *,
    width: int | None = None,
    layer: int | None = None,
    trained: bool = False,
    rate_hz: int = 16_000,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
) -> SoundEncoder:
    """Load a public sound encoder.

    Args:
        path: a directory with `config.json`, `*.safetensors` and the preprocessor's file, or a hub name.
        width: the model's width, to which the features are projected; None for no projection.
        layer: which of the class's `hidden_states`, 0 before the first layer, -1 behind the last (of CLAP: stage);
            None for the last hidden state. Layers behind it are not kept (of CLAP they are).
        trained: whether the tower learns too.
        rate_hz: of the waves that will be given; the encoder resamples them where the checkpoint wants another rate.
        dtype: float32, bfloat16 or float16 of the tower; the projection is float32.
    Raises:
        CheckpointError: one line that says what is missing, unknown or contradictory.
        ValueError: `rate_hz` is not positive.
    """
    if rate_hz < 1:
        raise ValueError(f"rate_hz must be positive, not {rate_hz}")
    loaded = load_tower(path, SOURCES, "sound encoder", layer=layer, dtype=dtype, device=device)
    tower = BUILDERS[loaded.kind](loaded, layer)
    made = SoundEncoder(tower, rate_hz=rate_hz, width=width, trained=trained, fingerprint=loaded.fingerprint)
    return made.to(device)


BUILDERS: dict[str, Callable[[Loaded, int | None], SoundTower]] = {
    "whisper": WhisperTower,
    "clap": ClapTower,
    "clap_audio_model": ClapTower,
    "audio-spectrogram-transformer": ASTTower,
}
