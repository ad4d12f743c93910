"""The results as files: JSON, tables, contact sheets, and a page with all of it beside the pictures."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..jobs.store import Store
from .figures import FIGURES
from .gallery import ROWS, SEEDS, Gallery, galleries, sheets
from .results import Result, tables
from .spec import Spec, file_name
from .tables import Table

PAGE = "report.html"
_RESULTS = "results.json"
_OURS = re.compile(r"[\w+-]+\.(csv|tex)|sheets/\d+-[\w+-]*\.jpg")
_STYLE = """\
:root { color-scheme: light dark; --line: #bbb; --faint: #666; }
@media (prefers-color-scheme: dark) { :root { --line: #555; --faint: #aaa; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem;
       background: Canvas; color: CanvasText; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; vertical-align: top; }
.figures td, .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pictures img { display: block; width: 12rem; height: auto; }
.pictures tbody th { font-weight: normal; min-width: 9rem; }
small, dd { color: var(--faint); }
"""


@dataclass(frozen=True)
class Report:
    """
    Attributes:
        spec: what was compared.
        data: the same as JSON data.
        results: of all pictures there are.
        conditions: when, on what and with what it was measured, by title.
        left_out: why figures were not measured, by name.
        missing: how many pictures there are not, or damaged.
        damaged: files that are no pictures.
    """

    spec: Spec
    data: Mapping[str, Any]
    results: Sequence[Result]
    conditions: Mapping[str, str]
    left_out: Mapping[str, str]
    missing: int = 0
    damaged: Sequence[str] = ()

    def write(self, store: Store) -> list[str]:
        """Writes all files, and removes what an earlier report wrote and this one has not. Returns their names, the
        page first."""
        made, shown = tables(self.spec, self.results), galleries(self.spec, self.results)
        files = {PAGE: self.page(made, shown).encode(), "tables.md": self.markdown(made).encode()}
        for table in made:
            files[f"{table.name}.csv"] = table.csv().encode()
            files[f"{table.name}.tex"] = table.latex().encode()
        made_of: dict[str, bytes] = {}
        for number, gallery in enumerate(shown, 1):
            name = f"sheets/{number}-{file_name(gallery.title)}"
            parts = sheets(gallery, store.read)
            made_of |= {f"{name}{f'-{part}' if len(parts) > 1 else ''}.jpg": data for part, data in enumerate(parts, 1)}
        names = [*files, _RESULTS, *made_of]
        for name in _written(store):
            if name not in names:
                store.remove(name)
        for name, data in {**files, _RESULTS: self.json(made, names).encode(), **made_of}.items():
            store.write(name, data)
        return names

    def json(self, made: Sequence[Table], files: Sequence[str]) -> str:
        """All values and means, and how they came about.

        Args:
            files: names of all that is written.
        """
        means = {table.name: [{**dict(zip(table.heads, row.labels, strict=True)),
                               **{name: {"mean": mean.mean, "error": mean.error, "count": mean.count}
                                  for name, mean in row.means.items() if mean.count}} for row in table.rows]
                 for table in made}
        data = {"conditions": self.conditions, "spec": self.data, "missing": self.missing,
                "damaged": list(self.damaged), "files": list(files), "left_out": self.left_out,
                "figures": {name: figure.meaning for name, figure in FIGURES.items() if name not in self.left_out},
                "tables": means, "pictures": [result.data() for result in self.results]}
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    def markdown(self, made: Sequence[Table]) -> str:
        """The tables, and what stands below them."""
        notes = "\n".join(f"- {line}" for line in (*self._notes(), *self._meanings(made)))
        return "\n".join([*(table.markdown() for table in made), notes, ""])

    def page(self, made: Sequence[Table], shown: Sequence[Gallery]) -> str:
        """One page of HTML, whose pictures lie beside it."""
        notes = "".join(f"<li>{html.escape(note)}</li>\n" for note in self._notes())
        meanings = "".join(f"<li>{html.escape(meaning)}</li>\n" for meaning in self._meanings(made))
        return (f"<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Evaluation</title>\n"
                f"<meta name=\"viewport\" content=\"width=device-width\">\n<style>\n{_STYLE}</style></head><body>\n"
                f"<h1>Evaluation</h1>\n{''.join(table.html() for table in made)}"
                f"<h2>How this was measured</h2>\n<ul>\n{notes}{meanings}</ul>\n"
                f"<h2>Pictures</h2>\n<p><small>{html.escape(_SHOWN)}</small></p>\n"
                f"{''.join(_section(gallery) for gallery in shown)}"
                f"<h2>The spec</h2>\n<pre>{html.escape(json.dumps(self.data, indent=1, ensure_ascii=False))}</pre>\n"
                "</body></html>\n")

    @property
    def warnings(self) -> list[str]:
        """For each method whose pictures were drawn with warnings how many, and one of them."""
        told = []
        for method in self.spec.variants:
            own = [result for result in self.results if result.place.method == method]
            warned = [warning for result in own for warning in result.warnings[:1]]
            if warned:
                told.append(f"{method}: {len(warned)} of {len(own)} pictures have warnings, such as: {warned[0]}")
        return told

    def _notes(self) -> Iterator[str]:
        yield ", ".join(f"{name} {value}" for name, value in self.conditions.items())
        yield f"{len(self.results)} pictures" + (f"; {self.missing} are missing, and do not count" if self.missing
                                                 else "")
        yield ("means with their standard errors over prompts and seeds; several concepts in one picture are averaged "
               "first")
        yield f"threshold of one person's faces: {self.spec.threshold:g}"
        yield from self.warnings
        for name, reason in self.left_out.items():
            yield f"{FIGURES[name].title} was left out: {reason}"

    @staticmethod
    def _meanings(made: Sequence[Table]) -> Iterator[str]:
        for name in dict.fromkeys(name for table in made for name in table.figures):
            yield f"{FIGURES[name].title}: {FIGURES[name].meaning}"


def _written(store: Store) -> list[str]:
    """What an earlier report has written into a folder, by its own list."""
    try:
        found = json.loads(store.read(_RESULTS))
    except (FileNotFoundError, ValueError):
        return []
    names = found.get("files") if isinstance(found, dict) else None
    if not isinstance(names, list):
        return []
    # whatever stands there: nothing is ever removed that a report does not write
    return [name for name in names if isinstance(name, str) and _OURS.fullmatch(name)]


_SHOWN = f"The first {SEEDS} seeds of each prompt, {ROWS} rows at most; all pictures are in this folder."


def _section(gallery: Gallery) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in gallery.columns)
    body = "".join(f"<tr><th>{html.escape(title)}</th>{''.join(map(_picture, results))}</tr>\n"
                   for title, results in gallery.rows)
    return (f"<h3>{html.escape(gallery.title)}</h3>\n<div class=\"wide\"><table class=\"pictures\">\n"
            f"<thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n")


def _picture(result: Result | None) -> str:
    if result is None:
        return "<td>not drawn</td>"
    address = html.escape(quote(result.file))
    values = [(name, value) for of_one in (result.measured.picture, *result.measured.concepts.values())
              for name, value in of_one.items()]
    caption = ", ".join(f"{FIGURES[name].title} {value:.3g}" for name, value in values)
    about = html.escape(f"{result.place.method}: {result.place.text}")
    return (f"<td><a href=\"{address}\"><img loading=\"lazy\" src=\"{address}\" alt=\"{about}\" "
            f"title=\"{html.escape(caption)}\"></a></td>")

