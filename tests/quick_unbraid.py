"""The command with `commands.quick_engine` in place of a network, for tests that start and stop it many times."""

import unbraid.separation.separator
from commands import quick_engine
from unbraid.cli import main

if __name__ == "__main__":
    unbraid.separation.separator.load_engine = quick_engine
    main()
