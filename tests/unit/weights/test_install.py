"""Networks that do not fit each other are not joined."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unbraid.errors import ModelError
from unbraid.models.demucs.config import DemucsConfig
from unbraid.weights.convert.network import ConvertedNetwork
from unbraid.weights.install import Part, write_parts

CONFIG = DemucsConfig(("drums", "bass"))


@pytest.mark.parametrize(
    ("changes", "weights", "message"),
    [
        ({"stems": ("drums", "voice")}, None, "the same stems; 'one' has drums, bass, 'other' has drums, voice"),
        ({"stems": ("bass", "drums")}, None, "the same stems; 'one' has drums, bass, 'other' has bass, drums"),
        ({"sample_rate": 16000}, None, "the same sample rate; 'one' has 44100 Hz, 'other' has 16000 Hz"),
        ({}, (1.0, 0.0, 1.0), "a weight for each of its 2 stems; 'other' has 3"),
    ],
)
def test_a_bag_whose_networks_disagree(
    changes: dict[str, Any], weights: tuple[float, ...] | None, message: str, tmp_path: Path
) -> None:
    parts = [
        Part(ConvertedNetwork("demucs", CONFIG, {}), "one", (1.0, 1.0) if weights else None),
        Part(ConvertedNetwork("demucs", replace(CONFIG, **changes), {}), "other", weights),
    ]
    with pytest.raises(ModelError, match=message):
        write_parts(tmp_path / "bag", "bag", parts, [])
    assert list(tmp_path.iterdir()) == []
