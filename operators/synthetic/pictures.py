"""The made world's pictures: antialiased shapes over moving backgrounds, rendered straight to uint8 tensors.

All lengths are in picture heights, so one script renders at any size: a small tensor for training and a large
picture for a file show the same thing. Shapes: N pictures, H rows, W columns, P the side of a thing's patch.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from longtake.operators.synthetic.script import CLUTTER, Scene, Script, Thing

RGB = {
    "red": (0.88, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.93, 0.15),
    "green": (0.10, 0.72, 0.22),
    "cyan": (0.15, 0.88, 0.90),
    "blue": (0.12, 0.22, 0.95),
    "purple": (0.56, 0.14, 0.76),
    "pink": (1.00, 0.58, 0.78),
}
BORDER = 0.06  # the flash's border, in picture heights


def render_pictures(script: Script, times_s: Sequence[float], height: int, width: int) -> Tensor:
    """The pictures at the given times, uint8 [N, H, W, 3]; antialiased, the same for any order of times.

    Raises:
        ValueError: a time that no scene covers.
    """
    for t in times_s:
        if not any(scene.start_s <= t < scene.stop_s for scene in script.scenes):
            raise ValueError(f"no scene covers {t} s of a video of {script.duration_s} s")
    canvas = torch.empty(len(times_s), height, width, 3)
    for scene in script.scenes:
        picks = [n for n, t in enumerate(times_s) if scene.start_s <= t < scene.stop_s]
        if picks:
            local = torch.tensor([times_s[n] - scene.start_s for n in picks])
            canvas[picks] = render_background(scene, local, height, width)
    by_shape: dict[str, list[tuple[int, Thing]]] = {}
    for n, t in enumerate(times_s):
        thing = script.thing_at(t)
        if thing is not None:
            by_shape.setdefault(thing.shape, []).append((n, thing))
    for shape, placed in by_shape.items():
        _paint(canvas, shape, placed, times_s)
    flashing = [n for n, t in enumerate(times_s) if any(f.start_s <= t < f.stop_s for f in script.flashes)]
    if flashing:
        paint_border(canvas, flashing)
    return (canvas.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def _paint(canvas: Tensor, shape: str, placed: list[tuple[int, Thing]], times_s: Sequence[float]) -> None:
    """Blend one shape into the pictures that show it, touching only the patch around it."""
    _, height, width, _ = canvas.shape
    aspect = width / height
    index = torch.tensor([n for n, _ in placed])
    centre = torch.tensor(
        [
            (
                (thing.y + thing.vy * (times_s[n] - thing.start_s)) * height,
                (thing.x + thing.vx * (times_s[n] - thing.start_s)) * aspect * height,
            )
            for n, thing in placed
        ]
    )
    radius = torch.tensor([thing.size * height for _, thing in placed])
    colour = torch.tensor([_jitter(RGB[thing.colour], thing) for _, thing in placed])
    side = math.ceil(2.4 * float(radius.max())) + 3
    corner = (centre - side / 2).floor().long()
    local = torch.arange(side)
    rows_NP, columns_NP = corner[:, :1] + local, corner[:, 1:] + local
    y = (rows_NP + 0.5 - centre[:, :1])[:, :, None] / radius[:, None, None]
    x = (columns_NP + 0.5 - centre[:, 1:])[:, None, :] / radius[:, None, None]
    # One pixel of blur at the edge is the antialiasing: coverage is the distance in pixels, clamped.
    cover = (0.5 - signed_distance(shape, x, y) * radius[:, None, None]).clamp(0, 1)[..., None]
    inside = ((rows_NP >= 0) & (rows_NP < height))[:, :, None] & ((columns_NP >= 0) & (columns_NP < width))[:, None, :]
    cover = cover * inside[..., None]
    at = (index[:, None, None], rows_NP.clamp(0, height - 1)[:, :, None], columns_NP.clamp(0, width - 1)[:, None, :])
    # Clamped coordinates repeat; adding differences keeps the repeats (whose cover is zero) harmless.
    change = (colour[:, None, None] - canvas[at]) * cover
    canvas.index_put_(at, change, accumulate=True)


def _jitter(rgb: tuple[float, float, float], thing: Thing) -> tuple[float, ...]:
    # A fixed small shade of its own for each thing.
    shade = 0.94 + 0.1 * math.modf(thing.x * 9973)[0]
    return tuple(channel * shade for channel in rgb)


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """About the signed distance to a shape's outline in a unit frame (y down), negative inside.

    Raises:
        ValueError: an unknown shape.
    """
    r = (x * x + y * y).sqrt()
    if shape == "circle":
        return r - 0.9
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.8
    if shape == "diamond":
        return (x.abs() * 1.25 + y.abs() * 0.85 - 0.9) / 1.5
    if shape == "ring":
        return (r - 0.72).abs() - 0.24
    if shape == "cross":
        a, b = x.abs(), y.abs()
        return torch.minimum(torch.maximum(a - 0.95, b - 0.3), torch.maximum(a - 0.3, b - 0.95))
    if shape == "triangle":
        return torch.maximum(x.abs() * 0.89 - (y + 0.95) * 0.45, y - 0.75)
    if shape == "star":
        angle = torch.atan2(x, -y)
        sector = 2 * math.pi / 5
        a = (angle + sector / 2) % sector - sector / 2
        px, py = r * a.abs().sin(), r * a.cos()
        # The edge from the outer tip (0, 1) to the inner corner at half a sector.
        inner = 0.42
        tip, corner = (0.0, 1.0), (inner * math.sin(sector / 2), inner * math.cos(sector / 2))
        ex, ey = corner[0] - tip[0], corner[1] - tip[1]
        length = math.hypot(ex, ey)
        return -((px - tip[0]) * ey - (py - tip[1]) * ex) / length
    if shape == "moon":
        bite = ((x - 0.42) ** 2 + (y + 0.1) ** 2).sqrt() - 0.72
        return torch.maximum(r - 0.92, -bite)
    raise ValueError(f"no shape is named {shape!r}")


def paint_border(canvas: Tensor, flashing: list[int]) -> None:
    """Turn the border of some pictures of a canvas white, in place; float32 [N, H, W, 3] in [0, 1]."""
    thick = max(2, round(BORDER * canvas.shape[1]))
    picks = torch.tensor(flashing)
    for rows, columns in (
        (slice(0, thick), slice(None)),
        (slice(-thick, None), slice(None)),
        (slice(None), slice(0, thick)),
        (slice(None), slice(-thick, None)),
    ):
        canvas[picks, rows, columns] = 0.97


def render_background(scene: Scene, local_s: Tensor, height: int, width: int) -> Tensor:
    """A scene's pictures at times since its start; float32 [N, H, W, 3] in [0, 1]."""
    rng = np.random.default_rng(scene.seed)
    dark, light = _muted(rng, 0.08, 0.35), _muted(rng, 0.25, 0.6)
    y = ((torch.arange(height) + 0.5) / height)[None, :, None]
    x = ((torch.arange(width) + 0.5) / height)[None, None, :]
    drift = local_s[:, None, None]
    angle, speed, frequency = rng.uniform(0, 2 * math.pi), rng.uniform(-0.25, 0.25), rng.uniform(1.5, 4.5)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    if scene.kind == "flat":
        field = torch.zeros(len(local_s), height, width)
    elif scene.kind == "gradient":
        field = (along + speed * drift).expand(-1, height, width) % 2.0
        field = torch.where(field > 1, 2 - field, field)
    elif scene.kind == "stripes":
        field = 0.5 + 0.5 * (2 * math.pi * frequency * (along + speed * drift)).sin().expand(-1, height, width)
        field = ((field - 0.5) * 4 + 0.5).clamp(0, 1)
    elif scene.kind == "checker":
        waves = (math.pi * frequency * (along + speed * drift)).sin() * (math.pi * frequency * across).sin()
        field = (waves * 4 + 0.5).clamp(0, 1)
    elif scene.kind == CLUTTER:
        return _clutter(rng, local_s, height, width)
    else:
        field = _clouds(rng, local_s, height, width, 1)[..., 0]
    return dark + (light - dark) * field[..., None]


