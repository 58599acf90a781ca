"""An untrained model that knows the made world's words."""

from __future__ import annotations

import dataclasses

import torch

from longtake.operators.model.chat import ChatTokenizer
from longtake.operators.model.checkpoint import LoadedModel, fingerprint
from longtake.operators.model.config import ModelConfig
from longtake.operators.model.model import LongTakeModel
from longtake.operators.synthetic.questions import word_list


def random_model(config: ModelConfig, seed: int = 0) -> LoadedModel:
    """An untrained model with fixed random weights and the made world's words: for tests and benchmarks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LongTakeModel(config).eval()
    tokenizer = ChatTokenizer.from_words(word_list())
    if len(tokenizer) > config.text.vocabulary:
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocabulary=len(tokenizer)))
        return random_model(config, seed)
    return LoadedModel(model=model, tokenizer=tokenizer, config=config, fingerprint=fingerprint(model), path=None)
