"""How a hostile file must be refused: in one line that names it, with little memory and soon."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from unbraid.errors import ModelError

MEGABYTE = 1 << 20


def refusal(action: Callable[[], object], path: Path, *, most_bytes: int = 16 * MEGABYTE, most_s: float = 10.0) -> str:
    """What `action` says when it refuses the file.

    most_bytes : what it may allocate; the default is far above what any refusal takes, far below what files claim
    most_s : of the processor's time
    """
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            action()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.isprintable(), "more than one line"
    assert len(message) < len(str(path)) + 1000
    assert path.name in message
    assert peak < most_bytes
    assert time.process_time() - started < most_s
    return message


def tree(folder: Path) -> dict[Path, bytes | None]:
    """Everything below a folder, with the content of files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


_CHILD = """
import resource, sys
from pathlib import Path
from unbraid.errors import ModelError
{definition}
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + {more_bytes}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in map(Path, sys.argv[1:]):
    try:
        act(path)
    except ModelError as error:
        print(error)
"""


def refuse_within_limits(definition: str, paths: Sequence[Path], *, more_bytes: int) -> None:
    """Have a new process refuse each file, that gets no more memory from the system than this.

    definition : of `act(path)`; what it imports is there before the limit
    """
    if sys.platform != "linux":
        pytest.skip("the limit of a process's memory is set on Linux only")
    code = _CHILD.format(definition=textwrap.dedent(definition), more_bytes=more_bytes)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == len(paths)
    for path, message in zip(paths, messages, strict=True):
        assert path.name in message
