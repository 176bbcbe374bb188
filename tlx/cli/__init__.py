"""The command line: one file for each family of commands. Every command registers on the group `main`."""

from tlx.cli import assets, benefit, classical, data, negative, pages, runs, start, studies, tune, weights
from tlx.cli.group import load_recipe, main
