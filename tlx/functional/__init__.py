"""Functions from arrays to numbers; none of them reads a file.

Losses, metrics, distances between domains, weights of examples, tests of significance, and rules that choose a
checkpoint.
"""
