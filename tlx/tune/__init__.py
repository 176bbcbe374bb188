"""Searches: find the numbers and records of a recipe that do best on the validation split.

`space` defines the search space, `settings` checks the arguments of a search, `journal` contains the calls of Optuna,
`crew` is a worker, `attempt` runs the trials, `reading` reads the results, `searching` is the entry point.
"""

from tlx.tune.reading import Found, TrialRecord
from tlx.tune.searching import search
from tlx.tune.space import integer, log_uniform, one_of, uniform

__all__ = ["Found", "TrialRecord", "integer", "log_uniform", "one_of", "search", "uniform"]
