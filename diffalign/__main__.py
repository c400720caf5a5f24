"""`python -m diffalign` is `diffalign`."""

from diffalign.cli import main

main()
