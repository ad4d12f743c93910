"""What is said in the language of the page, by the web UI's localizations."""

from __future__ import annotations

import json

from modules import localization, shared


def said(template: str, **slots: object) -> str:
    """A sentence in the user's language, if the localization that is set has it, with what stands for its ``{names}``.

    The page translates whole texts alone, which those with names and numbers in them are not.
    """
    try:
        return _table(shared.opts.localization).get(template, template).format(**slots)
    except (KeyError, IndexError, ValueError):  # a translation has other names than these
        return template.format(**slots)


def _table(name: str) -> dict[str, str]:
    table: dict[str, str] = json.loads(localization.localization_js(name).partition("=")[2])
    return table
