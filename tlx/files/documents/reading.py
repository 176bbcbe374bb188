"""Read JSON, JSON lines, text and npz files with limits. Every fault is one line that names the file."""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlx.files.documents.checks import Anything, DocumentError, Form, Record, check, format_value
from tlx.trees import Json

# The limit for all documents but tokenizers, which have long vocabularies.
MOST_BYTES = 64 * 2**20
DEEPEST = 64
FETCH = "copy the file from its source again"


def holds_file(path: Path, remedy: str = FETCH) -> bool:
    """Return whether there is a file at `path`. Raises IsADirectoryError where a directory is in its place: a record of
    this name is damaged, not absent.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; expected a file; {remedy}")
    return path.is_file()


def read_json(
    path: Path,
    form: Form | None = None,
    *,
    remedy: str = FETCH,
    finite: bool = True,
    most_bytes: int = MOST_BYTES,
    deepest: int = DEEPEST,
) -> Any:
    """Read a JSON file and check its form, by default that it is an object.

    Args:
        path: The file.
        form: The expected form of the document.
        remedy: Advice for the user, for the end of the error.
        finite: Whether NaN and infinite numbers are refused.
        most_bytes: The largest size of the file.
        deepest: The deepest nesting.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: The path is a directory.
        DocumentError: The file is too large or nested too deeply, is no UTF-8 text or no JSON, has a key twice, or has
            another form.
    """
    content = read_bytes(path, most_bytes, remedy)
    return parse_json(content, path, form, remedy=remedy, finite=finite, deepest=deepest)


def parse_json(
    content: bytes,
    name: object,
    form: Form | None = None,
    *,
    remedy: str = FETCH,
    finite: bool = True,
    deepest: int = DEEPEST,
) -> Any:
    """Parse the bytes of a JSON document. Errors call it `name`; they are those of `read_json`."""
    text = decode(content, name, remedy)
    if not text.strip():
        raise DocumentError(f"{name} is empty; expected JSON; {remedy}")
    try:
        hooks = {"parse_constant": constant, "parse_float": real} if finite else {}
        document = json.loads(text, object_pairs_hook=once, **hooks)  # type: ignore[arg-type]
    except json.JSONDecodeError as error:
        raise DocumentError(
            f"{name} is not JSON: {error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}; "
            f"expected a JSON document; {remedy}"
        ) from None
    except RecursionError:
        raise DocumentError(f"{name} is nested too deeply; expected at most {deepest} levels; {remedy}") from None
    except ValueError as error:
        # The parser's limit on the digits of a number, a repeated key, or a number that is not finite.
        raise DocumentError(f"{name}: {str(error).split(';')[0]}; {remedy}") from None
    if isinstance(document, dict | list):
        check_depth(document, name, remedy, deepest)
    if "\\u" in text:
        check_characters(document, name, remedy)
    return check(document, Record() if form is None else form, name, remedy)


def read_lines(path: Path, form: Form, *, remedy: str = FETCH, skip_damaged: bool = False) -> list[Json]:
    """Read a file of JSON lines; return an empty list where there is no file.

    A last line without its end, which a killed process leaves, is left out. `skip_damaged` leaves out every line that
    cannot be read: several processes append to the file, and one of them may have been killed while it wrote.

    Raises:
        DocumentError: A line has another form; the message names the file and the line.
    """
    if not path.exists():
        return []
    lines = decode(read_bytes(path, 8 * MOST_BYTES, remedy), path, remedy).split("\n")
    documents = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            if number < len(lines) and not skip_damaged:
                raise DocumentError(f"{path} line {number} is empty; expected a JSON object on each line; {remedy}")
            continue
        try:
            documents.append(parse_json(line.encode(), f"{path} line {number}", form, remedy=remedy, finite=False))
        except DocumentError:
            torn = number == len(lines) and not line.rstrip().endswith("}")
            if not (torn or skip_damaged):
                raise
    return documents


def read_text(path: Path, *, remedy: str = FETCH, most_bytes: int = MOST_BYTES) -> str:
    """Read a UTF-8 text file. Raises as `read_json`."""
    return decode(read_bytes(path, most_bytes, remedy), path, remedy)


def read_bytes(path: Path, most_bytes: int, remedy: str) -> bytes:
    """Read a file. Raises DocumentError where it is larger than `most_bytes`."""
    if not holds_file(path, remedy):
        raise FileNotFoundError(f"file {path} does not exist; {remedy}")
    if (size := path.stat().st_size) > most_bytes:
        raise DocumentError(f"{path} has {size:,} bytes; expected at most {most_bytes:,}; {remedy}")
    try:
        return path.read_bytes()
    except PermissionError:
        raise DocumentError(f"this user has no permission to read {path}; change its permissions") from None


def decode(content: bytes, name: object, remedy: str) -> str:
    """Decode UTF-8 without a byte order mark. Raises DocumentError for anything else."""
    if content.startswith(b"\xef\xbb\xbf"):
        raise DocumentError(
            f"{name} begins with a byte order mark; expected UTF-8 without a byte order mark; save it again in this "
            "form"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at {error.start}"
        raise DocumentError(f"{name} is not UTF-8 text ({where}); expected UTF-8; {remedy}") from None


def once(pairs: list[tuple[str, Any]]) -> Json:
    """Return the object of these pairs. Raises ValueError for a key that occurs twice with different values."""
    document = dict(pairs)
    if len(document) < len(pairs):
        values: Json = {}
        for name, value in pairs:
            if name in values and repr(values[name]) != repr(value):
                raise ValueError(
                    f"the key {format_value(name)} occurs twice, with the values {format_value(values[name])} and "
                    f"{format_value(value)}: expected one value"
                )
            values[name] = value
    return document


def constant(name: str) -> Any:
    """Raise ValueError for NaN or an infinite number."""
    raise ValueError(f"the document contains {name}, which is not JSON: expected a finite number")


def real(text: str) -> float:
    """Return a number with a point or an exponent. Raises ValueError where it is too large for a float."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the document contains {text[:40]}, which is too large for a float: expected a finite number")
    return number


