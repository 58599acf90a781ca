"""A public vision-language model as the answering head, over stored tokens. `transformers` is loaded when it is used.

vlm = load_vlm("Qwen3.5-0.8B", "bfloat16", "cuda")
snippets = [vlm.encode_snippet(clip, combiner="pool", tokens=16) for clip in clips]
prefix = read_video(vlm, VideoTokens(snippets=tuple(snippets)))
for piece in VLMAnswerer(vlm).stream(prefix, "What was shown last?"):
    print(piece, end="")
"""

from longtake.operators.vlm.answering import AnswerStream, Decoding, VLMAnswerer
from longtake.operators.vlm.combiners import combine
from longtake.operators.vlm.loading import load_vlm
from longtake.operators.vlm.model import VLM, Clip
from longtake.operators.vlm.prefix import Prefix, read_video
from longtake.operators.vlm.tokens import SnippetTokens, VideoTokens

__all__ = [
    "VLM",
    "AnswerStream",
    "Clip",
    "Decoding",
    "Prefix",
    "SnippetTokens",
    "VLMAnswerer",
    "VideoTokens",
    "combine",
    "load_vlm",
    "read_video",
]
