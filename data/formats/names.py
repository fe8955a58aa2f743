"""Names of images in files that people make: lists, and tables of labels, also from Windows.

Understood are UTF-8 and UTF-16 with a byte order mark, line ends of either kind, blanks at the
ends, quoted names, and backslashes between folders. Keys have '/' (see data.corpus).
Light to import: Arrow is loaded for tables alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")


def portable(name: str) -> str:
    """A name as a key has it: '/' for a backslash, no quotes or blanks around it, no './'."""
    name = name.strip().strip("\"'").strip().replace("\\", "/")
    return name.removeprefix("./")


def read_text(path: Path) -> str:
    """A text file. Raises UserError for what is neither UTF-8 nor UTF-16."""
    content = path.read_bytes()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from None


def listed_names(path: Path) -> list[str]:
    """File names without folders, one a line; none where there is no such file."""
    if not path.is_file():
        return []
    names = map(portable, read_text(path).splitlines())
    return [PurePosixPath(name).name for name in names if name]


def read_labels(path: Path) -> pa.Table:
    """Columns key (text) and label of a Parquet or CSV file with columns key and label (or scene).

    Labels of a CSV are whole numbers where all of them are, otherwise text. Raises UserError for a
    file that cannot be read or has other columns.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else parquet.read_table(path)
    except FileNotFoundError:
        raise UserError(f"--labels {path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--labels {path}: no Parquet or CSV file with columns key, label ({why})"
        ) from None
    label = "label" if "label" in table.column_names else "scene"
    if not {"key", label} <= set(table.column_names):
        raise UserError(
            f"--labels {path}: no Parquet or CSV file with columns key, label (it has "
            f"{', '.join(table.column_names)})"
        )
    return pa.table({"key": table["key"].cast(pa.string()), "label": table[label]})


def _read_csv(path: Path) -> pa.Table:
    """A CSV file's columns as text without blanks around it, labels as numbers if all are."""
    import pyarrow as pa
    from pyarrow import csv

    text = read_text(path)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    # All as text: 0001 is a name, and so may be 01.
    names = [portable(name) for name in header.split(delimiter)]
    read = csv.read_csv(
        io.BytesIO(text.encode()),
        read_options=csv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=csv.ParseOptions(delimiter=delimiter),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
    )
    columns: dict[str, list[Any]] = {
        name: [value.strip() for value in read[name].to_pylist()] for name in names
    }
    for name in {"label", "scene"} & set(names):
        if all(_WHOLE.fullmatch(value) for value in columns[name] if value):
            columns[name] = [int(value) if value else None for value in columns[name]]
    return pa.table(columns)


def by_key(names: Sequence[str], values: Sequence[T | None], what: str) -> dict[str, T]:
    """Values by name as it is written, and by the key that it stands for; nulls are left out.

    Raises UserError, which begins with `what`, for a name with two values.
    """
    found: dict[str, T] = {}
    for name, value in zip(names, values, strict=True):
        if value is None:
            continue
        for key in {name, portable(name)}:
            if found.setdefault(key, value) != value:
                raise UserError(f"{what}: {name} is both {found[key]} and {value}")
    return found


def require(keys: Sequence[str], found: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    """Raise UserError unless every key is found, naming a key and how the file names images."""
    missing = [key for key in keys if key not in found]
    if missing:
        like = f"; it names images as '{names[0]}'" if names and names[0] not in keys else ""
        raise UserError(
            f"{what}: no label for {len(missing):,} of {len(keys):,} images, the first "
            f"{missing[0]}{like}; label them by their keys (prune.index export --to keys lists "
            "those of a subset), or select without them"
        )
