"""The same question put to transformers itself: processor, then the model's own forward on pixels.

This is what a caller does who keeps nothing; benchmarks and tests compare with it.

Shapes: F pictures, H rows, W columns of pixels, n question tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longtake.errors import CheckpointError
from longtake.operators.hub.locate import require_transformers
from longtake.operators.hub.weights import one_line
from longtake.operators.vlm.loading import load_vlm
from longtake.operators.vlm.model import VLM

# Times go to the processors as numbers of pictures at this rate: milliseconds.
CLOCK_HZ = 1000


class PlainCall:
    """A model and its processor, as transformers' documentation uses them.

    Args:
        path, dtype, device: as of `load_vlm`.
    Raises:
        CheckpointError: as of `load_vlm`, or the processor cannot be loaded (video processors need torchvision).
    """

    def __init__(
        self, path: str | Path, dtype: str | torch.dtype = "float32", device: str | torch.device = "cpu"
    ) -> None:
        transformers = require_transformers()
        self.vlm: VLM = load_vlm(path, dtype, device)
        try:
            self.processor: Any = transformers.AutoProcessor.from_pretrained(self.vlm.path, local_files_only=True)
        except Exception as error:  # transformers raises whatever the files or a missing package led it to
            hint = "; pip install torchvision" if "torchvision" in str(error).lower() else ""
            raise CheckpointError(f"{path}: the processor cannot be loaded: {one_line(error)}{hint}") from error

    def inputs(self, frames_FHWC: Tensor, times_s: Sequence[float], question: str) -> Any:
        """What the processor makes of pictures and a question, on the model's device.

        Args:
            frames_FHWC: uint8, of the size that `VLM.frame_size` gives, so that nothing is scaled again.
            times_s: when each was taken, evenly spaced; at least two.
        """
        messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
        text = self.vlm.tokenizer.apply_chat_template(
            messages,
            chat_template=self.vlm.family.prompt.template,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        kind = self._kind
        rate_hz = (len(times_s) - 1) / (times_s[-1] - times_s[0])
        how: dict[str, Any] = {"do_sample_frames": False, "return_tensors": "pt"}
        if kind != "llava_onevision":
            how["do_resize"] = False
        if kind.startswith("qwen2_5_omni"):
            how["fps"] = rate_hz
        elif kind != "llava_onevision":
            indices = [round(time_s * CLOCK_HZ) for time_s in times_s]
            total = round(len(times_s) / rate_hz * CLOCK_HZ)
            how["video_metadata"] = [{"fps": CLOCK_HZ, "frames_indices": indices, "total_num_frames": total}]
        made = self.processor(text=[text], videos=[frames_FHWC.permute(0, 3, 1, 2)], **how)
        return made.to(self.vlm.device, self.vlm.dtype)

    @torch.no_grad()
    def logits(self, frames_FHWC: Tensor, times_s: Sequence[float], question: str, count: int) -> Tensor:
        """The logits at the last `count` tokens of the prompt, float32 [n, V]."""
        inputs = self.inputs(frames_FHWC, times_s, question)
        # Of a long video all logits together would take more memory than the model.
        few = {} if self._kind.startswith("qwen2_5_omni") else {"logits_to_keep": count}
        made: Tensor = self._fresh()(**inputs, **few, use_cache=False).logits[0, -count:]
        return made.float()

    @torch.no_grad()
    def first_token(self, frames_FHWC: Tensor, times_s: Sequence[float], question: str) -> int:
        """The id of the likeliest first token of the answer."""
        inputs = self.inputs(frames_FHWC, times_s, question)
        return int(self._fresh().generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1])

    @property
    def _kind(self) -> str:
        return str(self.vlm.family.model.config.model_type)

    def _fresh(self) -> Any:
        """The model without what an earlier call left in it."""
        model = self.vlm.family.model
        if hasattr(model.model, "rope_deltas"):
            model.model.rope_deltas = None
        return model
