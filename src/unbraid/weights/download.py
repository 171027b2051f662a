"""HTTP: brings the bytes at an address into a `Part`, however often the line breaks."""

from __future__ import annotations

import math
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

from unbraid.errors import ModelError
from unbraid.weights.addresses import without_password
from unbraid.weights.part import Part

if TYPE_CHECKING:
    import httpx

__all__ = ["LARGEST", "AddressError", "download", "open_client"]

LARGEST = 2 << 30  # bytes, where the size is unknown: several times the largest of the official files
_TRIES = 5  # in a row that bring nothing new
_BACKOFF_S = 0.5  # doubled with each such try
_LONGEST_WAIT_S = 60.0  # that a server may ask for
_CONNECT_S = 15.0
_SILENCE_S = 30.0  # between two pieces of an answer; however small they are
_N_REDIRECTS = 10

Report: TypeAlias = Callable[[int, "int | None"], None]


class AddressError(Exception):
    """An address does not give the file, and says or shows why; another address may."""


class _PassingError(Exception):
    """A try failed, and the next one may not; after `wait_s`, where the server says so."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def open_client() -> httpx.Client:
    """What makes connections, by the environment's proxies and certificates.

    Raises
    ------
    ModelError : they make no sense
    """
    import httpx

    try:
        return httpx.Client(
            timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S),
            # Hashes and lengths are those of the file, not of some packing of it.
            headers={"User-Agent": "unbraid", "Accept": "*/*", "Accept-Encoding": "identity"},
        )
    except ImportError as error:
        raise ModelError(
            "cannot download through a SOCKS proxy: a package for it is missing; pip install 'httpx[socks]', or unset "
            "ALL_PROXY"
        ) from error
    except OSError as error:
        raise ModelError(
            f"cannot read the certificates that SSL_CERT_FILE or SSL_CERT_DIR names: {error.strerror or error}; "
            "correct or unset it"
        ) from error
    except (ValueError, httpx.InvalidURL) as error:  # whose text may show a proxy's password
        raise ModelError(
            "cannot use the proxy that the environment asks for; correct or unset HTTP_PROXY, HTTPS_PROXY, ALL_PROXY "
            "and NO_PROXY"
        ) from error


def download(
    client: httpx.Client,
    address: str,
    part: Part,
    *,
    size: int | None,
    report: Report,
    is_checked: bool = True,
    largest: int | None = None,
) -> None:
    """Complete a part: go on where it ends if possible, else from the start, until it is all there.

    size : in bytes, where it is known; only a file of this size is taken
    report : called with the bytes done and the total (or None) as bytes come, and while waiting for the next try
    is_checked : whether a hash is going to tell if the bytes of two tries, or of two addresses, do not belong together
    largest : in bytes; what is larger is refused where `size` is None; without it, `LARGEST`

    Raises
    ------
    AddressError : this address does not give the file
    ModelError : the disk is full, or the part cannot be written
    """
    furthest, tries = part.length(), 0
    while part.length() != size:
        try:
            _try(client, address, part, size or largest or LARGEST, size, report, is_checked)
            return
        except _PassingError as error:
            if part.length() > furthest:
                furthest, tries = part.length(), 0
            tries += 1
            if tries == _TRIES:
                raise AddressError(f"{error} ({_TRIES} tries)") from error
            wait_s = _BACKOFF_S * 2 ** (tries - 1) * random.uniform(0.5, 1.5) if error.wait_s is None else error.wait_s
            if wait_s > _LONGEST_WAIT_S:
                raise AddressError(f"{error}, and asks to be left alone for {wait_s:.0f} s") from error
        _pause(wait_s, lambda: report(part.length(), size))


def _pause(wait_s: float, report: Callable[[], None]) -> None:
    """Sleep, but let a progress callback stop it."""
    end = time.monotonic() + wait_s
    while (left_s := end - time.monotonic()) > 0:
        report()
        time.sleep(min(left_s, 0.25))


def _try(
    client: httpx.Client, address: str, part: Part, limit: int, size: int | None, report: Report, is_checked: bool
) -> None:
    """One request, and all that comes of it."""
    with _answer(client, address, _range(part, address, is_checked)) as response:
        if response.status_code == 416:
            if response.headers.get("Content-Range") == f"bytes */{part.length()}":
                return  # an earlier run had it all, and did not know
            part.drop()
            raise _PassingError("it does not go on where the download broke off")
        _check_status(response)
        length = response.headers.get("Content-Length")
        if response.status_code == 206:
            total = _check_range(response, part, address)
        else:
            total = None if length is None else int(length)
        if size is not None and total not in (None, size):
            raise AddressError(f"it has {total} bytes in place of {size}")
        if total is not None and total > limit:
            raise AddressError(f"it has {total} bytes, more than is believable")
        total = size if total is None else total
        if response.status_code == 200:
            part.begin(without_password(address), _version(response))
        _check_room(part, total)
        done = _receive(response, part, limit, total, report)
        if total is not None and done < total:
            raise _PassingError(f"it broke off after {done} of {total} bytes")


def _receive(response: httpx.Response, part: Part, limit: int, total: int | None, report: Report) -> int:
    """Append the body to the part; returns the part's length."""
    done = part.length()
    report(done, total)
    chunks = response.iter_raw()
    with part.opened() as write:
        while True:
            with _network():
                chunk = next(chunks, None)
            if chunk is None:
                return done
            if done + len(chunk) > limit:
                break
            write(chunk)
            done += len(chunk)
            report(done, total)
    part.drop()
    raise AddressError(f"it sends more than the {limit} bytes that it may have")


