"""Train a recipe: preparation, the compiled step, phases, the loop, evaluation, checkpoints, results.

`loop` shows the order of a run; `run_many` trains several recipes, those that can share a program together.
"""
