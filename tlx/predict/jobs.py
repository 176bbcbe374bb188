"""Answer many rows: in chunks with bounded memory, in the order of the rows, and written so that a killed job resumes.

Every finished chunk is a file of the folder `OUT.parts`. A small record in the cache says which rows a finished file
answers. The answers follow from the rows and the model alone, so the file at the end is the same whether the job was
interrupted or not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tlx.assets import cache_dir
from tlx.data.sources.raw_table import arrow_type
from tlx.files.documents import read_json
from tlx.files.durable import guarded, sha256_once, write_whole
from tlx.files.locks import writing
from tlx.predict.forward import Predictor
from tlx.predict.rows import InputRows
from tlx.predict.tables import FORMS, flat, form_of, rounded, write_table
from tlx.records.log import write_json
from tlx.trees import Json
from tlx.types import ArrayMap
from tlx.weights.files import tensor_files
from tlx.weights.source import locate

JOB = "job.json"
# The entries of a job that the answers follow from; the others only divide the work.
IDENTITY = ("model", "data", "columns", "rows")
# The names of the files of chunks: the first row of each.
CHUNK = re.compile(r"\d{12}\.jsonl")
SKIP = "; correct this row, or leave such rows without an answer: --skip-broken (skip_broken=True)"
Say = Callable[[int, int], None]


class Answered(NamedTuple):
    """The answers to the rows from `start` on, None for a broken row; by row the reasons of the broken ones; and the
    number of rows of which a part was cut off."""

    start: int
    answers: list[Any]
    broken: dict[int, str]
    cut: int = 0


class WrittenAnswers(NamedTuple):
    """The file of a finished job.

    Attributes:
        path: The file.
        rows: The number of its rows.
        broken: By row the reason why it has no answer.
        left_out: The columns of the rows that the form of the file cannot hold.
        notes: The notes of the model on the rows.
        fresh: Whether this call computed answers; False where the file was complete.
    """

    path: Path
    rows: int
    broken: dict[int, str]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fresh: bool = True


def stream(
    predictor: Predictor, rows: InputRows, *, skip_broken: bool = False, chunk: int | None = None,
    done: Callable[[int], bool] = lambda start: False,
) -> Iterator[Answered]:  # fmt: skip
    """Yield the answers to all rows, chunk by chunk. The next chunk is prepared while one is computed.

    Args:
        predictor: The model.
        rows: The rows.
        skip_broken: Leave a row that cannot be read without an answer, in place of an error.
        chunk: The number of rows of a chunk; by default that of the predictor.
        done: Whether the chunk that starts at a row is to be left out.

    Raises:
        ValueError: A row cannot be read, or its answer is not finite; the message names the row.
    """
    size = chunk or predictor.chunk
    starts = [start for start in range(0, len(rows), size) if not done(start)]

    def prepared(start: int) -> tuple[list[ArrayMap | None], dict[int, str], int]:
        # One thread prepares all chunks, one after the other.
        before = predictor.cut
        arrays: list[ArrayMap | None] = []
        broken: dict[int, str] = {}
        for row in range(start, min(start + size, len(rows))):
            try:
                arrays.append(predictor.arrays(rows.read(row)))
            except (ValueError, TypeError, OSError) as error:
                place = rows.place(row)
                reason = " ".join(str(error).split()).replace(rows.table.place(row), place)
                message = reason if place in reason else f"{place}: {reason}"
                if not skip_broken:
                    kind = TypeError if isinstance(error, TypeError) else ValueError
                    raise kind(message + (SKIP if len(rows) > 1 else "")) from error
                arrays.append(None)
                broken[row] = message
        return arrays, broken, predictor.cut - before

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(prepared, starts[0]) if starts else None
        for position, start in enumerate(starts):
            assert waiting is not None
            arrays, broken, cut = waiting.result()
            waiting = pool.submit(prepared, starts[position + 1]) if position + 1 < len(starts) else None
            answers = predictor.answers(arrays, lambda n, start=start: rows.place(start + n))  # type: ignore[misc]
            yield Answered(start, answers, broken, cut)


def write_answers(
    predictor: Predictor,
    rows: InputRows,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    skip_broken: bool = False,
    say: Say = lambda done, total: None,
) -> WrittenAnswers:
    """Write the rows with their answers to a file: all columns of the rows, then those of the answers.

    Args:
        predictor: The model.
        rows: The rows.
        out: The file; its ending, .csv, .jsonl or .parquet, is its form.
        resume: Continue a job that was interrupted; a finished file with the answers to these rows stays as it is.
        overwrite: Replace the file at the end, or an interrupted job.
        skip_broken: Leave a row that cannot be read without an answer, in place of an error.
        say: Called with the number of finished rows and of all rows.

    Raises:
        FileExistsError: The file, or an interrupted job, exists without `resume` or `overwrite`; or it is of other
            rows, of another model, or of an unknown origin.
        ValueError: A row cannot be read, its answer is not finite, or the ending is unknown.
        durable.StorageError: The disk is full, or cannot be written.
    """
    path = Path(out)
    form = form_of(path)
    parts = chunk_folder(path)
    job = job_of(predictor, rows)
    if path.is_dir():
        raise FileExistsError(f"{path} is a directory; name a file that ends in {', '.join(FORMS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}; create it, or name another file")
    if path.exists() and not overwrite and not (resume and parts.exists()):
        if not resume:
            raise FileExistsError(f"{path} exists; pass --overwrite to replace it, or name another file")
        check_finished(path, job)
        return WrittenAnswers(path, len(rows), {}, fresh=False)
    with guarded(path.parent), writing(parts, keep=False):
        if overwrite:
            clear(parts)
        check_job(parts, job, resume)
        write_json(parts / JOB, job)
        try:
            broken, left_out = fill(parts, predictor, rows, form, path, skip_broken, say)
        except BaseException as error:
            # Where an older file is to be replaced, the folder says that a job was stopped.
            is_pending = path.exists() and not isinstance(error, Exception)
            if not is_pending and not any(map(CHUNK.fullmatch, (file.name for file in parts.iterdir()))):
                clear(parts)
            raise
        record_finished(path, job)
        clear(parts)
    with suppress(OSError):
        parts.rmdir()
    return WrittenAnswers(path, len(rows), broken, left_out, (*predictor.notes(), *rows.notes()))


def fill(
    parts: Path, predictor: Predictor, rows: InputRows, form: str, path: Path, skip_broken: bool, say: Say
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Compute the chunks that are missing in the folder `parts`, and write the file from all of them.

    Returns:
        By row the reasons of the broken ones, and the columns that the form of the file cannot hold.
    """
    size = predictor.chunk
    done = sum(
        min(size, len(rows) - start) for start in range(0, len(rows), size) if chunk_file(parts, start).is_file()
    )
    say(done, len(rows))
    for part in stream(predictor, rows, skip_broken=skip_broken, done=lambda start: chunk_file(parts, start).is_file()):
        values = [None if answer is None else rounded(predictor.values(answer)) for answer in part.answers]
        kinds: dict[str, str] = {}
        names: dict[str, None] = {}
        for value in values:
            names |= dict.fromkeys(value or ())
            for name, cell in flat(value or {}).items():
                # An empty list says nothing about what it holds.
                if kinds.setdefault(name, arrow_type(cell)).endswith("nothing"):
                    kinds[name] = arrow_type(cell)
        broken_rows = {str(row): reason for row, reason in part.broken.items()}
        header = {"kinds": kinds, "names": list(names), "broken": broken_rows, "cut": part.cut}
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in (header, *values)]
        write_whole(chunk_file(parts, part.start), [line.encode() for line in lines], sync=True)
        done += len(values)
        say(done, len(rows))
    files = [chunk_file(parts, start) for start in range(0, len(rows), size)]
    headers = [json.loads(file.open(encoding="utf-8").readline()) for file in files]
    predictor.cut = sum(header["cut"] for header in headers)
    broken = {int(row): reason for header in headers for row, reason in header["broken"].items()}
    if broken and not skip_broken:
        # The job began with `skip_broken`.
        raise ValueError(next(iter(broken.values())) + SKIP)
    return broken, write_table(path, form, rows.table, files, headers, predictor.task.separator)


