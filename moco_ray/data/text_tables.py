"""Tables of text: what encodings, separators and lines of them mean."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moco_ray.data.folders import extension_of
from moco_ray.data.formats.extensions import IMAGE_EXTENSIONS
from moco_ray.storage.storage import Storage

URI_COLUMNS = (
    "uri path url file filename file_name filepath file_path image_path img_path image_uri image_url image_file image img"
).split()
LIST_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson")

_FIRST_CELLS = 8
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_EXCEL = re.compile(r'"?sep=([^\w\s"]|\t)"?,*(?=[\r\n]|$)', re.IGNORECASE)  # its first line may name the separator


@dataclass(frozen=True)
class Table:
    """Columns of a list by name; cells are text in tables of text."""

    columns: Mapping[str, Sequence[Any]]
    """Equally long."""
    lines: Sequence[int]
    """Where each row begins, as an editor counts: the first line is 1."""
    twice: frozenset[str] = frozenset()
    """Names that several columns have."""

    def names(self) -> list[str]:
        """Of all columns, those that are there twice two times."""
        return [name for name in self.columns for _ in range(2 if name in self.twice else 1)]

    def first_cells(self, name: str) -> Sequence[Any]:
        """A few cells of a column."""
        return self.columns[name][:_FIRST_CELLS]


def read_list(storage: Storage, path: str) -> Table:
    """Read a table of text: .csv with commas, semicolons, tabs or bars, .tsv, .jsonl or .ndjson.

    Blanks around names and values are dropped, and so are rows without any value.

    Raises:
        ValueError: It is no such table, or not in UTF-8.
    """
    uri = storage.uri(path)
    text = _decoded(uri, storage.read_bytes(path))
    if extension_of(path) in (".jsonl", ".ndjson"):
        return _read_json_lines(uri, text)
    if said := _EXCEL.match(text):
        text, delimiter = text[said.end() :], said[1]
    else:
        start = text.lstrip("\r\n")
        delimiter = "\t" if extension_of(path) == ".tsv" else _delimiter(start.splitlines()[0] if start else "")
    rows, lines = _rows(uri, text, delimiter)
    if not rows:
        raise ValueError(f"{uri} is empty: it names no image")
    names = rows[0]
    _check_header(uri, names)
    twice = frozenset(name for name in names if names.count(name) > 1)
    return Table({name: [row[i] for row in rows[1:]] for i, name in enumerate(names)}, lines[1:], twice)


def _rows(uri: str, text: str, delimiter: str) -> tuple[list[list[str]], list[int]]:
    """Rows that hold something, the header first, and the line where each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    named = _DELIMITERS.get(delimiter, repr(delimiter))
    rows: list[list[str]] = []
    lines: list[int] = []
    line = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) or len(cells) == 1:  # a blank line has no cell; spreadsheets write "," for one
                if rows and len(row) != len(rows[0]):
                    is_at_end = len(row) == len(rows[0]) + 1 and not cells[-1]
                    advice = (
                        "take away the one too many at its end"
                        if is_at_end
                        else "put values that hold one in double quotes"
                    )
                    raise ValueError(
                        f"{uri} is no table: line {line} has {len(row)} values and the header {len(rows[0])} "
                        f"(separated by {named}); {advice}"
                    )
                rows.append(cells)
                lines.append(line)
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{uri} is no table of values separated by {named}: line {line}: {error}") from error
    return rows, lines


def _decoded(uri: str, content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte order mark."""
    is_utf32 = content[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
    is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff") and not is_utf32
    if not is_utf16 and b"\0" in content:
        raise ValueError(
            f"{uri} holds NUL bytes, as text in UTF-32 does, or in UTF-16 without a byte order mark; save it as UTF-8 (such "
            f"as: iconv -f {'utf-32' if is_utf32 else 'utf-16le'} -t utf-8)"
        )
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = content[error.start : error.start + 4].split(b"\n")[0].hex(" ")
        raise ValueError(
            f"{uri} is not in UTF-8: line {line} holds the bytes {found}; save it as UTF-8 (from Latin-1: iconv -f latin1 "
            "-t utf-8)"
        ) from error


def _delimiter(header: str) -> str:
    """What separates the names of the header: the first that gives a column of URIs, else the most frequent."""
    for delimiter in _DELIMITERS:
        if set(URI_COLUMNS) & {name.strip(" \"'").casefold() for name in header.split(delimiter)}:
            return delimiter
    return max(_DELIMITERS, key=header.count)


def _check_header(uri: str, names: Sequence[str]) -> None:
    """Refuse a table whose first row is already an image."""
    looks = [name for name in names if "://" in name or extension_of(name) in IMAGE_EXTENSIONS]
    if looks:
        raise ValueError(
            f"{uri} has no header: its first row already names an image ({looks[0]}); put names of the columns above it, "
            f"such as {'uri,label' if len(names) > 1 else 'uri'}"
        )


def _read_json_lines(uri: str, text: str) -> Table:
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{uri}: line {number} is no JSON ({error.msg}); write one object a line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{uri}: line {number} is no JSON object; write one a line, such as " + '{"uri": "a.png"}')
        rows.append(row)
        lines.append(number)
    names = dict.fromkeys(name for row in rows for name in row)
    return Table({name: [row.get(name) for row in rows] for name in names}, lines)
