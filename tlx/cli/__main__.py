"""`python -m tlx.cli` is `tlx`."""

from tlx.cli import main

main()
