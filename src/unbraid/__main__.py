"""`python -m unbraid` is the command `unbraid`."""

from unbraid.cli import main

main()
