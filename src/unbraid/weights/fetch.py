"""Downloads: a file of the catalogue becomes a verified file in a folder, once.

::

    folder/NAME             the file, complete and verified
    folder/NAME.part        what has come so far; the next try goes on from there
    folder/NAME.part.json   where that came from
    folder/NAME.lock        held by the process that downloads; the file stays, empty
    folder/hashes.json      the full SHA-256 of files for which nobody publishes it, as first seen

The environment: `UNBRAID_OFFLINE=1` forbids connections; see `addresses` for `UNBRAID_MIRROR` and Spleeter's variables;
HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR mean what they mean everywhere.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unbraid.errors import ModelError
from unbraid.weights.addresses import Plan, RemoteFile, plan_of, without_password
from unbraid.weights.download import AddressError, Report, download, open_client
from unbraid.weights.folder import sha256_of
from unbraid.weights.hashes import HASHES, record_hash, recorded_hashes
from unbraid.weights.part import Part, locked, writing

if TYPE_CHECKING:
    import httpx

__all__ = ["FetchProgress", "Fetched", "RemoteFile", "fetch"]

_LARGEST_CHECKSUMS = 1 << 20  # bytes


@dataclass(frozen=True)
class FetchProgress:
    """How many bytes of a file are there, of `total` (None while the size is unknown)."""

    name: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Fetched:
    """A verified file.

    sha256 : all 64 hex digits
    address : where it came from, without a password; None when the file was there already
    pinned : whether something known before told that these are the right bytes; False when nobody publishes the hash,
        so that they were taken on trust and their hash recorded
    """

    path: Path
    sha256: str
    size: int
    address: str | None
    pinned: bool


def fetch(file: RemoteFile, folder: Path, *, on_progress: Callable[[FetchProgress], None] | None = None) -> Fetched:
    """Put the file, verified, at `folder / file.name`; one that is there already is verified and nothing is downloaded.

    on_progress : called while bytes come, while waiting for the next try, and while another process downloads the same
        file; what it raises ends the download and leaves what came so far, to be continued

    Raises
    ------
    ModelError : the file cannot be had, or is not what was promised
    """
    assert Path(file.name).name == file.name
    plan = plan_of(file)
    path = folder / file.name

    def report(done: int, total: int | None) -> None:
        if on_progress is not None:
            on_progress(FetchProgress(file.name, done, total))

    there = _verified(plan, path)
    if there is not None:
        return there
    if os.environ.get("UNBRAID_OFFLINE", "0") not in ("", "0"):
        addresses = " or ".join(map(without_password, plan.file.addresses))
        raise ModelError(
            f"cannot fetch {file.name!r}: no good copy is in {str(folder)!r}, and UNBRAID_OFFLINE is set; unset it, or "
            f"download {addresses} elsewhere and run 'unbraid models import PATH'"
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    part = Part(folder / f"{file.name}.part")
    with locked(path, lambda: report(part.length(), plan.file.size)):
        there = _verified(plan, path)  # another process may just have put it there
        if there is not None:
            return there
        with open_client() as client:
            return _fetch(client, plan, path, part, report)


def _verified(plan: Plan, path: Path) -> Fetched | None:
    """The file, if it is there and is the right one."""
    if os.path.isdir(path):  # unlike Path's methods, these are not stopped by a folder that may not be looked into
        raise ModelError(f"cannot put a file at {str(path)!r}: there is a folder; move it away")
    if not os.path.isfile(path) or plan.file.size not in (None, path.stat().st_size):
        return None
    known = _known_hashes(plan, path.parent)
    if not known and plan.checksums is not None:
        return None  # it may be the same file of another release
    sha256 = sha256_of(path)
    if _mismatch(known, sha256) is not None:
        return None
    # Where the folder cannot be written, what was put there by hand stays without a record.
    with suppress(ModelError):
        _record(plan, path.parent, sha256)
    return Fetched(path, sha256, path.stat().st_size, None, bool(known))


def _fetch(client: httpx.Client, plan: Plan, path: Path, part: Part, report: Report) -> Fetched:
    """Download from the first address that gives the right file."""
    if plan.checksums is not None and not _known_hashes(plan, path.parent):
        plan = replace(plan, file=replace(plan.file, sha256=_published_hash(client, plan, path, report)))
        there = _verified(plan, path)
        if there is not None:
            return there
    failures = []
    for address in plan.file.addresses:
        try:
            return _fetch_from(client, address, plan, path, part, report)
        except AddressError as error:
            failures.append(f"{without_password(address)}: {error}")
    kept = f"; {part.length()} bytes are kept for the next try" if part.length() else ""
    if not kept:
        part.drop()
    settings = f" (with {', '.join(plan.settings)})" if plan.settings else ""
    raise ModelError(
        f"cannot fetch {path.name!r}{settings}: {'; '.join(failures) or 'no address of it is known'}{kept}; try again "
        "later, set UNBRAID_MIRROR to an address that has it, or download it by hand and run 'unbraid models import "
        "PATH'"
    )


def _fetch_from(client: httpx.Client, address: str, plan: Plan, path: Path, part: Part, report: Report) -> Fetched:
    """Download from one address; when the hash is wrong, a second time, from the first byte."""
    known = _known_hashes(plan, path.parent)
    for is_last in (False, True):
        download(client, address, part, size=plan.file.size, report=report, is_checked=bool(known))
        sha256, size = sha256_of(part.path), part.length()
        mismatch = _mismatch(known, sha256)
        if mismatch is None:
            break
        part.drop()
        if is_last:
            raise AddressError(mismatch)
    _record(plan, path.parent, sha256)
    part.put(path)
    return Fetched(path, sha256, size, without_password(address), bool(known))


def _known_hashes(plan: Plan, folder: Path) -> dict[str, str]:
    """All that the file's SHA-256 must begin with, and who says so."""
    found = {"": plan.file.sha256 or plan.file.sha256_prefix}
    if plan.is_recorded:
        found[f", as {str(folder / HASHES)!r} has it from an earlier download,"] = recorded_hashes(folder).get(plan.key)
    return {who: digits.lower() for who, digits in found.items() if digits}


