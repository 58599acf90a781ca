"""What a world is: a script, its pictures and sound as tensors, and questions about it.

Writing files, training and scoring take any world: the built-in one of shapes and sounds, or one of real material.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from longtake.operators.synthetic.pictures import render_pictures
from longtake.operators.synthetic.questions import (
    KINDS,
    P_NOTHING,
    Kind,
    Question,
    Timeline,
    ask,
    random_span,
    word_list,
)
from longtake.operators.synthetic.recorded.material import Material
from longtake.operators.synthetic.recorded.pictures import PictureRenderer
from longtake.operators.synthetic.recorded.questions import OPEN_KINDS, REAL_KINDS, real_ask, real_span
from longtake.operators.synthetic.recorded.script import RealScript, write_real_script
from longtake.operators.synthetic.recorded.sounds import render_real_sound
from longtake.operators.synthetic.recorded.wording import real_word_list
from longtake.operators.synthetic.script import Script, write_script
from longtake.operators.synthetic.sounds import render_sound

S = TypeVar("S", bound=Timeline)


class World(Protocol[S]):
    """Makes videos whose truth is known. Everything is a function of its arguments: nothing is remembered."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of question that are evaluated."""

    def script(self, seed: int, beats: int) -> S:
        """What happens in a random video; the same seed and length give the same video."""

    def pictures(self, script: S, times_s: Sequence[float], height: int, width: int) -> Tensor:
        """The pictures at the given times, uint8 [N, H, W, 3]."""

    def sound(self, script: S) -> npt.NDArray[np.float32]:
        """The whole sound, float32 mono at 16 kHz, within [-1, 1]."""

    def ask(
        self, rng: random.Random, script: S, kind: Kind, span: tuple[float, float] | None = None
    ) -> Question | None:
        """A random question of a kind, or None where the script allows none of the drawn sort."""

    def span(self, rng: random.Random, script: S) -> tuple[float, float]:
        """A random part of the video, in seconds, that questions may be about."""

    def form(self, question: Question) -> str:
        """What questions share whose answers are to be even."""

    def share_of_nothing(self, kind: Kind) -> float | None:
        """The share of "nothing" among a set's answers of a kind, or None where drawing alone gives it."""

    def words(self) -> tuple[str, ...]:
        """Every word of questions and answers, in a fixed order; of whole numbers those of one digit."""


class BuiltInWorld:
    """Coloured shapes, six sounds and a flash: needs nothing but its code."""

    kinds = KINDS

    def script(self, seed: int, beats: int) -> Script:
        return write_script(seed, beats)

    def pictures(self, script: Script, times_s: Sequence[float], height: int, width: int) -> Tensor:
        return render_pictures(script, times_s, height, width)

    def sound(self, script: Script) -> npt.NDArray[np.float32]:
        return render_sound(script)

    def ask(
        self, rng: random.Random, script: Script, kind: Kind, span: tuple[float, float] | None = None
    ) -> Question | None:
        return ask(rng, script, kind, span)

    def span(self, rng: random.Random, script: Script) -> tuple[float, float]:
        return random_span(rng, script)

    def form(self, question: Question) -> str:
        # Questions of one form ("which colour ...") have one set of answers.
        return " ".join(question.text.split()[:2]) if question.kind != "count" else ""

    def share_of_nothing(self, kind: Kind) -> float | None:
        return None

    def words(self) -> tuple[str, ...]:
        return word_list()


class RealWorld:
    """Pictures and recordings of a material (see `Material.split` for which recordings).

    Raises:
        InputError: from `Material`, where it is made.
    """

    kinds = REAL_KINDS

    def __init__(self, material: Material) -> None:
        self.material = material
        self.renderer = PictureRenderer(material)

    def script(self, seed: int, beats: int) -> RealScript:
        return write_real_script(self.material, seed, beats)

    def pictures(self, script: RealScript, times_s: Sequence[float], height: int, width: int) -> Tensor:
        return self.renderer.render(script, times_s, height, width)

    def sound(self, script: RealScript) -> npt.NDArray[np.float32]:
        return render_real_sound(script, self.material)

    def ask(
        self, rng: random.Random, script: RealScript, kind: Kind, span: tuple[float, float] | None = None
    ) -> Question | None:
        return real_ask(rng, script, kind, span)

    def span(self, rng: random.Random, script: RealScript) -> tuple[float, float]:
        return real_span(rng, script)

    def form(self, question: Question) -> str:
        # Yes and no are even for words, for objects and for the flash.
        return (question.about or "").split()[0] if question.kind == "exists" else ""

    def share_of_nothing(self, kind: Kind) -> float | None:
        return P_NOTHING if kind in OPEN_KINDS else None

    def words(self) -> tuple[str, ...]:
        return real_word_list(self.material)


BUILT_IN = BuiltInWorld()
