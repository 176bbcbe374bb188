"""Studies: a question, its cells, and a directory in which many processes run each cell once.

`base` defines a study, `claims` assigns cells to workers, `work` runs them, `board` shows the progress, `table`
collects the results.
"""

from tlx.study.base import Study
from tlx.study.sweeps import chain, choice, folds, param, prod, sweep, zip_
from tlx.study.table import results
from tlx.study.work import run_study

__all__ = ["Study", "chain", "choice", "folds", "param", "prod", "results", "run_study", "sweep", "zip_"]
