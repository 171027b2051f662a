from __future__ import annotations

import numpy as np
import pytest

from unbraid.weights.convert.crc32c import crc32c, masked


def bit_by_bit(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc
    assert crc32c(np.frombuffer(data, np.uint8)) == crc


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 100, 5684, 5685, 5686, 11370, 11371, 30001])
def test_is_the_definition_at_any_length(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bit_by_bit(data)


@pytest.mark.parametrize("piece", [1, 2, 3, 4, 5, 7, 1000, 6000])
def test_is_the_same_in_pieces_of_any_length(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    data = np.random.default_rng(piece).bytes(min(13_000, 300 * piece))
    monkeypatch.setattr("unbraid.weights.convert.crc32c._PIECE", piece)
    for size in (len(data), len(data) - 1, piece, piece - 1, piece + 1):
        assert crc32c(data[:size]) == bit_by_bit(data[:size])


def test_leaves_its_argument_alone() -> None:
    data = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8)
    before = data.copy()
    crc32c(data)
    np.testing.assert_array_equal(data, before)


def test_every_flipped_bit_of_a_long_message_is_seen() -> None:
    data = np.random.default_rng(1).integers(0, 256, 200_000, dtype=np.uint8)
    crc = crc32c(data)
    for at in np.random.default_rng(2).integers(0, len(data), 50):
        flipped = data.copy()
        flipped[at] ^= 1 << (at % 8)
        assert crc32c(flipped) != crc


def test_masked_form() -> None:
    # LevelDB's definition: rotate right by 15, add the constant.
    assert masked(0) == 0xA282EAD8
    assert masked(0x00008000) == 0xA282EAD9
    assert masked(1) == (0xA282EAD8 + (1 << 17)) & 0xFFFFFFFF
