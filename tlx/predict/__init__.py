"""Predict with a finished run, or with any saved model that has a head: texts, files, tables of any size.

`predict` returns answers to rows of any kind, `write_answers` writes them beside the rows of a table, and `understood`
reads the arguments of the command line.
"""

from tlx.predict.arguments import understood
from tlx.predict.asking import predict
from tlx.predict.forward import Predictor
from tlx.predict.jobs import write_answers
from tlx.predict.opening import open_model, opened, prepare_inputs
from tlx.predict.rows import InputRows

__all__ = [
    "InputRows", "Predictor", "open_model", "opened", "predict", "prepare_inputs", "understood", "write_answers",
]  # fmt: skip
