"""Where a file comes from: the catalogue's addresses, and what the environment says to them.

| variable            | meaning                                                                                       |
|---------------------|-----------------------------------------------------------------------------------------------|
| `UNBRAID_MIRROR`    | an http(s) address; `$UNBRAID_MIRROR/NAME` is tried before all others                         |
| `GITHUB_HOST`       | another host with Spleeter's releases                                                         |
| `GITHUB_REPOSITORY` | another repository in place of deezer/spleeter: other files, so the catalogue's hashes are off |
| `GITHUB_RELEASE`    | another release in place of v1.4.0: likewise                                                  |

The last three are Spleeter's; they concern the files of its release on GitHub only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote

from unbraid.errors import ModelError

__all__ = ["Plan", "RemoteFile", "plan_of", "without_password"]

_GITHUB = {"GITHUB_HOST": "https://github.com", "GITHUB_REPOSITORY": "deezer/spleeter", "GITHUB_RELEASE": "v1.4.0"}


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded.

    name : of the file in the folder of downloads
    addresses : where it is published, the best first
    size : in bytes, None where nobody says
    sha256 : all 64 hex digits, None where nobody publishes them
    sha256_prefix : the first hex digits, where only they are published
    """

    name: str
    addresses: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None


@dataclass(frozen=True)
class Plan:
    """What to fetch, in this environment.

    file : with the addresses to try, and the size and hash that hold for them
    key : names the file where hashes are recorded
    checksums : address of a JSON file of {name: SHA-256}, where only that says what the hash must be
    settings : the variables that changed something, for messages
    """

    file: RemoteFile
    key: str
    checksums: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def is_recorded(self) -> bool:
        """Whether the catalogue does not have the file's full hash, so that the first one seen is recorded."""
        return self.checksums is not None or self.file.sha256 is None


def plan_of(file: RemoteFile) -> Plan:
    """Apply the environment's settings to a file's addresses.

    Raises
    ------
    ModelError : UNBRAID_MIRROR or GITHUB_HOST is not an http(s) address
    """
    plan = _release(file)
    mirror = os.environ.get("UNBRAID_MIRROR", "")
    if not mirror or plan.checksums is not None:  # a mirror has the files of the catalogue, not those of a fork
        return plan
    _check_base("UNBRAID_MIRROR", mirror)
    addresses = (f"{mirror.rstrip('/')}/{quote(file.name)}", *plan.file.addresses)
    settings = (f"UNBRAID_MIRROR={without_password(mirror)}", *plan.settings)
    return replace(plan, file=replace(plan.file, addresses=addresses), settings=settings)


def without_password(address: str) -> str:
    """An address for messages: without the user's name and password, on one line."""
    return "".join(c if c.isprintable() else "?" for c in re.sub(r"//[^/?#]*@", "//", address))


def _release(file: RemoteFile) -> Plan:
    """The plan for Spleeter's variables."""
    published = _release_address(_GITHUB)
    chosen = {name: os.environ.get(name) or default for name, default in _GITHUB.items()}
    changed = tuple(name for name in _GITHUB if chosen[name].rstrip("/") != _GITHUB[name])
    if not changed or not any(address.startswith(published) for address in file.addresses):
        return Plan(file, file.name)
    _check_base("GITHUB_HOST", chosen["GITHUB_HOST"])
    settings = tuple(f"{name}={without_password(chosen[name])}" for name in changed)
    base = _release_address(chosen)
    moved = {address: base + address[len(published) :] for address in file.addresses if address.startswith(published)}
    if changed == ("GITHUB_HOST",):  # the same files
        addresses = tuple(moved.get(address, address) for address in file.addresses)
        return Plan(replace(file, addresses=addresses), file.name, settings=settings)
    other = RemoteFile(file.name, tuple(moved.values()))
    key = f"{chosen['GITHUB_REPOSITORY']}/{chosen['GITHUB_RELEASE']}/{file.name}"
    return Plan(other, key, checksums=f"{base}checksum.json", settings=settings)


def _release_address(chosen: Mapping[str, str]) -> str:
    host, repository, release = (chosen[name].strip("/") for name in _GITHUB)
    return f"{host}/{repository}/releases/download/{release}/"


def _check_base(variable: str, address: str) -> None:
    if not re.match(r"https?://[^/]", address):
        raise ModelError(
            f"{variable} must be an address that begins with http:// or https://, got '{without_password(address)}'"
        )
