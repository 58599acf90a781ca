"""A combiner's step as one CUDA graph: for a few lanes it is many small launches, and launching them is what it costs.

Shapes: B lanes, N feature tokens, m combined tokens, K memory tokens, D width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from longtake.operators.model.combiners.base import Combiner, Features

FIELDS = tuple(field.name for field in dataclasses.fields(Features))
WARM_UPS = 3  # so that programs are compiled and workspaces allocated before the capture


class GraphedStep:
    """Runs `combiner(features, memory, start)` by replaying a graph that was captured on the first call.

    Every call must have the shapes and dtypes of the first one. For inference on a GPU only. What a call returns is
    its own: the next call does not change it.
    """

    def __init__(self, combiner: Combiner) -> None:
        self._combiner = combiner
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: tuple[Tensor, Tensor] | None = None

    def __call__(self, features: Features, memory_BKD: Tensor, start_s_B: Tensor) -> tuple[Tensor, Tensor]:
        """One step of all lanes.

        Raises:
            ValueError: a shape or dtype differs from the first call's.
        """
        given = [*(getattr(features, name) for name in FIELDS), memory_BKD, start_s_B]
        if self._graph is None:
            self._capture(given)
        for kept, tensor in zip(self._inputs, given, strict=True):
            if kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                raise ValueError(
                    f"captured for {kept.dtype} {tuple(kept.shape)}, called with {tensor.dtype} {tuple(tensor.shape)}"
                )
            kept.copy_(tensor)
        assert self._graph is not None and self._outputs is not None
        self._graph.replay()
        tokens_BmD, next_BKD = self._outputs
        return tokens_BmD.clone(), next_BKD.clone()

    def _capture(self, given: list[Tensor]) -> None:
        self._inputs = [tensor.contiguous().clone() for tensor in given]
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self._run()
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._run()

    def _run(self) -> tuple[Tensor, Tensor]:
        *features, memory_BKD, start_s_B = self._inputs
        tokens_BmD, next_BKD = self._combiner(
            Features(**dict(zip(FIELDS, features, strict=True))), memory_BKD, start_s_B
        )
        return tokens_BmD, next_BKD
