"""The inputs that the other tests write by hand are those of the real processors. They need torchvision, which LongTake
itself does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torchvision")

from transformers import AutoProcessor

from longtake.operators.hub.picture_preparation import resize

CASES = [("qwen3_5", False), ("llava_onevision", False), ("qwen2_5_omni", False), ("qwen2_5_omni", True),
         ("qwen2_5_vl", False)]  # fmt: skip


@pytest.mark.parametrize(("family", "sound"), CASES)
def test_the_inputs_are_those_of_the_real_processor(
    scene: Callable[..., Any], directory: Callable[[str], Path], family: str, sound: bool
) -> None:
    made = scene(family, sound=sound)
    processor = AutoProcessor.from_pretrained(directory(family))
    how: dict[str, Any] = {"do_sample_frames": False, "return_tensors": "pt"}
    if family != "llava_onevision":
        # The size that was chosen for the whole video stays.
        how["do_resize"] = False
    if family in ("qwen3_5", "qwen2_5_vl"):
        how["video_metadata"] = [{"fps": 2.0, "frames_indices": list(range(10)), "total_num_frames": 10}]
    if sound:
        how |= {"audio": [made.wave_S.numpy()], "load_audio_from_video": True, "audio_from_video_indices": [0]}
    real = processor(text=[made.text()], videos=[made.frames_FHWC.permute(0, 3, 1, 2)], **how)
    own = made.inputs()
    for name, value in own.items():
        if name == "use_audio_in_video":
            continue
        wanted = torch.as_tensor(real[name])
        torch.testing.assert_close(torch.as_tensor(value).to(wanted), wanted, rtol=0, atol=2e-6, msg=name)
    assert set(real) - {"mm_token_type_ids"} <= set(own)
    # What the model itself prepares on its device is, bit by bit, what the processor prepares.
    preparation = made.vlm.family.preparation
    pixels = preparation.normalise(made.frames_FHWC)
    patches = pixels[None] if family == "llava_onevision" else preparation.patchify(pixels[None])[0]
    assert torch.equal(patches, real["pixel_values_videos"])


def test_resizing_is_that_of_torchvision() -> None:
    from torchvision.transforms.v2 import functional

    frames = torch.randint(0, 256, (3, 120, 90, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = functional.resize(
        frames.permute(0, 3, 1, 2), [40, 56], interpolation=functional.InterpolationMode.BICUBIC, antialias=True
    )
    assert torch.equal(resize(frames, 40, 56).permute(0, 3, 1, 2), wanted)
