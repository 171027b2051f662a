"""What many tests share: a small model, and the command."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Outcome, Runner, quick_engine, run_inside
from fake_model import write_model_folder


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Unbraid's folder for these tests, so that compiled networks are shared, and nothing of the user's is used."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNBRAID_HOME", str(folder))
        patch.delenv("UNBRAID_MODEL", raising=False)
        patch.delenv("MODEL_PATH", raising=False)
        patch.setenv("UNBRAID_OFFLINE", "1")  # no test asks the internet
        yield folder


@pytest.fixture(scope="session")
def model_folder(home: Path) -> Path:
    """A small random network of four stems."""
    return write_model_folder(home / "tiny")


@pytest.fixture
def quick(model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """`quick(*arguments)` runs `unbraid separate` in this process, with a line of NumPy as the network."""
    monkeypatch.setattr("unbraid.separation.separator.load_engine", quick_engine)

    def run(*arguments: object) -> Outcome:
        return run_inside(["separate", "-m", model_folder, *arguments], capsys)

    return run
