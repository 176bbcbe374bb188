"""Questions that take several runs: does a pretrained start help, does a source hurt, what did training change, what do
classical methods reach, which mean of runs is best. One module or package for each question.
"""