def check_depth(document: Any, name: object, remedy: str, deepest: int) -> None:
    """Raise DocumentError for a document that is nested too deeply for its later readers."""
    level = [document]
    for _ in range(deepest):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise DocumentError(f"{name} is nested too deeply; expected at most {deepest} levels; {remedy}")


def check_characters(document: object, name: object, remedy: str) -> None:
    """Raise DocumentError for half a character (a lone surrogate), which cannot be written anywhere."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise DocumentError(
                f"{name} contains half a character (a lone surrogate) in {format_value(value)}; expected complete "
                f"characters; {remedy}"
            )


def read_arrays(
    path: Path, dims: Mapping[str, int], *, others: bool = False, remedy: str = FETCH
) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file by name.

    Args:
        path: The file.
        dims: The number of dimensions of each array, by name. All arrays have the same first dimension.
        others: Also read the arrays of all other names, with one dimension or more.
        remedy: Advice for the user, for the end of the error.

    Raises:
        FileNotFoundError: There is no such file.
        DocumentError: The file is damaged or lacks an array, or an array has another shape or type, or a value that is
            not finite.
    """
    read_bytes(path, 2**34, remedy)
    try:
        with np.load(path, allow_pickle=False) as file:
            names = list(file)
            arrays = {name: file[name] for name in (names if others else dims) if name in names}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        reason = " ".join(str(error).split())[:80]
        raise DocumentError(f"{path} is damaged ({reason}); expected an npz file; {remedy}") from None
    except Exception as error:  # zlib, struct and tokenize raise their own kinds for a damaged header or stream
        raise DocumentError(f"{path} is damaged ({type(error).__name__}); expected an npz file; {remedy}") from None
    count = None
    for name in dict.fromkeys((*dims, *arrays)):
        if name not in arrays:
            raise DocumentError(
                f"{path} contains {', '.join(names[:6]) or 'nothing'}; expected an array {name!r}; {remedy}"
            )
        array = arrays[name]
        rank, kinds = dims.get(name, "some"), "iuf" if name in dims else "iufb"
        if array.dtype.kind not in kinds or (array.ndim != rank if name in dims else array.ndim < 1):
            raise DocumentError(
                f"{path}: {name} is {array.dtype}{list(array.shape)}; expected numbers in {rank} dimensions; {remedy}"
            )
        if count is not None and len(array) != count:
            raise DocumentError(f"{path}: {name} has {len(array)} rows, but the other arrays have {count}; {remedy}")
        count = len(array)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DocumentError(f"{path}: {name} contains numbers that are not finite; {remedy}")
    return arrays


__all__ = ["Anything", "format_value", "parse_json", "read_arrays", "read_json", "read_lines", "read_text"]
