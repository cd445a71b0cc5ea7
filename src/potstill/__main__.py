"""`python -m potstill`: the command line."""

from potstill.cli import main

main()
