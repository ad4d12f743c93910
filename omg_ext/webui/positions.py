"""Component values by position, as queues keep them for weeks: whether they are still in their places. No Gradio here.

Which place is whose depends on how many concept groups the accordion has, and on which fields there were when the list
was stored (see :func:`omg_ext.webui.fields.arg_fields`). The web UI fills its components from the first on, however
long the list is, so a list of another layout would be read shifted, as another picture.
"""

from __future__ import annotations

from .fields import CONCEPT_FIELDS, GLOBAL_FIELDS

# as many groups as the setting allows
_MOST_GROUPS = 16


def misfit(count: int, groups: int) -> str | None:
    """Why so many values are not taken by an accordion with this many concept groups; None if they are.

    Beside the layouts of all versions those lists are taken that end in the first concept's group at the latest: they
    begin every layout.
    """
    own = _lengths(groups)
    if count in own or count <= _lengths(1)[0]:
        return None
    others = [str(number) for number in range(1, _MOST_GROUPS + 1) if count in _lengths(number)]
    stored = (f"; this list is of a page with {' or '.join(others)}: set Settings > OMG > Concepts shown in the "
              "accordion to that, or" if others else ";")
    shown = f"{groups} concept{'s' * (groups > 1)}"
    return (f"args: {count} values fit no layout of a page that shows {shown}, which has "
            f"{', '.join(map(str, own[:-1]))} or {own[-1]} of them{stored} send the request as one object")


def _lengths(groups: int) -> list[int]:
    """How many values there were with each version's fields, and are."""
    versions = sorted({each.since for each in (*GLOBAL_FIELDS, *CONCEPT_FIELDS)})
    return [sum(each.since <= since for each in GLOBAL_FIELDS) +
            groups * sum(each.since <= since for each in CONCEPT_FIELDS) for since in versions]
