"""The combiners by name: one table, which is all that a new one has to be added to."""

from __future__ import annotations

from longtake.operators.model.combiners.abstractor import CAbstractor
from longtake.operators.model.combiners.base import Combiner
from longtake.operators.model.combiners.pooling import AttentionPool, AveragePool
from longtake.operators.model.combiners.transformer import TransformerCombiner
from longtake.operators.model.combiners.ttm import TTMCombiner
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.feature_layout import FeatureLayout

COMBINERS: dict[str, type[Combiner]] = {
    "transformer": TransformerCombiner,
    "ttm": TTMCombiner,
    "average_pool": AveragePool,
    "attention_pool": AttentionPool,
    "c_abstractor": CAbstractor,
}


def build(config: ModelConfig, layout: FeatureLayout | None = None) -> Combiner:
    """The combiner that `config.combiner.name` names, for features that lie as `layout` says.

    Raises:
        ValueError: the combiner cannot be made of the config: no layers, or no grid where it needs one.
    """
    return COMBINERS[config.combiner.name](config, layout)
