"""`python -m goodparts` is `goodparts`."""

from goodparts.cli import main

main()