def _mismatch(known: Mapping[str, str], sha256: str) -> str | None:
    """What is wrong with a hash; None if nothing is."""
    for who, digits in known.items():
        if not sha256.startswith(digits):
            must = "be" if len(digits) == len(sha256) else "begin with"
            return f"its SHA-256 must {must} {digits}{who} but is {sha256}"
    return None


def _record(plan: Plan, folder: Path, sha256: str) -> None:
    if plan.is_recorded and recorded_hashes(folder).get(plan.key) != sha256:
        record_hash(folder, plan.key, sha256)


def _published_hash(client: httpx.Client, plan: Plan, path: Path, report: Report) -> str:
    """What the release itself says in its `checksum.json`, by Spleeter's rule: the name is without `.tar.gz`."""
    assert plan.checksums is not None
    name = plan.file.addresses[0].rpartition("/")[2].removesuffix(".tar.gz")
    part = Part(path.with_name(f"{path.name}.checksum.json.part"))
    try:
        download(
            client,
            plan.checksums,
            part,
            size=None,
            report=lambda *_: report(0, None),
            is_checked=False,
            largest=_LARGEST_CHECKSUMS,
        )
        sha256 = json.loads(part.path.read_bytes())[name]
        if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise ValueError
    except AddressError as error:
        raise _no_checksum(plan, path, str(error)) from error
    except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
        raise _no_checksum(plan, path, f"no SHA-256 of '{name}' is there") from error
    finally:
        part.drop()
    return str(sha256).lower()


def _no_checksum(plan: Plan, path: Path, reason: str) -> ModelError:
    return ModelError(
        f"cannot fetch {path.name!r} of another release, with {', '.join(plan.settings)}: "
        f"{without_password(plan.checksums or '')}: {reason}; unset these variables to have Spleeter's own "
        "(GITHUB_REPOSITORY is also set in every workflow of GitHub Actions)"
    )
