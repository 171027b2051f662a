"""Which model is taken where none is named."""

from pathlib import Path

import pytest

from unbraid.weights.store import default_model


@pytest.mark.parametrize(
    ("installed", "taken"),
    [
        ((), "unbraid:4stems"),
        (("mine", "umxse"), "unbraid:4stems"),  # no score is published
        (("spleeter:4stems", "umx"), "spleeter:4stems"),
        (("spleeter:4stems", "htdemucs", "mdx"), "htdemucs"),
        (("htdemucs_ft", "htdemucs"), "htdemucs_ft"),
    ],
)
def test_the_best_that_needs_no_download(
    installed: tuple[str, ...], taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNBRAID_MODEL", raising=False)
    monkeypatch.setattr("unbraid.weights.store.installed_models", lambda: dict.fromkeys(installed, Path()))
    assert default_model() == taken
    monkeypatch.setenv("UNBRAID_MODEL", "mine")
    assert default_model() == "mine"
