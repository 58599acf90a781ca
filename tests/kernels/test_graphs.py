"""Every op can be captured in a CUDA graph: nothing asks the device, and nothing depends on data."""

from __future__ import annotations

import pytest
import torch

from longtake.kernels.bench.evaluation import as_tuple
from longtake.kernels.bench.suites import load_suite, op_names


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("op", op_names())
def test_a_replay_gives_what_a_call_gives(op: str) -> None:
    suite = load_suite(op)
    for case in suite.small_cases:
        inputs, others = (case.make(torch.device("cuda"), seed) for seed in (0, 1))
        with torch.no_grad():
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                suite.ours(inputs)
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = as_tuple(suite.ours(inputs))
            for name, value in others.items():
                if isinstance(value, torch.Tensor):
                    inputs[name].copy_(value)
            graph.replay()
            called = as_tuple(suite.ours(others))
        assert all(torch.equal(a, b) for a, b in zip(captured, called, strict=True)), case.name
