"""``<lora:name:te:unet:dyn>`` tags, read as the web UI reads them."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import OMGError

_TAG = re.compile(r"<(\w+):([^>]+)>")
_KINDS = ("lora", "lyco")


class Tag(NamedTuple):
    """A network named in a prompt.

    Attributes:
        name: the file, as the host looks it up.
        te, unet: multipliers in the text encoders and the UNet.
        dyn: rank that a LoRA is cut to, or None.
    """

    name: str
    te: float = 1.0
    unet: float = 1.0
    dyn: int | None = None


def parse_tags(prompt: str, field: str) -> tuple[str, list[Tag]]:
    """The prompt without its network tags, and the tags. Arguments also go by name: ``te=``, ``unet=``, ``dyn=``.

    Raises:
        OMGError: a tag of another kind than LoRA, or a weight that is not a number.
    """
    tags = [_parse_tag(kind, items, field) for kind, items in _TAG.findall(prompt)]
    return _TAG.sub("", prompt), tags


def _parse_tag(kind: str, items: str, field: str) -> Tag:
    if kind not in _KINDS:
        raise OMGError(field, f"<{kind}:{items}> does not work here; only <lora:...> tags do")
    positional = [item for item in items.split(":") if "=" not in item]
    named = dict(item.split("=", 1) for item in items.split(":") if "=" in item)
    name, te, unet, dyn = [*positional, None, None, None, None][:4]
    te, unet, dyn = named.get("te", te), named.get("unet", unet), named.get("dyn", dyn)
    try:
        te_multiplier = 1.0 if te is None else float(te)
        return Tag(name or "", te_multiplier, te_multiplier if unet is None else float(unet),
                   None if dyn is None else int(dyn))
    except ValueError:
        raise OMGError(field, f"<{kind}:{items}> has a weight that is not a number") from None
