"""`unbraid doctor`, and what importing costs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import unbraid
from commands import environment, run_inside

HEAVY = ("numpy", "scipy", "openvino", "onnxruntime", "torch", "av", "rich", "httpx")


def test_doctor_tells_versions_engines_places_and_models(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNBRAID_MODEL", "spleeter:4stems")
    outcome = run_inside(["doctor"], capsys)
    assert (outcome.code, outcome.err) == (0, "")
    from importlib.metadata import version

    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert lines[0].startswith(f"unbraid {unbraid.__version__}, Python {sys.version.split()[0]}")
    for package in ("numpy", "openvino", "av"):
        assert f"{package} {version(package)}" in lines
    assert f"models {home / 'models'}" in lines
    assert "UNBRAID_MODEL = spleeter:4stems" in lines
    assert f"openvino {version('openvino')} on cpu" in lines[lines.index("Engines") :]
    assert "unbraid:4stems built in: vocals, drums, bass, other" in lines
    assert not any(line.startswith("spleeter:4stems") for line in lines)  # published, but not here


@pytest.mark.parametrize("statement", ["import unbraid", "import unbraid.cli"])
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment())
    assert not set(HEAVY) & {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "unbraid", "separate", "--help"],
        capture_output=True,
        check=True,
        env=environment(),
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.decode().splitlines()}
    assert "unbraid" in loaded
    assert not (set(HEAVY) - {"rich"}) & loaded


def test_public_names_are_these() -> None:
    assert unbraid.__all__ == sorted(unbraid.__all__)
    assert unbraid.__all__ == [
        "Audio",
        "FileReport",
        "Options",
        "Output",
        "Progress",
        "Separator",
        "UnbraidError",
        "available_models",
        "open_audio",
        "read_audio",
        "write_audio",
    ]
    assert all(getattr(unbraid, name).__module__.startswith("unbraid.") for name in unbraid.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Demucs'"):
        _ = unbraid.Demucs
