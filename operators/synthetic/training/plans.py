"""The training plans of the shipped sizes."""

from __future__ import annotations

from longtake.operators.synthetic.training.snippet_pool import LongStage
from longtake.operators.synthetic.training.snippet_stage import SnippetStage
from longtake.operators.synthetic.training.task import PoolSpec
from longtake.operators.synthetic.training.trainer import Plan
from longtake.operators.training.losses import LossWeights

# Of several worlds the built-in one, the first, has every third turn: it is learned faster.
TURNS = (0, 1, 1)


def small_plan(seed: int, tasks: int) -> Plan:
    """For `small`, on the built-in world and one of real material, or on one of them.

    Rendering these pictures takes about as long as learning from them, so stage `snippets` draws from stored beats,
    varied, and not from those that become the pool.
    """
    return Plan(
        seed=seed,
        snippet_steps=3200,
        snippet_rate=1.5e-3,
        snippets=SnippetStage(videos=16, beats=8),
        long_steps=8000,
        polish_steps=2500,
        long=LongStage(videos=12, beats=(4, 64), questions=16, captions=1, spans=0.3, spread=0.35),
        polish=LongStage(videos=12, beats=(32, 64), questions=16, captions=1, spans=0.3, spread=0.35),
        pool=PoolSpec(videos=300, beats=64, seed=1),
        stored=PoolSpec(videos=500, beats=64, seed=2),
        varied=True,
        ears=128,
        # Nothing is hidden: what is recalled must have been seen.
        keep=1.0,
        weights=LossWeights(recall=0.3),
        turns=TURNS if tasks > 1 else (0,),
    )
