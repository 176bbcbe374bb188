"""Read a study's directory: its cells and their states, its arms and their pairs, and the comparison of the arms.

`reading` reads the records, `comparing` compares the arms.
"""

from tlx.records.studies.comparing import (
    Comparison,
    Score,
    Summary,
    Table,
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
    GROUPS,
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
    "CELLS", "CLAIMS", "FAILED", "GROUPS", "PLAN", "SEED", "STUDY", "Arm", "Cell", "Comparison", "Score", "State",
    "StudyRecords", "Summary", "Table", "against", "compare", "costs", "is_baseline", "is_study", "judged", "read",
    "summarise",
]  # fmt: skip
