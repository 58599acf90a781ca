"""Where an answer looked: the same weights as eager attention gives, and the right snippet when there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.operators.vlm import Decoding, VideoTokens, VLMAnswerer, load_vlm, read_video
from longtake.operators.vlm.evidence import NAME, Watch, weights_of_snippets
from longtake.operators.vlm.prefix import embed

QUESTION = "which colour was on the screen?"
FAMILIES = ["qwen3_5", "llava_onevision", "qwen2_5_omni"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", [False, True])
def test_weights_are_those_of_eager_attention(scene: Callable[..., Any], family: str, choice: bool) -> None:
    made = scene(family, sound=family == "qwen2_5_omni")
    vlm, video = made.vlm, made.video(combiner="pool", tokens=6)
    prefix, answerer = read_video(vlm, video), VLMAnswerer(vlm)
    question = answerer._question(prefix, QUESTION)
    if choice:
        said = vlm.family.prompt.ids("was on the screen")
        answer = answerer.answer(prefix, QUESTION, choices=["was on the screen"])
    else:
        stream = answerer.stream(prefix, QUESTION, Decoding(limit=4))
        answer, said = stream.finish(), stream.spoken.ids
    # The whole sequence at once, eagerly; rows that the answer's tokens were read off.
    ids, layout, language = question + said[:-1], prefix.layout, vlm.family.language
    language.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            text = vlm.family.model.get_input_embeddings()(torch.tensor(ids))
            positions = torch.cat([layout.positions_AS, layout.text_positions(len(ids))], dim=1)
            maps = language(
                inputs_embeds=torch.cat([embed(vlm.family, layout, video), text])[None],
                position_ids=positions if len(positions) == 1 else positions[:, None],
                attention_mask=torch.ones(1, len(layout) + len(ids), dtype=torch.int64),
                output_attentions=True,
            ).attentions
    finally:
        language.set_attn_implementation("sdpa")
    eager = torch.stack([one[0].mean(0)[-len(said) :] for one in maps if one is not None]).mean(0)
    rows = eager[:, : len(layout)]
    wanted = weights_of_snippets(rows, prefix.snippet_S, 3)
    torch.testing.assert_close(answer.weights_T, wanted, rtol=0, atol=1e-5)
    assert float(answer.weights_T.sum()) == pytest.approx(1, abs=1e-6) and answer.weights_T.dtype == torch.float32
    assert (answer.weights_T > 0).all()


def test_a_span_gives_weight_to_its_snippets_only(scene: Callable[..., Any]) -> None:
    made = scene("qwen3_5")
    video = made.video()
    prefix = read_video(made.vlm, video, keep_S=video.of_snippets(torch.tensor([True, False, True])))
    weights = VLMAnswerer(made.vlm).answer(prefix, QUESTION, Decoding(limit=2)).weights_T
    assert weights[1] == 0 and float(weights.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("family", ["qwen3_5", "llava_onevision"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_snippet_that_the_question_is_about(
    scene: Callable[..., Any], directory: Callable[[str], Path], family: str, place: int
) -> None:
    """Layers pass the embeddings on unchanged and attend by likeness: the snippet that holds the embedding of the
    last word of the prompt must be the one that the answer looked at."""
    made = scene(family)
    vlm = load_vlm(directory(family))
    language = vlm.family.language
    with torch.no_grad():
        for layer in language.layers:
            layer.mlp.down_proj.weight.zero_()
            if not hasattr(layer, "self_attn"):
                layer.linear_attn.out_proj.weight.zero_()
                continue
            layer.self_attn.o_proj.weight.zero_()
            match_by_likeness(layer.self_attn, family)
    answerer = VLMAnswerer(vlm)
    word = answerer._question(read_video(vlm, made.video()), QUESTION)[-1]
    alike = vlm.family.model.get_input_embeddings().weight[word].detach()
    snippets = [
        replace(one, tokens_ND=(alike if number == place else -alike).expand_as(one.tokens_ND).clone())
        for number, one in enumerate(made.snippets())
    ]
    prefix = read_video(vlm, VideoTokens(snippets=tuple(snippets)))
    weights = answerer.answer(prefix, QUESTION, Decoding(limit=1)).weights_T
    assert int(weights.argmax()) == place and float(weights[place]) > 0.95


def match_by_likeness(attention: Any, family: str) -> None:
    """Queries and keys become the same map of the input, in parts of a head that positions hardly turn."""
    query, key, width = attention.q_proj, attention.k_proj, attention.head_dim
    groups = key.weight.shape[0] // width
    share = query.weight.shape[0] // width // groups
    random = torch.randn(groups, width, key.weight.shape[1], generator=torch.Generator().manual_seed(0))
    if family == "qwen3_5":
        # The second half of a head is not turned at all; of a head's rows the second half is its gate.
        random[:, : width // 2] = 0
        gate = torch.zeros_like(random)
        heads = torch.stack([random, gate], dim=1).repeat_interleave(share // 2, 0)
        attention.q_norm.weight.fill_(3.0)
        attention.k_norm.weight.fill_(3.0)
    else:
        # The last pair of a head turns slowest.
        turning = torch.ones(width, dtype=torch.bool)
        turning[[width // 2 - 1, width - 1]] = False
        random[:, turning] = 0
        random *= 3
        heads = random.repeat_interleave(share, 0)
        query.bias.zero_()
        key.bias.zero_()
    key.weight.copy_(random.flatten(0, 1))
    query.weight.copy_(heads.reshape(query.weight.shape))


def test_a_watch_leaves_the_model_as_it_was(scene: Callable[..., Any]) -> None:
    language = scene("llava_onevision").vlm.family.language
    with pytest.raises(RuntimeError, match="stop"), Watch(language, keys=4):
        assert language.config._attn_implementation == NAME
        raise RuntimeError("stop")
    assert language.config._attn_implementation == "sdpa"
    with Watch(language, keys=4) as watch, pytest.raises(ValueError, match="no layer"):
        watch.take()


def test_attention_that_went_to_the_text_alone_favours_no_snippet() -> None:
    snippet: Tensor = torch.tensor([-1, 0, 0, 2])
    assert weights_of_snippets(torch.tensor([[1.0, 0, 0, 0]]), snippet, 3).tolist() == [0.5, 0.0, 0.5]
    assert weights_of_snippets(torch.tensor([[0.0, 1, 1, 2]]), snippet, 3).tolist() == [0.5, 0.0, 0.5]
