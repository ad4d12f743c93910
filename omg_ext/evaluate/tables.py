"""Tables of means: in Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .figures import FIGURES
from .means import Mean, shown

_DECIMALS = {"background": 1}
_OF_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
             **{sign: f"\\{sign}" for sign in "&%$#_{}"}, **{sign: f"${sign}$" for sign in "<>|"}}


@dataclass(frozen=True)
class Row:
    """
    Attributes:
        labels: one for each of the table's heads.
        means: by the figures' names.
    """

    labels: tuple[str, ...]
    means: Mapping[str, Mean]


@dataclass(frozen=True)
class Table:
    """
    Attributes:
        name: for files.
        title: for people.
        heads: of the labels.
        figures: names of :data:`.FIGURES`, one for each column.
        rows: from top to bottom.
    """

    name: str
    title: str
    heads: tuple[str, ...]
    figures: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def columns(self) -> list[str]:
        """The first line."""
        return [*self.heads, *(FIGURES[name].title for name in self.figures)]

    @property
    def cells(self) -> list[list[str]]:
        """The other lines."""
        return [[*row.labels, *(_cell(name, row.means.get(name)) for name in self.figures)] for row in self.rows]

    def markdown(self) -> str:
        """With its title."""
        return f"## {self.title}\n\n{markdown(self.columns, self.cells)}\n"

    def csv(self) -> str:
        """Of each figure the mean, its standard error and how many pictures have a value, in full precision."""
        file = io.StringIO()
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([*self.heads, *(f"{name}{part}" for name in self.figures for part in ("", "_error", "_count"))])
        for row in self.rows:
            means = [row.means.get(name, Mean(None, None, 0)) for name in self.figures]
            lines.writerow([*row.labels, *(part for mean in means for part in (mean.mean, mean.error, mean.count))])
        return file.getvalue()

    def latex(self) -> str:
        """A ``tabular``, which takes no package."""
        lines = [" & ".join(map(_latex, line)) + r" \\" for line in (self.columns, *self.cells)]
        layout = "l" * len(self.heads) + "r" * len(self.figures)
        return "\n".join([f"% {self.title}", rf"\begin{{tabular}}{{{layout}}}", r"\hline", lines[0], r"\hline",
                          *lines[1:], r"\hline", r"\end{tabular}", ""])

    def html(self) -> str:
        """A ``table`` with its title."""
        head = "".join(f"<th{' class=number' * (place >= len(self.heads))}>{html.escape(column)}</th>"
                       for place, column in enumerate(self.columns))
        body = "\n".join(f"<tr>{''.join(self._html(place, cell) for place, cell in enumerate(line))}</tr>"
                         for line in self.cells)
        return (f"<h2>{html.escape(self.title)}</h2>\n<div class=\"wide\"><table class=\"figures\">\n"
                f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n")

    def _html(self, place: int, cell: str) -> str:
        kind = "th" if place < len(self.heads) else "td"
        return f"<{kind}>{html.escape(cell)}</{kind}>"


def markdown(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose columns are of one width, without a line break at its end."""
    every = [[_in_line(cell) for cell in line] for line in (columns, ["---"] * len(columns), *lines)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                     for line in every)


def _in_line(cell: str) -> str:
    return cell.replace("|", r"\|")


def _latex(cell: str) -> str:
    number = re.fullmatch(r"(-?[\d.]+) ± ([\d.]+)", cell)
    if number:
        return rf"${number[1]} \pm {number[2]}$"
    return "".join(_OF_LATEX.get(sign, sign) for sign in cell)


def _cell(name: str, mean: Mean | None) -> str:
    return shown(mean, _DECIMALS.get(name, 3))