@contextmanager
def _answer(client: httpx.Client, address: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
    """The first answer that is not a redirect."""
    with _network():
        request = client.build_request("GET", address, headers=headers)
    for _ in range(_N_REDIRECTS + 1):
        with _network():
            response = client.send(request, stream=True)
        try:
            if response.next_request is None:
                yield response
                return
            following = response.next_request
        finally:
            response.close()
        if request.url.scheme == "https" and following.url.scheme != "https":
            raise AddressError(f"it redirects to {without_password(str(following.url))}, which is not encrypted")
        request = following
    raise AddressError(f"it redirects more than {_N_REDIRECTS} times")


@contextmanager
def _network() -> Iterator[None]:
    """Translate what httpx raises."""
    import httpx

    try:
        yield
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise AddressError(f"not an address that can be used: {_text(error)}") from error
    except httpx.ConnectTimeout as error:
        raise _PassingError(f"no connection within {_CONNECT_S:g} s") from error
    except httpx.TimeoutException as error:
        raise _PassingError(f"silence for {_SILENCE_S:g} s") from error
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):  # OpenSSL's name; httpx gives its errors as text
            hint = "SSL_CERT_FILE may name a file with the certificates of your network"
            raise AddressError(f"its certificate is not trusted: {_text(error)} ({hint})") from error
        raise _PassingError(_text(error)) from error


def _text(error: Exception) -> str:
    """An error of httpx on one line; servers have a say in its text."""
    text = without_password(" ".join(str(error).split()))
    return text[:200] or type(error).__name__


def _range(part: Part, address: str, is_checked: bool) -> dict[str, str]:
    """The headers that ask for the rest of a part; none, if it must begin anew."""
    length = part.length()
    if length == 0:
        return {}
    origin, version = part.origin()
    if origin == without_password(address) and version:
        return {"Range": f"bytes={length}-", "If-Range": version}
    return {"Range": f"bytes={length}-"} if is_checked else {}


def _version(response: httpx.Response) -> str:
    """What a server calls this version of a file, in the form that If-Range takes."""
    tag: str = response.headers.get("ETag", "")
    # A weak tag may stay the same when bytes change.
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    return version if version.isascii() and version.isprintable() else ""


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    try:
        reason = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        reason = f"status {status}"
    if status in (408, 425, 429) or 500 <= status <= 599:
        raise _PassingError(reason, _retry_after(response))
    if status not in (200, 206):
        raise AddressError(reason)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise AddressError(f"it sends the file packed ({_text(Exception(encoding))}), though asked not to")


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait for; None where it does not say."""
    value = response.headers.get("Retry-After", "")
    if re.fullmatch("[0-9]+", value):
        return float(value)
    try:
        # By the server's clock: ours may be wrong.
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(response.headers.get("Date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, wait.total_seconds())


def _check_range(response: httpx.Response, part: Part, address: str) -> int | None:
    """The size of the whole file, where the answer says it; drops the part if the answer does not go on from it."""
    found = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)", response.headers.get("Content-Range", ""))
    origin, version = part.origin()
    changed = origin == without_password(address) and version and _version(response) not in ("", version)
    if found is None or int(found[1]) != part.length() or changed:
        part.drop()
        raise _PassingError("it does not go on where the download broke off")
    return None if found[2] == "*" else int(found[2])


def _check_room(part: Part, total: int | None) -> None:
    """Raise ModelError if the rest does not fit on the disk."""
    if total is None:
        return
    free, missing = shutil.disk_usage(part.path.parent).free, total - part.length()
    if missing > free:
        if part.length() == 0:
            part.drop()
        raise ModelError(
            f"cannot download {part.path.stem!r}: it needs {math.ceil(missing / 1e6)} MB, and the disk of "
            f"{str(part.path.parent)!r} has {free // 10**6} MB left; make room, or set UNBRAID_HOME to another folder"
        )
