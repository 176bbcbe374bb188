"""The command line: one file a family of commands, each of which registers on the group `main`."""

from tlx.cli import assets, benefit, classical, negative, pages, runs, studies, tune, weights
from tlx.cli.group import load_recipe, main
