"""``<lora:name:te:unet:dyn>`` tags, read as the web UI reads them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..errors import OMGError

_TAG = re.compile(r"<(\w+):([^>]+)>")
_KINDS = ("lora", "lyco")
_KNOWN = ("te", "unet", "dyn")
_SUFFIX = re.compile(r"\.(safetensors|ckpt|pt|bin)$")
_IGNORED = re.compile(r"[\s_\-.]+")


class Tag(NamedTuple):
    """A network named in a prompt.

    Attributes:
        name: the file, as the host looks it up.
        te, unet: multipliers in the text encoders and the UNet.
        dyn: rank that a LoRA is cut to, or None.
        items: the whole tag as written, split at its colons, if it has arguments that only the host understands.
    """

    name: str
    te: float = 1.0
    unet: float = 1.0
    dyn: int | None = None
    items: tuple[str, ...] = ()


def parse_tags(prompt: str, field: str, of_host: Collection[str] = ()) -> tuple[str, list[Tag]]:
    """The prompt without its network tags, and the tags. Arguments also go by name: ``te=``, ``unet=``, ``dyn=``.

    Args:
        of_host: names of further arguments that the host understands.

    Raises:
        OMGError: a tag of another kind than LoRA, an argument that nobody understands, or a weight that is no number.
    """
    tags = [_parse_tag(kind, items, field, of_host) for kind, items in _TAG.findall(prompt)]
    return _TAG.sub("", prompt), tags


def with_weight(prompt: str, weight: float) -> tuple[str, int]:
    """The prompt with this weight, in the text encoder and in the UNet, for each of its LoRA tags; and their number."""
    count = 0

    def weighed(tag: re.Match[str]) -> str:
        nonlocal count
        if tag[1] not in _KINDS:
            return tag[0]
        count += 1
        items = tag[2].split(":")
        positional = [item for item in items if "=" not in item]
        named = [item for item in items if "=" in item and item.split("=", 1)[0] not in ("te", "unet")]
        number = f"{weight:.10g}"
        parts = [*positional[:1], number, *([number, *positional[3:]] if len(positional) > 3 else []), *named]
        return f"<{tag[1]}:{':'.join(parts)}>"

    return _TAG.sub(weighed, prompt), count


def refuse_tags(negative_prompt: str, field: str) -> None:
    """No host knows network tags in a negative prompt: it would read them as words.

    Raises:
        OMGError: there is one.
    """
    tag = _TAG.search(negative_prompt)
    if tag is not None:
        raise OMGError(field, f"{tag[0]} stands in a negative prompt, where it would be read as words; put it into the "
                              "prompt, with a negative weight if it is to work the other way round")


def suggestion(tag: Tag, known: Mapping[str, str]) -> str:
    """What to write instead of a tag whose name nobody knows: ``"; did you mean ...?"``, or nothing.

    Args:
        known: the names that are known, with the file that each stands for.
    """
    wanted = _normalised(tag.name)
    near = difflib.get_close_matches(wanted, {_normalised(name) for name in known}, 3)
    meant = [wanted] if wanted in near else near
    of_file = {file: name for name, file in sorted(known.items(), reverse=True) if _normalised(name) in meant}
    return f"; did you mean {either(tag, sorted(of_file.values()))}?" if of_file else ""


def either(tag: Tag, names: Sequence[str]) -> str:
    """The tag with other names, to choose from."""
    return " or ".join(f"<lora:{name}:{tag.te:g}>" for name in names)


def _normalised(name: str) -> str:
    """A name without what people get wrong: folder, suffix, capitals, spaces and what stands for them."""
    last = name.strip().replace("\\", "/").rsplit("/", 1)[-1].casefold()
    return _IGNORED.sub("", _SUFFIX.sub("", last))


def _parse_tag(kind: str, text: str, field: str, of_host: Collection[str]) -> Tag:
    if kind not in _KINDS:
        raise OMGError(field, f"<{kind}:{text}> does not work here; only <lora:...> tags do")
    items = text.split(":")
    positional = [item for item in items if "=" not in item]
    named = dict(item.split("=", 1) for item in items if "=" in item)
    for argument in named:
        if argument not in (*_KNOWN, *of_host):
            raise OMGError(field, f"<{kind}:{text}> has an argument {argument}=, which is not known here; known: "
                                  + ", ".join(f"{name}=" for name in (*_KNOWN, *of_host)))
    if len(positional) > 4:
        raise OMGError(field, f"<{kind}:{text}> has too many arguments; after the name come at most three: its weight "
                              "in the text encoder, its weight in the UNet, and the rank to cut it to")
    name, te, unet, dyn = [*positional, None, None, None, None][:4]
    te, unet, dyn = named.get("te", te), named.get("unet", unet), named.get("dyn", dyn)
    try:
        te_multiplier = 1.0 if te is None else _finite(te)
        rank = None if dyn is None else int(dyn)
        tag = Tag(name or "", te_multiplier, te_multiplier if unet is None else _finite(unet), rank,
                  tuple(items) if set(named) & set(of_host) else ())
    except ValueError:
        raise OMGError(field, f"<{kind}:{text}> has a weight that is not a number") from None
    if rank is not None and rank < 1:
        raise OMGError(field, f"<{kind}:{text}> cuts the LoRA to a rank of {rank}; give 1 or more, or leave it out")
    return tag


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def also_in_main_prompt(field: str, name: str) -> str:
    """The warning for a network that a concept's prompt and the main prompt name."""
    return (f"{field}: the LoRA {name} is in the main prompt too, so that its weights add up and other figures wear "
            "it; remove it from the main prompt, unless it is a style")