def _muted(rng: np.random.Generator, low: float, high: float) -> Tensor:
    return torch.tensor(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.45), rng.uniform(low, high)))


def _clouds(rng: np.random.Generator, local_s: Tensor, height: int, width: int, channels: int) -> Tensor:
    """A pan over fractal noise in [0, 1], [N, H, W, channels]: octaves of random lattices, smoothly interpolated."""
    # The texture is twice the picture's size in each direction, so that a pan stays inside it.
    texture = torch.zeros(1, channels, 2 * height, 2 * width)
    stretch = 2 ** rng.uniform(-0.7, 0.7)
    for octave in range(6):
        rows, columns = max(2, round(2**octave * 1.5 * stretch)), max(2, round(2**octave * 2.0 / stretch))
        lattice = torch.from_numpy(rng.standard_normal((1, channels, rows + 1, columns + 1))).float()
        smooth = F.interpolate(lattice, size=texture.shape[2:], mode="bicubic", align_corners=True)
        texture += smooth * 0.62**octave
    texture = (texture * 0.28 + 0.5).clamp(0, 1)
    # Where the picture lies on the texture, in the texture's own [-1, 1]: it starts anywhere and pans away.
    start, speed = rng.uniform(-0.4, 0.4, 2), rng.uniform(-0.04, 0.04, 2)
    y = torch.linspace(-0.5, 0.5, height)[None, :, None] + start[0] + speed[0] * local_s[:, None, None]
    x = torch.linspace(-0.5, 0.5, width)[None, None, :] + start[1] + speed[1] * local_s[:, None, None]
    shape = (len(local_s), height, width)
    grid = torch.stack([x.expand(shape), y.expand(shape)], dim=-1).float()
    picture = F.grid_sample(
        texture.expand(len(local_s), -1, -1, -1), grid, padding_mode="reflection", align_corners=False
    )
    return picture.permute(0, 2, 3, 1)


