"""The command line: one file for each family of commands. Every command registers on the group `main`."""

from tlx.cli import (
    benefit,
    classical,
    continued,
    data,
    interference,
    listing,
    lists,
    models,
    negative,
    pages,
    plan,
    predict,
    runs,
    start,
    studies,
    tools,
    tune,
    weights,
)
from tlx.cli.group import main
from tlx.cli.user_files import load_recipe
