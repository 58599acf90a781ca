"""With nothing compressed, logits and greedy answers are those of the class's own forward on the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from longtake.operators.vlm import Decoding, VLMAnswerer, read_video
from longtake.operators.vlm.cache import new_cache
from longtake.operators.vlm.layout import Layout
from longtake.operators.vlm.prefix import embed, logits, run

# The published bound. The float32 of these models is itself about that far from float64.
BOUND = 1e-5
# Family, with sound, positions, and whether transformers' own reading of the template is meant.
CASES = [
    ("qwen3_5", False, "hf", True),
    ("qwen3_5", False, "trained", False),
    ("qwen3_5_moe", False, "hf", True),
    ("llava_onevision", False, "trained", True),
    ("llava_onevision", False, "hf", True),
    ("qwen2_5_omni", False, "trained", True),
    ("qwen2_5_omni", True, "trained", True),
    ("qwen2_5_omni", True, "hf", True),
    ("qwen2_5_vl", False, "hf", True),
]


def own_logits(made: Any, inputs: dict[str, Any]) -> Tensor:
    """Of the class's own forward, [S, V]."""
    model = made.vlm.family.model
    # Kept by the model from call to call: what an earlier test asked must not reach this one.
    model.model.rope_deltas = None
    with torch.no_grad():
        result: Tensor = model(**inputs).logits[0]
    return result


@pytest.mark.parametrize(("family", "sound", "positions", "outer"), CASES)
def test_every_logit_of_the_sequence_is_the_models_own(
    scene: Callable[..., Any], family: str, sound: bool, positions: Any, outer: bool
) -> None:
    made = scene(family, sound=sound)
    inputs = made.inputs(outer=outer)
    wanted = own_logits(made, inputs)
    vlm, video = made.vlm, made.video()
    prefix = read_video(vlm, video, positions=positions)
    answerer = VLMAnswerer(vlm)
    ids = answerer._question(prefix, "which colour was on the screen?")
    layout = prefix.layout
    assert len(layout) + len(ids) == inputs["input_ids"].shape[1]
    # The text is the same, token by token; where a stored token stands the input has a placeholder.
    text_S = layout.ids_S >= 0
    assert torch.equal(inputs["input_ids"][0, : len(layout)][text_S], layout.ids_S[text_S])
    assert inputs["input_ids"][0, len(layout) :].tolist() == ids
    # Everything in one pass, then the question alone on the kept prefix.
    whole = Layout(
        ids_S=torch.cat([layout.ids_S, torch.tensor(ids)]),
        stored_S=torch.cat([layout.stored_S, torch.full((len(ids),), -1)]),
        positions_AS=torch.cat([layout.positions_AS, layout.text_positions(len(ids))], dim=1),
        next_position=0,
    )
    with torch.no_grad():
        cache = new_cache(vlm.family.language.config)
        once = logits(vlm.family, run(vlm.family, cache, embed(vlm.family, whole, video), whole.positions_AS))
    assert wanted.std() > 0.2
    torch.testing.assert_close(once, wanted, rtol=0, atol=BOUND)
    kept = answerer.question_logits(prefix, "which colour was on the screen?")
    torch.testing.assert_close(kept, wanted[-len(ids) :], rtol=0, atol=BOUND)


@pytest.mark.parametrize(("family", "sound", "positions", "outer"), [case for case in CASES if case[2] == "hf"])
def test_greedy_answers_are_those_of_generate(
    scene: Callable[..., Any], family: str, sound: bool, positions: Any, outer: bool
) -> None:
    made = scene(family, sound=sound, seed=4)
    prefix = read_video(made.vlm, made.video(), positions=positions)
    for question in ("which colour was on the screen?", "what?"):
        inputs = made.inputs(question, outer=outer)
        made.vlm.family.model.model.rope_deltas = None
        wanted = made.vlm.family.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        stream = VLMAnswerer(made.vlm).stream(prefix, question, Decoding(limit=12))
        stream.finish()
        answer = wanted[0, inputs["input_ids"].shape[1] :].tolist()
        ended = [n for n, one in enumerate(answer) if one in made.vlm.end_ids]
        assert stream.spoken.ids == answer[: ended[0] if ended else None]


def test_the_trained_positions_of_qwen2_5_vl_go_on_after_the_videos_time(scene: Callable[..., Any]) -> None:
    made = scene("qwen2_5_vl")
    video = made.video()
    trained, hf = (read_video(made.vlm, video, positions=name).layout for name in ("trained", "hf"))
    # Five steps of one second, two positions a second: the last step stands at 8; a step's grid is 2 x 3.
    first = int((trained.ids_S < 0).nonzero()[0])
    last = int(trained.positions_AS[:, trained.ids_S < 0].max())
    assert last - int(trained.positions_AS[0, first]) == 8
    assert int(trained.positions_AS[0, -1]) == last + 1 and trained.next_position == last + 2
    assert int(hf.positions_AS[0, -1]) == last - 8 + 3
    assert torch.equal(trained.positions_AS[:, :-1], hf.positions_AS[:, :-1])
    # Those positions, handed to the class's own forward, give our logits.
    inputs = made.inputs()
    ids = inputs["input_ids"][0]
    rest = trained.text_positions(len(ids) - len(trained))
    wanted = own_logits(made, inputs | {"position_ids": torch.cat([trained.positions_AS, rest], dim=1)[:, None]})
    prefix = read_video(made.vlm, video)
    kept = VLMAnswerer(made.vlm).question_logits(prefix, "which colour was on the screen?")
    torch.testing.assert_close(kept, wanted[-len(kept) :], rtol=0, atol=BOUND)
