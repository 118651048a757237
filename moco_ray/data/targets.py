"""Several labels an image: columns of a list that say of each whether the image has it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moco_ray.data.text_tables import Table

_YES = frozenset({"1", "1.0", "true", "yes"})
_NO = frozenset({"0", "0.0", "false", "no"})
_UNKNOWN = frozenset({"", "-1", "-1.0", "nan", "na", "none", "null"})


def read_targets(uri: str, table: Table, columns: Sequence[str]) -> list[tuple[float, ...]]:
    """Of each row of a table one number for each column: 1 with the label, 0 without it, NaN where nobody knows.

    An uncertain finding, which some lists of X-ray images write as -1, counts as unknown.

    Args:
        uri: Of the table, for messages.
        table: Its columns.
        columns: Those to read.

    Raises:
        ValueError: There is no such column, or it holds something else.
    """
    names = table.names()
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"data.target-columns: {uri} has no column {missing[0]!r}; its columns are {', '.join(names)}")
    if double := [name for name in columns if name in table.twice]:
        raise ValueError(f"data.target-columns: {uri} has two columns of the name {double[0]!r}; rename one of them")
    read = [[_number(uri, table, name, i, cell) for i, cell in enumerate(table.columns[name])] for name in columns]
    return list(zip(*read, strict=True))


def _number(uri: str, table: Table, name: str, i: int, cell: object) -> float:
    text = "" if cell is None else str(cell).strip().casefold()
    if text in _UNKNOWN:
        return math.nan
    if text in _YES or text in _NO:
        return float(text in _YES)
    where = f"line {table.lines[i]}" if table.lines is not None else f"row {i}"
    raise ValueError(
        f"data.target-columns: {uri}, {where}: {name!r} is {cell!r}; write 1 for an image with the label, 0 for one without, and "
        "nothing or -1 where it is not known"
    )
