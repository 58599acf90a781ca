"""Tiny random models are complete, the same for one seed, and never written over anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from longtake.errors import InputError
from longtake.operators.hub.random_model import FAMILIES, write_random_vlm
from longtake.operators.vlm import Clip, load_vlm


@pytest.mark.parametrize("family", FAMILIES)
def test_a_written_model_loads_and_its_seed_decides_it(tmp_path: Path, family: str) -> None:
    state = torch.random.get_rng_state()
    made = [write_random_vlm(tmp_path / str(n), family, seed=seed) for n, seed in enumerate((5, 5, 6))]
    assert torch.equal(torch.random.get_rng_state(), state)
    one, same, other = (load_vlm(path) for path in made)
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_llava_onevisions_pictures_and_width_are_chosen(tmp_path: Path) -> None:
    vlm = load_vlm(write_random_vlm(tmp_path / "llava", "llava_onevision", side=216, width=64))
    assert vlm.frame_size(720, 1280) == (216, 216)
    clip = Clip(frames_FHWC=torch.randint(0, 256, (1, 216, 216, 3), dtype=torch.uint8), times_s=(0.0,))
    assert vlm.encode_snippet(clip).tokens_ND.shape == (196, 64)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="llama: no class of models that can be made; there are qwen3_5, "):
        write_random_vlm(tmp_path / "x", "llama")
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="41 pixels a side and tokens of 32 numbers: multiples of 8"):
        write_random_vlm(tmp_path / "x", "llava_onevision", side=41)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        write_random_vlm(tmp_path, "qwen3_5")
    with pytest.raises(InputError, match="cannot write a model there"):
        write_random_vlm(tmp_path / "note.txt", "qwen3_5")
