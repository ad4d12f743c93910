"""What was measured of all pictures, and the paper's tables of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .figures import FIGURES
from .means import Mean, summary
from .measure import Measured
from .plan import Place
from .spec import TABLES, Excerpt, Spec, file_name
from .tables import Row, Table

_TABLE_1 = ("text", "clipscore", "identity", "detected", "image")
_TABLE_2 = ("ida", "ida_detected", "ima", "found", "layout", "background", "text", "clipscore")
_ALL = tuple(FIGURES)


@dataclass(frozen=True)
class Result:
    """
    Attributes:
        place: of a picture in the evaluation.
        key: of its job.
        file: its name.
        measured: of it.
        warnings: what was said when it was drawn, such as that a concept was not found.
    """

    place: Place
    key: str
    file: str
    measured: Measured
    warnings: tuple[str, ...] = ()

    @property
    def shown(self) -> list[str]:
        """Names of the concepts that it is to show."""
        return [self.place.cast[index] for index in self.place.shown]

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        return {"method": self.place.method, "cast": list(self.place.cast), "prompt": self.place.prompt,
                "seed": self.place.seed, "key": self.key, "file": self.file, "figures": self.measured.picture,
                **({"warnings": list(self.warnings)} if self.warnings else {}),
                "concepts": {self.place.cast[index]: values for index, values in self.measured.concepts.items()}}


def mean(results: Iterable[Result], figure: str, concepts: Collection[str]) -> Mean:
    """Of a figure over what methods made of one prompt and seed, each the mean over the concepts.

    Args:
        concepts: those that count; so do pictures that are to show one of them.
    """
    by_shot: dict[Any, list[float]] = {}
    for result in results:
        if not any(name in concepts for name in result.shown):
            continue
        values = [of_concept[figure] for index, of_concept in result.measured.concepts.items()
                  if figure in of_concept and result.place.cast[index] in concepts]
        if figure in result.measured.picture:
            values.append(result.measured.picture[figure])
        by_shot.setdefault(result.place.shot, []).extend(values)
    return summary(np.array([np.mean(values) for values in by_shot.values() if values], np.float64))


def tables(spec: Spec, results: Sequence[Result]) -> list[Table]:
    """The paper's Table 1, the same by concept, Table 2, and the spec's own; of what was measured."""
    found = [
        _table("table-1", ("personalisation", "of", "method"), _TABLE_1, _by_kind(spec, results)),
        _table("concepts", ("concept", "method"), _TABLE_1, _by_concept(spec, results)),
        _table("table-2", ("cast", "method"), _TABLE_2, _by_cast(spec, results)),
        *(_table(title, ("cast", "method"), _ALL, _by_cast(spec, own, 1))
          for title, own in excerpts(spec, results).items())]
    return [table for table in found if table.rows and table.figures]


def _by_kind(spec: Spec, results: Sequence[Result]) -> Iterator[Row]:
    parts: tuple[tuple[str, Callable[[int], bool]], ...] = (("single", lambda count: count == 1),
                                                            ("multi", lambda count: count > 1))
    for title, fits in parts:
        of_size = [result for result in results if fits(len(result.place.cast))]
        for kind in ("character", "object"):
            concepts = [name for name, subject in spec.concepts.items() if subject.kind == kind]
            yield from _rows(spec, of_size, (title, f"{kind}s"), _TABLE_1, concepts)


def _by_concept(spec: Spec, results: Sequence[Result]) -> Iterator[Row]:
    alone = [result for result in results if len(result.place.cast) == 1]
    for name in spec.concepts:
        yield from _rows(spec, alone, (name,), _TABLE_1, [name])


def excerpts(spec: Spec, results: Sequence[Result]) -> dict[str, list[Result]]:
    """By the titles of the spec's excerpts, what they are of."""
    return {title: [result for result in results if _is_in(excerpt, spec, result.place)]
            for title, excerpt in spec.excerpts.items()}


def _is_in(excerpt: Excerpt, spec: Spec, place: Place) -> bool:
    names = {place.method, spec.variants[place.method].name}
    return (not excerpt.methods or not names.isdisjoint(excerpt.methods)) and place.cast in spec.chosen(excerpt.casts)


def _by_cast(spec: Spec, results: Sequence[Result], least: int = 2) -> Iterator[Row]:
    """
    Args:
        least: smaller casts have no rows.
    """
    for cast in dict.fromkeys(spec.casts):
        if len(cast) >= least:
            of_cast = [result for result in results if result.place.cast == cast]
            yield from _rows(spec, of_cast, ("+".join(cast),), _ALL, cast)


def _rows(spec: Spec, results: Sequence[Result], labels: tuple[str, ...], figures: Sequence[str],
          concepts: Collection[str]) -> Iterator[Row]:
    """One for each method that has any of these."""
    for method in spec.variants:
        of_method = [result for result in results if result.place.method == method]
        means = {name: mean(of_method, name, concepts) for name in figures}
        if any(each.count for each in means.values()):
            yield Row((*labels, method), means)


def _table(name: str, heads: tuple[str, ...], figures: Sequence[str], rows: Iterable[Row]) -> Table:
    """Without columns of which no row has a value."""
    there = tuple(rows)
    seen = [figure for figure in FIGURES if figure in figures and any(row.means[figure].count for row in there)]
    return Table(file_name(name), TABLES.get(name, name), heads, tuple(sorted(seen, key=figures.index)), there)

