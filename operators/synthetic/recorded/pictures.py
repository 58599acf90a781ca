"""The pictures of a video of real material: named pictures over the built-in world's backgrounds, as uint8 tensors.

Lengths are in picture heights, so one script renders at any size. Shapes: N frames, H rows, W columns, K showings'
patches of side Q, S the side of a sprite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.operators.synthetic.pictures import paint_border, render_background
from longtake.operators.synthetic.recorded.material import SIDE, Material
from longtake.operators.synthetic.recorded.script import RealScript, Showing

# Sprites are kept at these sides and read at the smallest that holds what is shown, against aliasing.
SIDES = (SIDE // 4, SIDE // 2, SIDE)
# So many patches are blended at a time, so that memory does not grow with the number of frames.
PATCHES = 128


class PictureRenderer:
    """Renders scripts of one material."""

    def __init__(self, material: Material) -> None:
        rgba = torch.from_numpy(material.sprites_PSS4).permute(0, 3, 1, 2)
        self.sprites: dict[int, Tensor] = {}
        for side in SIDES:
            shrunk = []
            # A few at a time: a large material would take four times its size as float32.
            for part in rgba.split(64):
                scaled = part.float() / 255
                # Colours count by how much they cover, else the unseen colour of clear pixels bleeds into the edges.
                pixels = torch.cat([scaled[:, :3] * scaled[:, 3:], scaled[:, 3:]], dim=1)
                shrunk.append((F.avg_pool2d(pixels, SIDE // side) * 255 + 0.5).to(torch.uint8))
            self.sprites[side] = torch.cat(shrunk)

    def render(self, script: RealScript, times_s: Sequence[float], height: int, width: int) -> Tensor:
        """The frames at the given times, uint8 [N, H, W, 3]; antialiased, the same for any order of times.

        Raises:
            ValueError: a time that no scene covers.
        """
        for t in times_s:
            if not 0 <= t < script.duration_s:
                raise ValueError(f"no scene covers {t} s of a video of {script.duration_s} s")
        canvas = torch.empty(len(times_s), height, width, 3)
        for scene in script.scenes:
            picks = [n for n, t in enumerate(times_s) if scene.start_s <= t < scene.stop_s]
            if picks:
                local = torch.tensor([times_s[n] - scene.start_s for n in picks])
                canvas[picks] = render_background(scene, local, height, width)
        by_side: dict[int, list[tuple[int, Showing]]] = {}
        for n, t in enumerate(times_s):
            showing = script.showing_at(t)
            if showing is not None:
                pixels = 2 * _size(showing, t) * height
                side = next((side for side in SIDES if side >= pixels), SIDE)
                by_side.setdefault(side, []).append((n, showing))
        for side, placed in by_side.items():
            for first in range(0, len(placed), PATCHES):
                self._paint(canvas, side, placed[first : first + PATCHES], times_s)
        flashing = [n for n, t in enumerate(times_s) if any(f.start_s <= t < f.stop_s for f in script.flashes)]
        if flashing:
            paint_border(canvas, flashing)
        return (canvas.clamp(0, 1) * 255 + 0.5).to(torch.uint8)

    def _paint(self, canvas: Tensor, side: int, placed: list[tuple[int, Showing]], times_s: Sequence[float]) -> None:
        """Blend sprites of one side into the frames that show them, touching only the patches around them."""
        _, height, width, _ = canvas.shape
        rows = []
        for n, showing in placed:
            local = times_s[n] - showing.start_s
            rows.append(
                (
                    (showing.y + showing.vy * local) * height,
                    (showing.x + showing.vx * local) * width,
                    _size(showing, times_s[n]) * height,
                    showing.angle + showing.turn * local / (showing.stop_s - showing.start_s),
                    showing.opacity(times_s[n]),
                )
            )
        y, x, radius, angle, opacity = torch.tensor(rows).unbind(1)
        patch = math.ceil(2 * math.sqrt(2) * float(radius.max())) + 3
        reach = torch.arange(patch)
        rows_KQ = (y - patch / 2).floor().long()[:, None] + reach
        columns_KQ = (x - patch / 2).floor().long()[:, None] + reach
        down = ((rows_KQ + 0.5 - y[:, None]) / radius[:, None])[:, :, None]
        right = ((columns_KQ + 0.5 - x[:, None]) / radius[:, None])[:, None, :]
        cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
        grid = torch.stack([cosine * right + sine * down, cosine * down - sine * right], dim=-1)
        sprites = self.sprites[side][[showing.picture for _, showing in placed]].float() / 255
        read = F.grid_sample(sprites, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        inside = ((rows_KQ >= 0) & (rows_KQ < height))[:, :, None] & ((columns_KQ >= 0) & (columns_KQ < width))[:, None]
        read = (read * (opacity[:, None, None] * inside)[:, None]).permute(0, 2, 3, 1)
        index = torch.tensor([n for n, _ in placed])[:, None, None]
        at = (index, rows_KQ.clamp(0, height - 1)[:, :, None], columns_KQ.clamp(0, width - 1)[:, None, :])
        # Clamped coordinates repeat; adding differences keeps the repeats (which cover nothing) harmless.
        canvas.index_put_(at, read[..., :3] - canvas[at] * read[..., 3:], accumulate=True)


def _size(showing: Showing, time_s: float) -> float:
    """Half the side at a moment, in picture heights."""
    return showing.size * (1 + showing.growth * (time_s - showing.start_s) / (showing.stop_s - showing.start_s))
