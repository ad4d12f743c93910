"""Whether JSON data is what a struct takes; the first thing that is not is an OMGError that names its field.

msgspec checks the same, but words its messages for programmers. What a field takes is read from the structs' types: a
new field of numbers, texts, true or false, choices (``Literal``), lists, tuples, structs, dicts, or a union of them,
with any limits of ``msgspec.Meta``, needs no change here; ``Any`` is left unchecked.

One thing msgspec cannot bear: in a union, a member with limits beside a tuple of fixed length. Such a type crashes
Python when garbage is collected (seen in 0.18 to 0.22). Give the tuple's length as a limit instead:
``Fraction | Annotated[tuple[Fraction, ...], Meta(min_length=2, max_length=2)]``.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct, inspect

from ..errors import OMGError
from .values import INTEGER, LIST, NULL, NUMBER, OBJECT, TEXT, TRUTH, WHOLE, in_words, kind_of, refuse_odd_values

_KINDS: dict[type[inspect.Type], str] = {
    inspect.NoneType: NULL, inspect.BoolType: TRUTH, inspect.IntType: INTEGER, inspect.FloatType: NUMBER,
    inspect.StrType: TEXT, inspect.ListType: LIST, inspect.TupleType: LIST, inspect.VarTupleType: LIST,
    inspect.StructType: OBJECT, inspect.DictType: OBJECT,
}
# by the limit's name in msgspec.Meta: whether a value keeps it, and how messages put it
_LIMITS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "ge": (operator.ge, "of at least {}"),
    "le": (operator.le, "of at most {}"),
    "gt": (operator.gt, "above {}"),
    "lt": (operator.lt, "below {}"),
    "multiple_of": (lambda value, step: value % step == 0, "that is a multiple of {}"),
    "min_length": (lambda value, length: len(value) >= length, "of length {} or more"),
    "max_length": (lambda value, length: len(value) <= length, "of length {} or less"),
    # for people with Meta(extra={"in words": ...})
    "pattern": (lambda value, pattern: re.search(pattern, value), "that matches {}"),
}

_List = inspect.ListType | inspect.TupleType | inspect.VarTupleType

type_info = cache(inspect.type_info)
"""How msgspec sees a type."""


def check(data: Any, struct: type[Struct]) -> None:
    """Refuse ``data`` unless ``msgspec.convert(data, struct)`` takes it.

    A rule over several fields stands in its struct's ``__post_init__``. It raises an OMGError that names a field of the
    struct or, by the struct's own name in lower case, all of it; here the path to it is added.

    Raises:
        OMGError: naming the field, for the first unknown or missing field, wrong type, broken limit or broken rule.
    """
    refuse_odd_values(data)
    _check(data, type_info(struct), "")


def _check(value: Any, kind: inspect.Type, path: str) -> None:
    if isinstance(kind, inspect.AnyType):
        return
    options = members(kind)
    option = _option_for(kind_of(value), options)
    if option is None:
        raise OMGError(path or WHOLE, f"expected {_any_of(options)}, got {in_words(value)}")
    if isinstance(option, inspect.StructType):
        _check_struct(value, option, path)
    elif isinstance(option, inspect.DictType):
        _check_dict(value, option, path)
    elif isinstance(option, _List):
        _check_list(value, option, path)
    elif isinstance(option, inspect.LiteralType):
        _check_choice(value, option, [other for other in options if other is not option], path)
    else:
        _check_limits(value, option, path, _described(kind))


def members(kind: inspect.Type) -> list[inspect.Type]:
    """The members of a union; of any other type, itself. UNSET is no member: it stands for a field not given."""
    if isinstance(kind, inspect.Metadata):
        return members(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [option for member in kind.types for option in members(member)]
    return [kind]


def _option_for(kind: str, options: list[inspect.Type]) -> inspect.Type | None:
    """The one that takes values of this kind. (msgspec allows no union in which two do.)"""
    # where nothing else takes a whole number, it is a number as any
    for wanted in (kind, NUMBER) if kind == INTEGER else (kind,):
        for option in options:
            if wanted in _kinds(option):
                return option
    return None


def _kinds(option: inspect.Type) -> list[str]:
    """The kinds of values that it takes. A choice may be among several; any other type takes one."""
    if isinstance(option, inspect.LiteralType):
        return [kind_of(value) for value in option.values]
    return [_KINDS[type(option)]]


def _any_of(options: list[inspect.Type]) -> str:
    # as the keys of a dict: in order, each once
    return " or ".join(dict.fromkeys(kind for option in options for kind in _kinds(option)))


def _check_struct(value: dict[str, Any], kind: inspect.StructType, path: str) -> None:
    known = {field.encode_name: field for field in kind.fields}
    for name, item in value.items():
        if name not in known:
            raise OMGError(_join(path, name), f"unknown field; {_hint(name, known)}")
        _check(item, known[name].type, _join(path, name))
    for name, field in known.items():
        if field.required and name not in value:
            raise OMGError(_join(path, name), "this field is required")
    try:
        msgspec.convert(value, kind.cls)  # for the rules in __post_init__: all else is checked by now
    except OMGError as broken:
        name = "" if broken.field == _name(kind) else broken.field
        raise OMGError(_join(path, name), broken.message) from None


def _check_dict(value: dict[str, Any], kind: inspect.DictType, path: str) -> None:
    if kind.min_length and not value:
        raise OMGError(path, "it is empty; give at least one entry")
    for name, item in value.items():
        _check(name, kind.key_type, _join(path, name))
        _check(item, kind.value_type, _join(path, name))


def _check_list(value: Any, kind: _List, path: str) -> None:
    kinds = _item_kinds(kind, len(value))
    if len(value) != len(kinds):
        raise OMGError(path, f"expected a list of length {len(kinds)}, got {in_words(value)}")
    if not isinstance(kind, inspect.TupleType) and kind.min_length == 1 and not value:
        item = _name(kind.item_type) if isinstance(kind.item_type, inspect.StructType) else "entry"
        raise OMGError(path, f"the list is empty; give at least one {item}")
    _check_limits(value, kind, path)
    for index, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
        _check(item, item_kind, f"{path}[{index}]")


def _item_kinds(kind: _List, count: int) -> Sequence[inspect.Type]:
    """What each item must be: ``count`` of them, or as many as there must be."""
    if isinstance(kind, inspect.TupleType):
        return kind.item_types
    fixed = kind.min_length if kind.min_length == kind.max_length else None
    return [kind.item_type] * (count if fixed is None else fixed)


def _check_choice(value: Any, kind: inspect.LiteralType, others: list[inspect.Type], path: str) -> None:
    if value not in kind.values:
        instead = f"; or give {_any_of(others)}" if others else ""
        raise OMGError(path, f"{in_words(value)} is unknown; known here: {', '.join(map(str, kind.values))}{instead}")


def _described(kind: inspect.Type) -> str:
    """What ``Meta(extra={"in words": ...})`` says of its values, if it does."""
    return (kind.extra or {}).get("in words", "") if isinstance(kind, inspect.Metadata) else ""


def _check_limits(value: Any, kind: inspect.Type, path: str, described: str = "") -> None:
    for name, (keeps, words) in _LIMITS.items():
        limit = getattr(kind, name, None)
        if limit is not None and not keeps(value, limit):
            put = described or f"{_KINDS[type(kind)]} {words.format(str(limit).removesuffix('.0'))}"
            raise OMGError(path, f"expected {put}, got {in_words(value)}")


def _name(kind: inspect.StructType) -> str:
    return kind.cls.__name__.lower()


def _join(path: str, name: str) -> str:
    return ".".join(part for part in (path, name) if part) or WHOLE


def _hint(name: str, known: Iterable[str]) -> str:
    """What the unknown field ``name`` may have meant."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"
