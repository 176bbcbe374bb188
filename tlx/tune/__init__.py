"""Searches: which numbers, and which records, of a recipe do best on the validation split.

`space` is what may be chosen, `asked` what a search was asked, `journal` Optuna's side, `crew` a worker, `attempt` the
runs, `reading` what came of them, `searching` the whole.
"""

from tlx.tune.reading import Found, Record
from tlx.tune.searching import search
from tlx.tune.space import integer, log_uniform, one_of, uniform

__all__ = ["Found", "Record", "integer", "log_uniform", "one_of", "search", "uniform"]