def _clutter(rng: np.random.Generator, local_s: Tensor, height: int, width: int) -> Tensor:
    """A busy scene: coloured clouds with a dozen soft blocks that move, and now and then a cut or a pan."""
    bias = torch.from_numpy(rng.uniform(-0.25, 0.25, 3)).float()
    picture = _clouds(rng, local_s, height, width, 3) * rng.uniform(0.4, 1.0) + bias
    y = ((torch.arange(height) + 0.5) / height)[None, :, None]
    x = ((torch.arange(width) + 0.5) / height)[None, None, :]
    for _ in range(int(rng.integers(4, 14))):
        cx, cy = rng.uniform(0, width / height), rng.uniform(0, 1)
        wide, tall = 0.5 * 2 ** rng.uniform(-4, 0.5), 0.5 * 2 ** rng.uniform(-4, 0.5)
        vx, vy, turn = rng.uniform(-0.3, 0.3), rng.uniform(-0.15, 0.15), rng.uniform(0, math.pi)
        dx = x - cx - vx * local_s[:, None, None]
        dy = y - cy - vy * local_s[:, None, None]
        u, v = dx * math.cos(turn) + dy * math.sin(turn), -dx * math.sin(turn) + dy * math.cos(turn)
        u, v = u / wide, v / tall
        # A block or an ellipse.
        far = torch.maximum(u.abs(), v.abs()) if rng.random() < 0.5 else u * u + v * v
        edge = (1 - far) * rng.uniform(2, 12)
        cover = edge.clamp(0, 1)[..., None] * rng.uniform(0.5, 1.0)
        # Real scenes are mostly dull with some strong colours.
        colour = torch.tensor(colorsys.hsv_to_rgb(rng.random(), rng.beta(1.2, 2.5), rng.uniform(0.05, 1.0)))
        picture = picture * (1 - cover) + colour * cover
    return picture
