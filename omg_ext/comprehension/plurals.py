"""English words of which one can be the plural of the other."""

from __future__ import annotations

from functools import cache

# endings and what the singular has in their place; several may fit a word, and a form too many does no harm
_ENDINGS = (
    ("men", "man"), ("people", "person"), ("children", "child"), ("mice", "mouse"), ("lice", "louse"),
    ("geese", "goose"), ("feet", "foot"), ("teeth", "tooth"), ("oxen", "ox"), ("ves", "f"), ("ves", "fe"),
    ("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("oes", "o"), ("s", ""),
)
# what an ending is of more often than of what stands above
_LIKELY = {"ses": "se", "ives": "ife"}
_NO_PLURALS = ("ss", "us", "is")


def same_thing(one: str, other: str) -> bool:
    """Whether two words in lower case are one, or singular and plural of one: ``man`` and ``men``."""
    return not forms(one).isdisjoint(forms(other))


def singular(word: str) -> str:
    """What a word in lower case is the plural of, as far as its ending tells; the word if it looks like none."""
    endings = (*_LIKELY.items(), *_ENDINGS) if not word.endswith("sses") else _ENDINGS
    found = (word.removesuffix(ending) + of_one for ending, of_one in endings if word.endswith(ending))
    return word if word.endswith(_NO_PLURALS) else next(found, word)


@cache
def forms(word: str) -> frozenset[str]:
    """The word, and what its singular may be if it is a plural."""
    singulars = {word} if word.endswith(_NO_PLURALS) else {
        word.removesuffix(ending) + singular for ending, singular in _ENDINGS if word.endswith(ending)}
    return frozenset({word} | {form for form in singulars if len(form) > 1})
