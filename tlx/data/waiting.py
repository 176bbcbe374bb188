"""Say in the log how far a long preparation of data is."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)

# Seconds before the first line, and between two lines.
FIRST, NEXT = 2.0, 5.0


class Waiting:
    """Writes a line like "reading reviews.csv: 300,000 rows" every few seconds, and none for short work.

    Args:
        action: The work.
        noun: What is counted.
        total: How many there are, 0 where that is not known.
    """

    def __init__(self, action: str, noun: str, total: int = 0):
        self.action, self.noun, self.total = action, noun, total
        self.due = time.monotonic() + FIRST

    def __call__(self, done: int) -> None:
        """Say that `done` are done, if a line is due."""
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + NEXT
        of_total = f" of {self.total:,}" if self.total else ""
        log.info("%s: %s%s %s", self.action, f"{done:,}", of_total, self.noun)
