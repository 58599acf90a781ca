"""How questions about real material are worded: several templates a kind, one of them drawn for each question.

Text is lower case without punctuation, as the built-in world's; `sentence` writes it as people do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from longtake.operators.synthetic.questions import NOTHING
from longtake.operators.synthetic.recorded.material import Material

NEEDLE = (
    "which object was shown when the border flashed",
    "what was on screen when the border flashed",
    "what could be seen during the flash of the border",
    "when the border flashed which object was visible",
)
BIND = (
    "which object was on screen when the voice said {word}",
    "what was visible while the voice said {word}",
    "what could be seen as {word} was said",
    "which object was shown while {word} was spoken",
)
ORDINAL = (
    "which object was on screen the {place} time the voice said {word}",
    "what was visible when {word} was said for the {place} time",
    "the {place} time {word} was spoken which object was shown",
    "what could be seen the {place} time the voice said {word}",
)
SAID = (
    "what did the voice say while the {name} was visible",
    "which word was spoken while the {name} was on screen",
    "what was said when the {name} was shown",
    "what could be heard from the voice while the {name} was shown",
)
SAID_ORDINAL = (
    "what did the voice say the {place} time the {name} was visible",
    "which word was spoken when the {name} was shown for the {place} time",
    "the {place} time the {name} was on screen what was said",
)
AFTER = (
    "what came right after the {name}",
    "which object followed the {name}",
    "what was shown next after the {name}",
    "which object was visible right after the {name}",
)
COUNT_WORD = (
    "how many times did the voice say {word}",
    "how often was {word} said",
    "how many times was {word} spoken",
)
COUNT_NAME = (
    "how many times was {an} {name} shown",
    "how often did {an} {name} appear",
    "how often was {an} {name} on screen",
)
EXISTS_WORD = ("did the voice say {word}", "was {word} said", "was {word} spoken at some time")
EXISTS_NAME = ("was there {an} {name}", "was {an} {name} shown", "did {an} {name} appear")
EXISTS_FLASH = ("did the border flash", "was there a flash of the border")
WHEN_WORD = ("when did the voice say {word}", "at which second was {word} said", "when was {word} spoken")
WHEN_ORDINAL = ("when did the voice say {word} for the {place} time", "when was {word} said the {place} time")
WHEN_NAME = ("when was the {name} shown", "at which second did the {name} appear", "when did the {name} come on screen")
WHEN_NAME_ORDINAL = (
    "when was the {name} shown for the {place} time",
    "at which second did the {name} appear the {place} time",
)
TEMPLATES = (
    *(NEEDLE + BIND + ORDINAL + SAID + SAID_ORDINAL + AFTER + COUNT_WORD + COUNT_NAME),
    *(EXISTS_WORD + EXISTS_NAME + EXISTS_FLASH + WHEN_WORD + WHEN_ORDINAL + WHEN_NAME + WHEN_NAME_ORDINAL),
)
CAPTION = "what happens"


def worded(rng: random.Random, templates: Sequence[str], name: str = "", place: str = "") -> str:
    """A template at random, filled in."""
    article = "an" if name[:1] in "aeiou" else "a"
    return rng.choice(templates).format(word=name, name=name, an=article, place=place)


def real_word_list(material: Material) -> tuple[str, ...]:
    """Every word that questions and answers may hold, in a fixed order; of whole numbers those of one digit."""
    text = " ".join((*TEMPLATES, CAPTION))
    for blank in ("{word}", "{name}", "{place}", "{an}"):
        text = text.replace(blank, " ")
    names = " ".join((*material.objects, *material.words))
    numbers = [str(n) for n in range(10)]
    glue = ["first", "last", "a", "an", NOTHING, "yes", "no", "then", "with", "and", "flash"]
    return tuple(dict.fromkeys([*text.split(), *glue, *names.split(), *numbers]))
