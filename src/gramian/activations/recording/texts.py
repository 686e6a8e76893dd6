"""Read texts from files, one at a time: lines, JSON lines and Parquet."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from gramian.errors import DataError, OptionError, needs_extra, printable

__all__ = ["TEXT_SUFFIXES", "batched", "files_of", "read_texts"]

TEXT_SUFFIXES = (".txt", ".jsonl", ".parquet")

_LONGEST_LINE = 1 << 20
"""Largest number of bytes read from a line; networks use far fewer."""

_ROWS = 256
"""Rows of a Parquet file that are in memory."""

Item = TypeVar("Item")


def files_of(path: Path, suffixes: tuple[str, ...], *, kind: str) -> list[Path]:
    """List the files of some suffixes: a file itself, or those of a folder and its subfolders, sorted.

    Args:
        path: A file or a folder.
        suffixes: Suffixes in lower case.
        kind: What the files are, for messages.

    Raises:
        DataError: If there is no such file.
    """
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        else:
            files = [path] if path.suffix.lower() in suffixes and path.is_file() else []
    except OSError as error:
        raise DataError(f"inputs must be readable; got {printable(path)}: {error.strerror or error}") from error
    if not files:
        raise DataError(f"inputs must be {kind} ({', '.join(suffixes)}), or a folder of them; got {printable(path)}")
    return files


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Divide items into lists of `size`; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def read_texts(files: Iterable[Path], *, field: str = "text") -> Iterator[str]:
    r"""Yield the texts of files in order, without those that are blank.

    Args:
        files: Files of lines (.txt, each line is a text), of JSON lines (.jsonl, each line is a text or an object with
            one), or Parquet.
        field: The name of the text in an object or of the column.

    Raises:
        DataError: If a file cannot be read or is not in UTF-8.
        OptionError: If there is no such field.
        MissingExtraError: If a Parquet file is read without pyarrow.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = path.write_text("one line\n\nanother")
        >>> list(read_texts([path]))
        ['one line', 'another']
    """
    for file in files:
        readers = {".txt": _lines, ".jsonl": _json_lines, ".parquet": _parquet}
        try:
            for text in readers[file.suffix.lower()](file, field):
                if text.strip():
                    yield text
        except UnicodeDecodeError as error:
            raise DataError(f"{printable(file)} must be text in UTF-8; got other bytes") from error
        except OSError as error:
            raise DataError(f"{printable(file)} could not be read: {error.strerror or error}") from error


def _lines(path: Path, _: str) -> Iterator[str]:
    for _number, line in _raw_lines(path):
        yield line.decode().rstrip("\r\n")


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the beginning of each line."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(_LONGEST_LINE)):
                pass  # what follows in a longer line
            if len(line) == _LONGEST_LINE:
                line = line.decode(errors="ignore").encode()  # a character may be cut at the end
            yield number, line


def _json_lines(path: Path, field: str) -> Iterator[str]:
    for number, line in _raw_lines(path):
        if not line.strip():
            continue
        where = f"line {number} of {printable(path)}"
        try:
            row: Any = json.loads(line.decode())
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(
                f"{where} must be JSON of at most {_LONGEST_LINE} bytes; it cannot be read: {error}"
            ) from error
        if isinstance(row, dict):
            if field not in row:
                raise OptionError(f"{where} must have the field {field!r}; got {_listed(row)}; try --field NAME")
            row = row[field]
        if row is not None and not isinstance(row, str):
            raise DataError(f"{where} must be a text or an object with one; got {type(row).__name__}")
        yield row or ""


def _parquet(path: Path, field: str) -> Iterator[str]:
    with needs_extra("reading Parquet files", "activations"):
        import pyarrow  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise OptionError(
                    f"{printable(path)} must have the column {field!r}; got {_listed(names)}; try --field NAME"
                )
            for rows in file.iter_batches(batch_size=_ROWS, columns=[field]):
                for row in rows.column(0).to_pylist():
                    if row is not None and not isinstance(row, str):
                        raise DataError(
                            f"the column {field!r} of {printable(path)} must be texts; got {type(row).__name__}"
                        )
                    yield row or ""
    except pyarrow.ArrowException as error:
        raise DataError(f"{printable(path)} must be a whole Parquet file; got {printable(error)[:200]}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:8]) or "none"
