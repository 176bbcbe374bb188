"""Read documents of the user with limits, and check them against a declared form before anything uses them.

`checks` is the language of forms, `reading` reads JSON, JSON lines and npz files, `digests` records the files that a
run wrote. The other files declare forms: `models` that of config.json, `processors` those of the files of tokenizers
and preprocessors, `records` those of the files of runs, studies and searches.
"""

from tlx.files.documents.checks import DocumentError, check
from tlx.files.documents.reading import (
    format_value,
    holds_file,
    parse_json,
    read_arrays,
    read_json,
    read_lines,
    read_text,
)

__all__ = [
    "DocumentError",
    "check",
    "format_value",
    "holds_file",
    "parse_json",
    "read_arrays",
    "read_json",
    "read_lines",
    "read_text",
]
