"""The SHA-256 of files for which nobody publishes it in full, as recorded at the first download."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from unbraid.errors import ModelError
from unbraid.weights.part import locked, sync_folder, writing

__all__ = ["HASHES", "record_hash", "recorded_hashes"]

HASHES = "hashes.json"


def recorded_hashes(folder: Path) -> dict[str, str]:
    """What `hashes.json` in this folder says: {key: SHA-256}; nothing, where there is no such file.

    Raises
    ------
    ModelError : the file is damaged
    """
    path = folder / HASHES
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or not all(re.fullmatch("[0-9a-f]{64}", str(value)) for value in found.values()):
            raise ValueError("it is not a table of SHA-256 hashes")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot read the recorded hashes {str(path)!r}: {getattr(error, 'strerror', None) or error}; remove the "
            "file to have them recorded anew"
        ) from error
    return found


def record_hash(folder: Path, key: str, sha256: str | None) -> None:
    """Add to, or change in, `hashes.json`; nobody ever sees half of it. None takes away what is there.

    Raises
    ------
    ModelError : the file is damaged, or cannot be written
    """
    path = folder / HASHES
    with locked(path):
        hashes = {name: value for name, value in {**recorded_hashes(folder), key: sha256}.items() if value is not None}
        temporary = path.with_name(f"{path.name}.part")  # one, because of the lock
        with writing(path):
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(hashes, file, indent=2, sort_keys=True)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(folder)
