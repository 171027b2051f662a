"""Fetches one file in a process of its own: `quick_fetch.py ADDRESS FOLDER SHA256`; says when it begins,
and the address it came from.
"""

import sys
from pathlib import Path

from unbraid.errors import ModelError
from unbraid.weights import download
from unbraid.weights.fetch import RemoteFile, fetch

if __name__ == "__main__":
    address, folder, sha256 = sys.argv[1:]
    download._BACKOFF_S = 0.01
    try:
        sys.stdout.write("begins\n")
        sys.stdout.flush()
        fetched = fetch(RemoteFile("a.bin", (address,), None, sha256, None), Path(folder))
    except ModelError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.stdout.write(str(fetched.address))
