"""Arrays in, numbers out: losses, metrics, distances between domains, weights of examples, tests of significance, rules
that choose a checkpoint. Nothing here reads a file.
"""
