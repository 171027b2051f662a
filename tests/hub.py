"""A hub of models on this machine: a real HTTP server, which keeps to a script of misfortunes."""

from __future__ import annotations

import gzip
import hashlib
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

__all__ = [
    "Answer",
    "Hub",
    "Request",
    "answer",
    "chunked",
    "cut",
    "garbage",
    "good",
    "hang_up",
    "make_certificate",
    "misplaced",
    "no_ranges",
    "packed",
    "redirect",
    "stall",
    "trickle",
    "unset_network_variables",
    "until_close",
    "unused_port",
]


def unset_network_variables(patch: pytest.MonkeyPatch) -> None:
    """Take away all settings of this machine that concern downloads."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        patch.delenv(name, raising=False)
        patch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "UNBRAID_MIRROR", "UNBRAID_OFFLINE"):
        patch.delenv(name, raising=False)
    for name in ("GITHUB_HOST", "GITHUB_REPOSITORY", "GITHUB_RELEASE"):
        patch.delenv(name, raising=False)


@dataclass(frozen=True)
class Request:
    """What the hub was asked: `target` is a path, or a whole address if it was asked as a proxy."""

    method: str
    target: str
    headers: Message


class Hub:
    """Serves `files`, {path: content}, at `url` while its `with` block runs; `requests` are those that came.

    Ranges, If-Range and ETags (the content's hash) work as they should. `script` makes the next requests go otherwise.
    As an HTTP proxy (of `http_proxy`, `https_proxy`) it serves its own files for http addresses of any host, and passes
    connections for https to the same port of this machine.

    certificate : serve https, with this file of a certificate and its key
    headers : of every answer, in addition or in place of its own; "" for none
    """

    def __init__(
        self, files: Mapping[str, bytes], *, certificate: Path | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.files = dict(files)
        self.headers = dict(headers or {})
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._scripts: dict[str, list[Answer]] = defaultdict(list)
        self._lock = threading.Lock()
        self._server = _Server(self, certificate)
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.hang_up()
        self._server.server_close()

    def script(self, path: str, *answers: Answer) -> None:
        """How the next requests for a path (or host:port, by CONNECT) are answered; after them, as they should be."""
        with self._lock:
            self._scripts[path] += answers

    def asked(self, path: str) -> list[Request]:
        """The requests for a path so far."""
        return [request for request in self.requests if _path(request.target) == path]

    def next_answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            script = self._scripts[_path(request.target)]
            return script.pop(0) if script else good


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def hub(self) -> Hub:
        return self.server.hub

    @property
    def content(self) -> bytes | None:
        return self.hub.files.get(_path(self.path))

    def do_GET(self) -> None:
        self.hub.next_answer(Request(self.command, self.path, self.headers))(self)

    def do_CONNECT(self) -> None:
        answer = self.hub.next_answer(Request(self.command, self.path, self.headers))
        if answer is not good:
            return answer(self)
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as other:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: other, other: self.connection}
            while not self.hub.closing.is_set():
                for end in select.select(list(ends), [], [], 0.05)[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        self.close_connection = True
                        return None
                    ends[end].sendall(data)

    def begin(self, status: int, length: int | None, **headers: str) -> None:
        """Send the head of an answer; names of headers are given with _ for -."""
        self.send_response(status)
        given = {} if length is None else {"Content-Length": str(length)}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in (given | self.hub.headers).items():
            if value and name != "Date":
                self.send_header(name, value)
        self.end_headers()

    def begin_good(self, *, ranges: bool = True) -> bytes:
        """Send the head that is due, and return the body that is."""
        content, asked = self.content, self.headers.get("Range")
        assert content is not None, self.path
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"', "Accept-Ranges": "bytes"} | self.hub.headers
        versions = ("", headers["ETag"], headers.get("Last-Modified"))
        if not ranges or asked is None or self.headers.get("If-Range", "") not in versions:
            self.begin(200, len(content), **headers)
            return content
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.begin(416, 0, Content_Range=f"bytes */{len(content)}")
            return b""
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.begin(206, len(content) - start, **headers)
        return content[start:]

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.hub.headers.get("Date") or super().date_time_string(timestamp)

    def log_message(self, *_: object) -> None:
        pass


Answer = Callable[[_Handler], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that the hub leaves no thread behind

    def __init__(self, hub: Hub, certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self._connections: list[socket.socket] = []
        self._tls = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._tls is not None:  # the handshake comes with the first byte, in the connection's own thread
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.append(connection)
        return connection, address

    def hang_up(self) -> None:
        for connection in self._connections:
            with suppress(OSError):  # over already
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """A client went away."""


def good(handler: _Handler) -> None:
    """As it should be."""
    if handler.content is None:
        handler.begin(404, 0)
    else:
        handler.wfile.write(handler.begin_good())


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    """Any status, body and headers; with _ for - in their names."""

    def send(handler: _Handler) -> None:
        handler.begin(status, len(body), **headers)
        handler.wfile.write(body)

    return send


def redirect(address: str, status: int = 302) -> Answer:
    return answer(status, Location=address)


def cut(n_bytes: int) -> Answer:
    """The connection breaks after so many bytes of the body."""

    def send(handler: _Handler) -> None:
        handler.wfile.write(handler.begin_good()[:n_bytes])
        handler.close_connection = True

    return send


def stall(n_bytes: int) -> Answer:
    """Silence after so many bytes of the body."""

    def send(handler: _Handler) -> None:
        handler.wfile.write(handler.begin_good()[:n_bytes])
        handler.hub.closing.wait(30)
        handler.close_connection = True

    return send


def trickle(piece: int, pause_s: float) -> Answer:
    """The body in pieces of so many bytes, with pauses."""

    def send(handler: _Handler) -> None:
        body = handler.begin_good()
        for start in range(0, len(body), piece):
            handler.wfile.write(body[start : start + piece])
            time.sleep(pause_s)

    return send


def chunked(extra: bytes = b"") -> Answer:
    """The body, and something more, without a length."""

    def send(handler: _Handler) -> None:
        body = (handler.content or b"") + extra
        handler.begin(200, None, Transfer_Encoding="chunked")
        for start in range(0, len(body), 10_000):
            piece = body[start : start + 10_000]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    return send


def until_close(n_bytes: int | None = None) -> Answer:
    """The first bytes of the body, without a length: the end is where the connection ends."""

    def send(handler: _Handler) -> None:
        handler.begin(200, None, Connection="close")
        handler.wfile.write((handler.content or b"")[:n_bytes])
        handler.close_connection = True

    return send


def no_ranges(n_bytes: int | None = None) -> Answer:
    """Everything from the start, whatever was asked for; broken off after so many bytes, if any are given."""

    def send(handler: _Handler) -> None:
        handler.wfile.write(handler.begin_good(ranges=False)[:n_bytes])
        handler.close_connection = True

    return send


def misplaced(content_range: str | None) -> Answer:
    """A part of the file that was not asked for."""

    def send(handler: _Handler) -> None:
        headers = {} if content_range is None else {"Content-Range": content_range}
        handler.begin(206, 100, **headers)
        handler.wfile.write(bytes(100))

    return send


def packed(handler: _Handler) -> None:
    """Compressed, though nobody asked for it."""
    body = gzip.compress(handler.content or b"")
    handler.begin(200, len(body), Content_Encoding="gzip")
    handler.wfile.write(body)


def garbage(handler: _Handler) -> None:
    """No HTTP at all."""
    handler.wfile.write(b"\x16\x03\x01\x00\xff la la la\r\n\r\n" * 20)
    handler.close_connection = True


def hang_up(handler: _Handler) -> None:
    """The connection ends without an answer."""
    handler.close_connection = True


def make_certificate(folder: Path) -> Path:
    """A file with a certificate for localhost and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("making a certificate takes the openssl program")
    path, key = folder / "hub.pem", folder / "key.pem"
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


def unused_port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _path(target: str) -> str:
    """The path of what was asked for; what is asked of a proxy with CONNECT is a host and port."""
    return unquote(urlsplit(target).path) if "/" in target else target
