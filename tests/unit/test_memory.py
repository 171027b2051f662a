"""Memory that is kept: counted by the pages that the system had to give, and by what the process holds."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is changed")

CODE = """
import json, resource, sys
import numpy as np
from unbraid.memory import keep_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

{call}
np.ones(24 << 20, np.uint8)
before, start = faults(), held()
for _ in range(20):
    np.ones(24 << 20, np.uint8)
small = faults() - before
del _
np.ones(200 << 20, np.uint8)
print(json.dumps([small * resource.getpagesize() / (24 << 20), (held() - start) / (200 << 20)]))
"""


def measured(call: str) -> tuple[float, float]:
    """How often arrays of 24 MB were taken anew, of 20 times, and how much of 200 MB is still held."""
    # Pages of one size, and arrays over 1 MB from the system, which glibc would otherwise learn to keep up to 32 MB.
    environment = dict(os.environ, NUMPY_MADVISE_HUGEPAGE="0", MALLOC_MMAP_THRESHOLD_="1048576")
    command = [sys.executable, "-c", CODE.format(call=call)]
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    anew, held = json.loads(done.stdout)
    return anew, held


def test_what_is_kept() -> None:
    anew, held = measured("pass")
    assert anew > 15 and held < 0.2  # or this system's allocator is not the one that is changed
    anew, held = measured("keep_memory()")
    assert anew < 2 and held < 0.2
    anew, held = measured("keep_memory(of_any_size=True)")
    assert anew < 2 and held > 0.8
