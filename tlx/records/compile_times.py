"""Remember how long programs took to compile, in a small file of the cache."""

import json
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from tlx.assets import cache_dir
from tlx.files.durable import write_whole

FILE = "compile_times.json"
# The file keeps the newest entries.
MOST = 512


class CompileTimes:
    """Seconds by program. The file only informs: one that cannot be read or written is as good as none."""

    def __init__(self, path: Path | None = None):
        self.path = path or cache_dir() / FILE

    def read(self) -> dict[str, tuple[float, float]]:
        """Return the seconds, and the time of the note in seconds since the epoch, by program."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(program): (float(seconds), float(when)) for program, (seconds, when) in document.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    @cached_property
    def known(self) -> dict[str, tuple[float, float]]:
        """Return the notes of earlier processes."""
        return self.read()

    def last(self, program: str) -> float | None:
        """Return the seconds that the program took last time; None where this is unknown."""
        return self.known[program][0] if program in self.known else None

    def note(self, program: str, seconds: float) -> None:
        """Remember the seconds that a program took now."""
        times = self.read() | {program: (round(seconds, 2), round(time.time()))}
        newest = sorted(times.items(), key=lambda entry: entry[1][1])[-MOST:]
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, [json.dumps(dict(newest)).encode()])
