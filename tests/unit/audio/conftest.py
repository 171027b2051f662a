"""Measures that several tests of audio files share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unbraid.audio.read import open_audio
from unbraid.datatypes import AudioInfo, FloatArray

Read = Callable[[Path], tuple[AudioInfo, FloatArray, list[str]]]


@pytest.fixture
def read() -> Read:
    """`read(path)`: what the file says, its samples, and the notices."""

    def whole(path: Path) -> tuple[AudioInfo, FloatArray, list[str]]:
        with open_audio(path) as reader:
            samples = np.concatenate(list(reader.blocks()), axis=1)
            return reader.info, samples, reader.notices

    return whole


@pytest.fixture
def delay() -> Callable[[FloatArray, FloatArray], int]:
    """`delay(decoded, original)`: by how many samples the first comes later, from the cross-correlation's peak."""

    def peak(decoded: FloatArray, original: FloatArray) -> int:
        n = decoded.shape[1] + original.shape[1]
        spectrum = np.conj(np.fft.rfft(original[0], n)) * np.fft.rfft(decoded[0], n)
        lag = int(np.argmax(np.fft.irfft(spectrum, n)))
        return lag if lag < n // 2 else lag - n

    return peak
