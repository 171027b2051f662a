from __future__ import annotations

import numpy as np
import pytest

from unbraid.evaluation.scores import energy_sdr, irm2_oracle, score_stems


def test_a_song_is_scored_between_its_mix_and_its_oracle() -> None:
    rng = np.random.default_rng(3)
    time_s = np.arange(22050) / 44100
    tone = np.stack([np.sin(2 * np.pi * 300 * time_s)] * 2).astype(np.float32)
    noise = 0.2 * rng.standard_normal((2, len(time_s))).astype(np.float32)
    references = {"vocals": tone, "drums": noise, "bass": np.zeros_like(tone)}
    mix = tone + noise
    oracle = irm2_oracle(np.stack(list(references.values())))
    scores = score_stems(references, {"vocals": mix, "drums": oracle[1], "bass": mix})
    assert list(scores) == ["vocals", "drums"]  # a silent stem has no score
    assert scores["vocals"].share == 0.0
    assert scores["drums"].share == 1.0
    assert scores["vocals"].mix_sdr == pytest.approx(energy_sdr(tone, mix))
    assert scores["vocals"].oracle_sdr > scores["vocals"].mix_sdr + 5
