from __future__ import annotations

import numpy as np
import pytest

from unbraid.evaluation.oracles import oracle_blocks, oracle_share, oracle_shares
from unbraid.evaluation.scores import usdr


def test_oracle_share_runs_from_the_mix_to_the_oracle() -> None:
    assert oracle_share(-5.0, -5.0, 13.0) == 0.0
    assert oracle_share(13.0, -5.0, 13.0) == 1.0
    assert oracle_share(4.0, -5.0, 13.0) == pytest.approx(0.5)


def test_a_song_is_scored_between_its_mix_and_its_oracle() -> None:
    rng = np.random.default_rng(3)
    time_s = np.arange(22050) / 44100
    tone = np.stack([np.sin(2 * np.pi * 300 * time_s)] * 2).astype(np.float32)
    noise = 0.2 * rng.standard_normal((2, len(time_s))).astype(np.float32)
    references = {"vocals": tone, "drums": noise, "bass": np.zeros_like(tone)}
    stems, mix = np.stack(list(references.values())), tone + noise
    blocks = oracle_blocks("oracle:irm2", lambda: [(stems, mix)], n_fft=4096, hop=1024)
    oracle = np.concatenate(list(blocks), axis=-1)
    scores = oracle_shares(references, {"vocals": mix, "drums": oracle[1], "bass": mix})
    assert list(scores) == ["vocals", "drums"]  # a silent stem has no score
    assert scores["vocals"].share == 0.0
    assert scores["drums"].share == 1.0
    assert scores["vocals"].mix_sdr == pytest.approx(usdr(tone, mix))
    assert scores["vocals"].oracle_sdr > scores["vocals"].mix_sdr + 5
    assert oracle_shares({"vocals": tone[:, :0]}, {"vocals": tone[:, :0]}) == {}
