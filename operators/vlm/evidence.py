"""Where an answer looked: the attention of the tokens that read it off, over the stored tokens.

Fused attention returns no weights. While a `Watch` is on, every layer of full attention also computes the weights of
the last few query rows, from the same queries and keys; the output stays that of the fused kernel. Layers of linear
attention have no weights and are left out.

Shapes: R watched rows, P keys of the prefix, H heads, G groups of heads that share keys, K keys, E head width,
T snippets.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

NAME = "longtake_watched"
_ACTIVE: ContextVar[Watch | None] = ContextVar("watch", default=None)


class Watch:
    """Collects attention weights while it is entered. One thread at a time: the model's config is switched meanwhile.

    Args:
        language: a language model of transformers.
        keys: P, how many keys from the start to keep the weights of.
        rows: R, how many of the last query rows to watch in each pass.
    """

    def __init__(self, language: Any, *, keys: int, rows: int = 1) -> None:
        self.keys, self.rows = keys, rows
        attentions = [layer.self_attn for layer in language.layers if hasattr(layer, "self_attn")]
        found = [language.config, *(module.config for module in attentions)]
        self._configs = list({id(config): config for config in found}.values())
        self.inner = str(language.config._attn_implementation)
        self._sum_RP: Tensor | None = None
        self._layers = 0
        _register()

    def __enter__(self) -> Watch:
        for config in self._configs:
            config._attn_implementation = NAME
        self._token = _ACTIVE.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ACTIVE.reset(self._token)
        for config in self._configs:
            config._attn_implementation = self.inner

    def note(self, module: Any, query_1HRE: Tensor, key_1GKE: Tensor, scaling: float | None) -> None:
        """One layer's weights of the last rows, averaged over heads."""
        if getattr(module, "sliding_window", None) is not None:
            return
        rows = min(self.rows, query_1HRE.shape[2])
        keys, width = key_1GKE.shape[2:]
        query = query_1HRE[0, :, -rows:].float().unflatten(0, (key_1GKE.shape[1], -1))
        scores = torch.einsum("ghre,gke->ghrk", query, key_1GKE[0].float()) * (scaling or width**-0.5)
        later_RK = torch.ones(rows, keys, dtype=torch.bool, device=scores.device).triu(keys - rows + 1)
        weights_RP = scores.masked_fill(later_RK, float("-inf")).softmax(-1).mean((0, 1))[:, : self.keys]
        self._sum_RP = weights_RP if self._sum_RP is None else self._sum_RP + weights_RP
        self._layers += 1

    def take(self) -> Tensor:
        """The weights since the last call, averaged over layers, float32 [R, P] on the CPU.

        Raises:
            ValueError: no layer of full attention ran.
        """
        if self._sum_RP is None:
            raise ValueError("no layer of full attention ran: there is no evidence")
        weights_RP = (self._sum_RP / self._layers).cpu()
        self._sum_RP, self._layers = None, 0
        return weights_RP


def weights_of_snippets(weights_RP: Tensor, snippet_P: Tensor, snippets: int) -> Tensor:
    """The weight of each snippet, float32 [T] that sums to 1: averaged over rows, text left out.

    A snippet without any token in the prefix (outside of a span) has weight 0.
    """
    inside_P = snippet_P >= 0
    weights_P = weights_RP.double().mean(0)[inside_P]
    weights_T = torch.zeros(snippets, dtype=torch.float64).index_add_(0, snippet_P[inside_P], weights_P)
    total = float(weights_T.sum())
    if total <= 0:
        # Everything went to the text: no snippet is any more likely than another.
        present_T = torch.zeros(snippets, dtype=torch.float64).index_fill_(0, snippet_P[inside_P].unique(), 1.0)
        return (present_T / present_T.sum()).float()
    return (weights_T / total).float()


def _register() -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    if NAME in ALL_ATTENTION_FUNCTIONS:
        return

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        watch = _ACTIVE.get()
        assert watch is not None
        watch.note(module, query, key, kwargs.get("scaling"))
        # "eager" is no entry of the table: each modeling file has its own.
        own: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        return ALL_ATTENTION_FUNCTIONS.get_interface(watch.inner, own)(module, query, key, value, mask, **kwargs)

    def mask(*args: Any, **kwargs: Any) -> Any:
        watch = _ACTIVE.get()
        assert watch is not None
        return ALL_MASK_ATTENTION_FUNCTIONS[watch.inner](*args, **kwargs)

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask)
