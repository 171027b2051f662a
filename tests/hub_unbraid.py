"""The command `unbraid` with the catalogue of models that UNBRAID_TEST_CATALOG names, and short waits between tries."""

import os
from pathlib import Path

from unbraid.cli import main
from unbraid.weights import catalog, download

if __name__ == "__main__":
    catalog._PATH = Path(os.environ["UNBRAID_TEST_CATALOG"])
    download._BACKOFF_S = 0.01
    main()
