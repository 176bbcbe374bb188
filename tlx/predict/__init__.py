"""Predict with a finished run, or with any saved model that has a head: texts, files, tables of any size.

`answers` and `predict` return answers, `write_answers` writes them beside the rows of a table, and `understood` says
what the arguments of the command line are.
"""

from tlx.predict.arguments import understood
from tlx.predict.asking import answers, predict
from tlx.predict.forward import Predictor
from tlx.predict.jobs import write_answers
from tlx.predict.opening import open_model, opened, prepare_inputs
from tlx.predict.rows import InputRows

__all__ = [
    "InputRows", "Predictor", "answers", "open_model", "opened", "predict", "prepare_inputs", "understood",
    "write_answers",
]  # fmt: skip
