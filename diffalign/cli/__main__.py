"""`python -m diffalign.cli` is `diffalign`."""

from diffalign.cli import main

main()
