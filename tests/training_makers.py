"""Tiny trainings: a recipe that runs in seconds, and songs for it."""

from pathlib import Path

import numpy as np
import soundfile

from dataset_makers import STEMS, make_song

__all__ = ["RATE", "STEMS", "TINY", "make_songs", "write_recipe"]

RATE = 8000
# Every augmentation that the papers use, at the sizes of a toy: tests of exactness must see all of them.
TINY = """
[network]
family = "demucs"
rescale = 0.1
[network.config]
version = 2
sample_rate = 8000
hidden_channels = 6
depth = 2
lstm_layers = 1
context = 1
gelu = false
norm_starts = 2
dconv_mode = 0
resample = false
normalize = true
[data]
segment_s = 0.5
batch_size = 4
normalise = true
[augment]
shift_s = 0.1
gain = [0.25, 1.25]
swap_channels = true
flip_sign = true
remix_group = 2
p_repitch = 0.2
[optimizer]
learning_rate = 3e-3
[schedule]
epoch_steps = 5
max_steps = 20
[average]
steps = [0.9]
epochs = [0.5]
"""


def write_recipe(path: Path, text: str = TINY) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def make_songs(folder: Path, *, n_tracks: int = 2, seconds: float = 6.0) -> Path:
    """Tracks of synthetic songs as 16-bit WAVs at the tiny recipe's rate, so that nothing is resampled."""
    for nth in range(n_tracks):
        place = folder / f"song {nth}"
        place.mkdir(parents=True)
        for stem, samples in make_song(seconds, seed=nth, sample_rate=RATE).items():
            whole = np.rint(np.clip(samples, -1, 1 - 2**-15) * 2**15).astype(np.int16)
            soundfile.write(place / f"{stem}.wav", whole.T, RATE, subtype="PCM_16")
    return folder
