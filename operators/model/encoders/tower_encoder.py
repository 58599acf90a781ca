"""A public tower in a model: frozen or trained, its features projected to the model's width and told where they lie.

Shapes: S snippets, N tokens, D width of the tower, E width of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from longtake.operators.model.encoders.own import position_embedding


class TowerEncoder(nn.Module):
    """What encoders of pictures and of sound share.

    The projection is always trained, the tower only where `trained` says so; without a `width` there is none, and
    the features are the tower's own. `fingerprint` names the published weights, for what is stored of them.

    A frozen tower is none of the module's parts: it goes where the module goes, but stays in evaluation mode, and is
    in neither `parameters()` nor `state_dict()`, so it is not trained by accident and not copied into checkpoints.
    """

    tower: Any
    position_ND: Tensor | None

    def __init__(
        self,
        tower: nn.Module,
        *,
        tower_width: int,
        width: int | None,
        trained: bool,
        fingerprint: str,
        position_ND: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.trained = trained
        self.fingerprint = fingerprint
        self.width = tower_width if width is None else width
        if trained:
            self.tower = tower
        else:
            self.__dict__["tower"] = tower.requires_grad_(False).eval()
        self.projection: nn.Module = nn.Identity() if width is None else nn.Linear(tower_width, width)
        self.register_buffer("position_ND", position_ND, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but a frozen tower stays in evaluation mode."""
        super().train(mode)
        if not self.trained:
            self.tower.eval()
        return self

    def project(self, features_SND: Tensor) -> Tensor:
        """The tower's features, fresh or stored, in the model's width, with their places where these are known."""
        if isinstance(self.projection, nn.Linear):
            features_SND = features_SND.to(self.projection.weight.dtype)
        projected_SNE: Tensor = self.projection(features_SND)
        return projected_SNE if self.position_ND is None else projected_SNE + self.position_ND

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What `.to` and its like go through.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self.trained:
            self.tower._apply(fn, recurse)
        return self


def grid_positions(grid: tuple[int, int, int], extent: tuple[float, float, float], width: int) -> Tensor:
    """Where the tokens of a grid lie, embedded as the centres of our own encoders' tokens are; float32 [N, E].

    Args:
        grid: steps in time, rows, columns.
        extent: how long the grid is along each axis, in the input's own units (pictures, pixels).
    """
    axes = [(torch.arange(count) + 0.5) * size / count for count, size in zip(grid, extent, strict=True)]
    return position_embedding(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2), width)
