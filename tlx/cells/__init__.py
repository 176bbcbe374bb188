"""A study's directory, read back: its cells and their states, tidy rows, arms and their pairs, what is shown of them.

`reading` is the records, `compare` what the arms show of one another.
"""

from tlx.cells.reading import (
    CELLS,
    CLAIMS,
    FAILED,
    PLAN,
    SEED,
    STUDY,
    Arm,
    Cell,
    State,
    StudyRecords,
    costs,
    is_study,
    read,
)

__all__ = [
    "CELLS", "CLAIMS", "FAILED", "PLAN", "SEED", "STUDY", "Arm", "Cell", "State", "StudyRecords", "costs", "is_study",
    "read",
]  # fmt: skip
