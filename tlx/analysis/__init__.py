"""Questions that take several runs, with one module or package for each question.

Does pretraining help, does a source hurt, what did training change, what do classical methods reach, which average of
runs is best? `evaluation` measures one run on other data.
"""
