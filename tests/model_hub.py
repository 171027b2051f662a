"""Small models packed as the official ones are, on a hub of this machine, and the command that fetches them from there.

The catalogue is the project's own with other addresses, sizes and hashes: what is not on the hub is nowhere.
"""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import certifi
import numpy as np
import pytest
import tomli_w

from archives import MEMBERS, checkpoint_members, gzipped, published_tar
from bundle_writer import write_bundle
from commands import Outcome, command, environment, run_inside
from hub import Hub
from spleeter_checkpoint import FILTERS, spleeter_tensors
from unbraid.weights import catalog, download
from unbraid.weights.convert.crc32c import crc32c, masked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["OFFICIAL", "World", "new_world", "packed", "sha256", "small_archive", "small_checkpoint"]

OFFICIAL = "https://github.com/deezer/spleeter/releases/download/v1.4.0"
_PROGRAM = (sys.executable, str(Path(__file__).with_name("hub_unbraid.py")))
_CATALOG = Path(catalog.__file__).with_name("catalog.toml")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
# Nothing of what this machine, or another test, has set.
_SETTINGS = dict.fromkeys(
    (
        *(*_PROXIES, *map(str.lower, _PROXIES)),
        *("GITHUB_HOST", "GITHUB_REPOSITORY", "GITHUB_RELEASE"),
        *("UNBRAID_MIRROR", "UNBRAID_OFFLINE", "UNBRAID_MODEL", "MODEL_PATH"),
    ),
    "",
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def small_checkpoint(folder: Path, n_stems: int, *, seed: int = 1, filters: Sequence[int] = FILTERS) -> Path:
    """A random checkpoint of Spleeter's, by default with few filters, in a folder as Spleeter would have it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, like in spleeter_tensors(n_stems, filters=filters).items():
        if like.ndim == 0:
            tensors[name] = like
        elif name.endswith("moving_variance"):
            tensors[name] = rng.uniform(0.5, 1.5, like.shape).astype(np.float32)
        else:
            tensors[name] = 0.2 * rng.standard_normal(like.shape, np.float32)
    write_bundle(folder / "model", tensors, checksum=lambda data: masked(crc32c(data)))
    for name, content in checkpoint_members(folder).items():
        (folder / name).write_bytes(content)
    return folder


def packed(checkpoint: Path) -> bytes:
    """The archive of a checkpoint's folder, as it is published."""
    return gzipped(published_tar({name: (checkpoint / name).read_bytes() for name in MEMBERS}))


@cache
def small_archive(n_stems: int, *, seed: int = 1) -> bytes:
    with TemporaryDirectory() as folder:
        return packed(small_checkpoint(Path(folder), n_stems, seed=seed))


@dataclass(frozen=True)
class World:
    """A hub that has the archives of Spleeter's three models, an empty home, and the command.

    files : content by the path on the hub, which is that of the official release on its host
    folder : for whatever a test makes
    """

    hub: Hub
    folder: Path
    files: Mapping[str, bytes]
    _catalog: Path
    _capsys: pytest.CaptureFixture[str]

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def settings(self) -> dict[str, str]:
        """The environment of the command."""
        return {
            **_SETTINGS,
            "UNBRAID_HOME": str(self.home),
            "UNBRAID_TEST_CATALOG": str(self._catalog),
            # One authority: to load them all takes longer than most of what is tested here.
            "SSL_CERT_FILE": str(self.folder / "authority.pem"),
        }

    def path(self, n_stems: int = 4) -> str:
        """Where the hub has an archive."""
        return f"{OFFICIAL.removeprefix('https://github.com')}/{n_stems}stems.tar.gz"

    def run(self, *arguments: object, **settings: str) -> Outcome:
        """`unbraid ARGUMENTS` in this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**self.settings, **settings}.items():
                patch.setenv(name, value)
            return run_inside(arguments, self._capsys)

    def process(self, *arguments: object, before: Sequence[str] = (), **settings: str) -> Outcome:
        """`unbraid ARGUMENTS` as a process of its own.

        before : words that go before the command
        """
        return command(arguments, program=[*before, *_PROGRAM], env={**self.settings, **settings}, cwd=self.folder)

    def start(self, *arguments: object, **settings: str) -> subprocess.Popen[str]:
        """Start `unbraid ARGUMENTS` as a process of its own."""
        options: dict[str, Any] = {}
        if sys.platform != "win32":
            # A shell starts its background jobs with interrupts ignored, and so this test, if it is run in one.
            options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(
            [*_PROGRAM, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env=environment(**self.settings, **settings),
            cwd=self.folder,
            **options,
        )

    def change_catalog(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Have the command read a catalogue with other content."""
        content = tomllib.loads(self._catalog.read_text("utf-8"))
        change(content)
        self._catalog.write_text(tomli_w.dumps(content), "utf-8")
        catalog.catalog.cache_clear()

    def change_file(self, n_stems: int = 4, **facts: object) -> None:
        """Have the catalogue say something else of an archive; None takes a fact away."""

        def change(content: dict[str, Any]) -> None:
            file = content["models"][f"spleeter:{n_stems}stems"]["files"][0]
            file |= facts
            for name in [name for name, value in file.items() if value is None]:
                del file[name]

        self.change_catalog(change)

    def left(self) -> set[str]:
        """All files at home, but for locks and compiled networks, relative to it."""
        files = (path.relative_to(self.home) for path in self.home.rglob("*") if path.is_file())
        return {path.as_posix() for path in files if path.suffix != ".lock" and path.parts[0] != "cache"}


@contextmanager
def new_world(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    archives: Mapping[int, bytes] | None = None,
    filters: Sequence[int] = FILTERS,
    n_frames: int = 64,
) -> Iterator[World]:
    """Open the hub, and have the command know it.

    archives : by number of stems, in place of the small random ones
    filters : of the networks in them
    n_frames : of a block, for speed an eighth of the official ones'
    """
    archives = archives or {n: small_archive(n) for n in (2, 4, 5)}
    end = "-----END CERTIFICATE-----\n"
    (folder / "authority.pem").write_text(Path(certifi.where()).read_text("utf-8").partition(end)[0] + end, "utf-8")
    path, place = folder / "catalog.toml", OFFICIAL.removeprefix("https://github.com")
    files = {f"{place}/{n}stems.tar.gz": content for n, content in archives.items()}
    with Hub(files) as hub, pytest.MonkeyPatch.context() as patch:
        path.write_text(tomli_w.dumps(_content(hub.url, archives, filters, n_frames)), "utf-8")
        patch.setattr(catalog, "_PATH", path)
        patch.setattr(download, "_BACKOFF_S", 0.01)
        catalog.catalog.cache_clear()
        yield World(hub, folder, files, path, capsys)
    catalog.catalog.cache_clear()


def _content(url: str, archives: Mapping[int, bytes], filters: Sequence[int], n_frames: int) -> dict[str, Any]:
    content = tomllib.loads(_CATALOG.read_text("utf-8"))
    for model in content["models"].values():
        for file in model.get("files", []):
            file["addresses"] = [f"{url}/{address.split('/', 3)[3]}" for address in file["addresses"]]
    for n_stems, archive in archives.items():
        model = content["models"][f"spleeter:{n_stems}stems"]
        model["config"]["T"] = n_frames
        model["config"]["model"]["params"]["conv_n_filters"] = list(filters)
        (file,) = model["files"]
        file.pop("size_about", None)
        file |= {"size": len(archive), "sha256": sha256(archive)}
    return content
