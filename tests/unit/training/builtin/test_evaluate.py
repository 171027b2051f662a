from __future__ import annotations

from pathlib import Path

import numpy as np

from unbraid.evaluation.oracles import OracleShare
from unbraid.training.builtin.evaluate import SAMPLE_RATE, held_out_parts, markdown_table


def test_held_out_parts_are_whole_songs_and_windows_of_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("alpha", "omega"):
        folder = tmp_path / "songs" / name
        folder.mkdir(parents=True)
        np.save(folder / "vocals.npy", rng.standard_normal((2, 40 * SAMPLE_RATE)).astype(np.float16))
    parts = held_out_parts(tmp_path, ("omega",))
    assert [title.split(",")[0] for title in parts] == ["omega", "alpha"]
    whole, window = parts.values()
    assert set(whole) == {"vocals", "drums", "bass", "other"}
    assert whole["vocals"].shape == (2, 40 * SAMPLE_RATE)
    assert window["vocals"].shape == (2, 30 * SAMPLE_RATE)
    assert not whole["bass"].any()
    (short,) = [part for title, part in held_out_parts(tmp_path, ("omega",), 5.0).items() if title.startswith("omega")]
    np.testing.assert_array_equal(short["vocals"], whole["vocals"][:, 10 * SAMPLE_RATE : 15 * SAMPLE_RATE])


def test_the_table_shows_scores_and_their_mean() -> None:
    table = markdown_table({"vocals": OracleShare(-5.0, 4.0, 13.0), "drums": OracleShare(0.0, 7.5, 10.0)})
    assert "| vocals | -5.00 | 4.00 | 13.00 | 0.50 |" in table
    assert table.splitlines()[-1] == "| **mean** | | 5.75 | | **0.62** |"
