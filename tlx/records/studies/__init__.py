"""Read a study's directory: its cells and their states, its arms and their pairs, and the comparison of the arms.

`reading` reads the records, `comparing` compares the arms.
"""

from tlx.records.studies.comparing import (
    Comparison,
    Score,
    StudyTable,
    Summary,
    against,
    compare,
    is_baseline,
    judged,
    summarise,
)
from tlx.records.studies.reading import (
    CELLS,
    CLAIMS,
    FAILED,
    FOLD,
    GROUPS,
    PLAN,
    SEED,
    STUDY,
    Arm,
    CellRecord,
    State,
    StudyRecords,
    costs,
    is_study,
    read,
)

__all__ = [
    "CELLS",
    "CLAIMS",
    "FAILED",
    "FOLD",
    "GROUPS",
    "PLAN",
    "SEED",
    "STUDY",
    "Arm",
    "CellRecord",
    "Comparison",
    "Score",
    "State",
    "StudyRecords",
    "StudyTable",
    "Summary",
    "against",
    "compare",
    "costs",
    "is_baseline",
    "is_study",
    "judged",
    "read",
    "summarise",
]  # fmt: skip