def chunk_file(parts: Path, start: int) -> Path:
    """Return the file of the chunk that starts at a row."""
    return parts / f"{start:012}.jsonl"


def chunk_folder(path: Path) -> Path:
    """Return the folder of the chunks of a file."""
    return path.with_name(f"{path.name}.parts")


def clear(parts: Path) -> None:
    """Delete the files of a job, and nothing else. The description of the job is the last, so that no chunk is ever
    without it."""
    for file in parts.iterdir() if parts.is_dir() else ():
        if CHUNK.fullmatch(file.name.removeprefix(".").removesuffix(".partial")):
            file.unlink(missing_ok=True)
    (parts / JOB).unlink(missing_ok=True)


def check_job(parts: Path, job: Json, resume: bool) -> None:
    """Raise FileExistsError where the folder holds an interrupted job that is not to be continued, or another job.

    Chunks without a description are deleted: nothing says which rows they answer.
    """
    if not (parts / JOB).is_file():
        clear(parts)
        return
    if not resume:
        raise FileExistsError(
            f"{parts} holds a job that was interrupted; pass --resume to continue it, or --overwrite to start again"
        )
    earlier = read_json(parts / JOB)
    if changed := differences(earlier, job, job):
        raise FileExistsError(
            f"{parts} holds a job with other settings: {', '.join(changed)} changed since; pass --overwrite to start "
            "again"
        )


def finished_record(path: Path) -> Path:
    """Return the file in the cache that says which rows a finished file answers; its content names it."""
    return cache_dir() / "answers" / f"{sha256_once(path)[:32]}.json"


def record_finished(path: Path, job: Json) -> None:
    """Record which rows a finished file answers, unless the cache cannot be written."""
    with suppress(OSError):
        record = finished_record(path)
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {name: job[name] for name in IDENTITY})


def check_finished(path: Path, job: Json) -> None:
    """Raise FileExistsError where a finished file has the answers to other rows or of another model, or where no record
    of it exists."""
    advice = "pass --overwrite to predict again and replace it, or name another file"
    record = finished_record(path)
    if not record.is_file():
        raise FileExistsError(f"{path} exists, and no record says which rows it answers; {advice}")
    earlier = read_json(record)
    if changed := differences(earlier, job, IDENTITY):
        raise FileExistsError(f"{path} has the answers of another job: {', '.join(changed)} differ; {advice}")


def differences(earlier: Json, job: Json, names: Iterable[str]) -> list[str]:
    """Return the names of the entries in which two descriptions of a job differ."""
    return [name for name in names if name not in earlier or earlier[name] != job[name]]


def job_of(predictor: Predictor, rows: InputRows) -> Json:
    """Return JSON values that differ where the answers of two jobs may differ."""
    source = predictor.model.source
    digests = [sha256_once(path) for path in sorted(set(tensor_files(locate(source)).values()))]
    document = [digests, str(predictor.task), predictor.processor.identity, list(predictor.model.lengths)]
    model = hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()
    settings = {"batch": predictor.batch, "chunk": predictor.chunk, "rows": len(rows)}
    return {"model": model[:16], **rows.identity, **settings}
