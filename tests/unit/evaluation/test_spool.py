import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unbraid.datatypes import FloatArray
from unbraid.errors import UnbraidError
from unbraid.evaluation.spool import Spool

CHUNK = 1 << 16


def noise(n_signals: int, n_samples: int, *, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((n_signals, n_samples), dtype=np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_reads_are_those_of_an_array_whatever_the_blocks(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_signals = int(rng.integers(1, 7))
    blocks = [noise(n_signals, int(n), seed=i) for i, n in enumerate(rng.integers(0, 90_000, 7))]
    kept = [block.copy() for block in blocks]
    with Spool(tmp_path, n_signals) as spool:
        so_far = np.zeros((n_signals, 0), np.float32)
        for block in blocks:
            spool.append(block)
            so_far = np.concatenate([so_far, block], axis=1)
            assert spool.n_samples == so_far.shape[1]
            for _ in range(8):  # between the appends, too
                start, stop = np.sort(rng.integers(0, so_far.shape[1] + 1, 2))
                found = spool.read(int(start), int(stop))
                assert found.dtype == np.float32
                np.testing.assert_array_equal(found, so_far[:, start:stop])
        np.testing.assert_array_equal(spool.read(0, spool.n_samples), so_far)
    for block, before in zip(blocks, kept, strict=True):
        np.testing.assert_array_equal(block, before)


@pytest.mark.parametrize("n_samples", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_borders_of_chunks(tmp_path: Path, n_samples: int) -> None:
    samples = noise(2, n_samples)
    edges = [edge for edge in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, n_samples) if edge <= n_samples]
    with Spool(tmp_path, 2) as spool:
        spool.append(samples)
        for start in edges:
            for stop in edges:
                if start <= stop:
                    np.testing.assert_array_equal(spool.read(start, stop), samples[:, start:stop])


def test_what_is_appended_or_read_may_be_changed_afterwards(tmp_path: Path) -> None:
    samples = noise(1, CHUNK + 10)
    with Spool(tmp_path, 1) as spool:
        block = samples.copy()
        spool.append(block)
        block[:] = 0
        spool.read(0, CHUNK + 10)[:] = 1
        np.testing.assert_array_equal(spool.read(0, CHUNK + 10), samples)


def test_views_of_any_order_can_be_appended(tmp_path: Path) -> None:
    samples = noise(2 * CHUNK, 3)
    with Spool(tmp_path, 3) as spool:
        spool.append(samples.T)
        np.testing.assert_array_equal(spool.read(7, 2 * CHUNK), samples.T[:, 7:])


def test_threads_with_a_spool_each_do_not_disturb_each_other(tmp_path: Path) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        samples = noise(3, 200_000, seed=seed)
        rng = np.random.default_rng(seed)
        with Spool(tmp_path, 3) as spool:
            for start in range(0, 200_000, 7000):
                spool.append(samples[:, start : start + 7000])
            for _ in range(50):
                start, stop = np.sort(rng.integers(0, 200_001, 2))
                if not np.array_equal(spool.read(int(start), int(stop)), samples[:, start:stop]):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_takes_four_bytes_a_sample_and_leaves_nothing(tmp_path: Path) -> None:
    def open_files() -> dict[str, int]:
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        found = {link: os.readlink(link) for link in links if os.path.lexists(link)}
        return {link: os.stat(link).st_size for link, place in found.items() if place.startswith(str(tmp_path))}

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files are counted on Linux only")
    with Spool(tmp_path, 5) as spool:
        spool.append(noise(5, 3 * CHUNK + 17))
        spool.read(0, 10)
        assert list(tmp_path.iterdir()) == []  # even if the process is killed now
        assert list(open_files().values()) == [3 * CHUNK * 5 * 4]
    assert open_files() == {}


def test_it_is_closed_when_an_error_leaves_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Spool(tmp_path, 1) as spool:
        spool.append(noise(1, CHUNK))
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="closed"):
        spool.read(0, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**options: Any) -> Any:
        return open("/dev/full", "w+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(UnbraidError) as error, Spool(tmp_path, 2) as spool:
        spool.append(noise(2, 10))  # kept in memory
        spool.append(noise(2, CHUNK))
    assert str(error.value) == (
        f"cannot write a temporary file in '{tmp_path}': No space left on device; choose another output folder"
    )
    assert isinstance(error.value.__cause__, OSError) and error.value.__cause__.errno == errno.ENOSPC


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """`limit_files(n_bytes)`: the system takes a part of what goes beyond, then refuses, as a full disk does."""
    resource = pytest.importorskip("resource", reason="the system has no limit for files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("left", [0, 1, 1000, 4096, 8192, 8193, 100_000])
def test_a_disk_that_fills_up_within_a_chunk_is_said_too(
    tmp_path: Path, limit_files: Callable[[int], None], left: int
) -> None:
    """What was buffered fails a second time when the file is closed."""
    limit_files(4 * CHUNK * 4 - left)
    with pytest.raises(UnbraidError) as error, Spool(tmp_path, 1) as spool:
        for _ in range(6):
            spool.append(noise(1, CHUNK))
    assert str(error.value).startswith(f"cannot write a temporary file in '{tmp_path}': File too large; choose")


def test_an_error_of_others_is_not_hidden_by_a_full_disk(tmp_path: Path, limit_files: Callable[[int], None]) -> None:
    limit_files(4 * CHUNK * 4 - 1000)
    with pytest.raises(KeyboardInterrupt), Spool(tmp_path, 1) as spool:
        spool.append(noise(1, 4 * CHUNK))
        raise KeyboardInterrupt


def test_a_disk_that_is_full_at_the_end_is_said_when_it_is_read(
    tmp_path: Path, limit_files: Callable[[int], None]
) -> None:
    with pytest.raises(UnbraidError, match=": File too large; choose another"), Spool(tmp_path, 1) as spool:
        limit_files(4 * CHUNK * 4 - 1000)
        spool.append(noise(1, 4 * CHUNK))
        spool.read(3 * CHUNK, 4 * CHUNK)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(UnbraidError) as error:
        Spool(folder, 1)
    what = f"cannot make a temporary file in '{folder}': No such file or directory; choose another output folder"
    assert str(error.value) == what
