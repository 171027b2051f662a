from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from archives import checkpoint_members, gzipped, plain_tar, published_tar
from bundle_writer import write_bundle
from spleeter_checkpoint import OFFICIAL_FILTERS, spleeter_tensors
from unbraid.errors import ModelError
from unbraid.weights.convert.archive import unpacked
from unbraid.weights.convert.crc32c import crc32c, masked
from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint, spleeter_state
from unbraid.weights.tensors import read_tensors

STEMS = ("vocals", "drums", "bass", "other")


def dotted(members: dict[str, bytes]) -> bytes:
    """As `tar -C folder -c ./checkpoint …` packs."""
    return plain_tar({f"./{name}": content for name, content in members.items()})


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "checkpoint").mkdir()
    write_bundle(tmp_path / "checkpoint" / "model", spleeter_tensors(2))
    return checkpoint_members(tmp_path / "checkpoint")


@pytest.mark.parametrize("pack", [plain_tar, dotted, published_tar])
def test_a_checkpoint_is_read_from_its_archive(
    tmp_path: Path, members: dict[str, bytes], pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    path = tmp_path / "2stems.tar.gz"
    path.write_bytes(gzipped(pack(members)))
    cache = tmp_path / "cache"
    cache.mkdir()
    with unpacked(path, cache) as folder:
        assert folder.parent == cache
        assert {file.name for file in folder.iterdir()} == set(members) - {"model.meta"}
        read = read_checkpoint(latest_checkpoint(folder))
    assert not any(cache.iterdir())
    for name, tensor in spleeter_tensors(2).items():
        np.testing.assert_array_equal(read[name], tensor)


def test_members_may_come_in_any_order(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "2stems.tar.gz"
    path.write_bytes(gzipped(plain_tar(dict(reversed(members.items())))))
    with unpacked(path, tmp_path) as folder:
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
            name: content for name, content in members.items() if name != "model.meta"
        }


@pytest.mark.parametrize("raised", [ModelError, KeyboardInterrupt, OSError])
def test_the_folder_goes_whatever_happens(
    tmp_path: Path, members: dict[str, bytes], raised: type[BaseException]
) -> None:
    path = tmp_path / "2stems.tar.gz"
    path.write_bytes(gzipped(plain_tar(members)))
    cache = tmp_path / "cache"
    cache.mkdir()
    with pytest.raises(raised, match="of the caller"), unpacked(path, cache):
        raise raised("of the caller")
    assert not any(cache.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, members: dict[str, bytes]) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "2stems.tar.gz"
    path.write_bytes(gzipped(plain_tar(members)))
    cache = tmp_path / "cache"
    cache.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        message = r"cannot unpack '.*2stems\.tar\.gz' in '.*cache': File too large"
        with pytest.raises(ModelError, match=message), unpacked(path, cache):
            raise AssertionError("it was accepted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(cache.iterdir())


_CONVERT = """
import sys
from pathlib import Path
from unbraid.weights.convert.archive import unpacked
from unbraid.weights.convert.tensorflow import latest_checkpoint, read_checkpoint, spleeter_state
from unbraid.weights.tensors import write_tensors

archive = Path(sys.argv[1])
with unpacked(archive, archive.parent) as folder:
    state = spleeter_state(read_checkpoint(latest_checkpoint(folder)), ("vocals", "drums", "bass", "other"))
    write_tensors(archive.with_name("weights.safetensors"), state)
# Not getrusage's, which begins with the memory of the process that started this one.
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_a_checkpoint_of_official_size_is_converted_in_little_memory(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("the peak of a process's memory is read from Linux's /proc")
    tensors = spleeter_tensors(4, filters=OFFICIAL_FILTERS)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    write_bundle(checkpoint / "model", tensors, checksum=lambda raw: masked(crc32c(raw)))
    members = checkpoint_members(checkpoint)
    assert len(members["model.data-00000-of-00001"]) == 157_228_152  # of Spleeter's own 4stems
    # Stored, as packing takes long: the memory is the same.
    (tmp_path / "4stems.tar.gz").write_bytes(gzipped(published_tar(members), level=0))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_CONVERT), tmp_path / "4stems.tar.gz"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 300e6  # half of it is the mapped checkpoint itself
    expected, read = spleeter_state(tensors, STEMS), read_tensors(tmp_path / "weights.safetensors")
    assert expected.keys() == read.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(read[name], tensor)
