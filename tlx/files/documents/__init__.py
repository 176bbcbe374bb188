"""Documents that a user can hand over: read with limits, checked against a declared form before anything uses them.

`checks` is the language of forms, `reading` reads JSON, JSON lines and npz files, `digests` knows what a run wrote, and
the other files declare one form each: `models` config.json, `processors` the files of tokenizers and preprocessors,
`records` what runs, studies and searches write.
"""

from tlx.files.documents.checks import DocumentError, check
from tlx.files.documents.reading import parse_json, read_arrays, read_json, read_lines, read_text, shown

__all__ = ["DocumentError", "check", "parse_json", "read_arrays", "read_json", "read_lines", "read_text", "shown"]
