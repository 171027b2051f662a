"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, at the speed of memory in NumPy.

A CRC is the remainder of the message, read as a polynomial over GF(2), modulo P of degree 32. Tables take it byte by
byte. Here the message is first taken modulo a multiple of P that has four terms only, T = x^5685 + x^1362 + x^426 + 1
(found by looking for it). T to the power 2^k has the same four terms, with exponents 2^k times as large; from k = 3 on
these are whole bytes, and as x^a ≡ x^b + x^c + 1, the remainder is just blocks of bytes XORed onto later ones. Coarse
powers go first. The last 5685 bytes are taken modulo P by tables, pairwise, in a tree.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["crc32c", "masked"]

_POLYNOMIAL = 0x82F63B78  # P without its leading term, lowest bit first, as bytes are read
_DEGREES = (5685, 1362, 426)  # of T, but for the 1

# TensorFlow stores rotated CRCs plus this number, as a CRC of data that holds its own CRC is of no use (crc32c.h).
_MASK_DELTA = 0xA282EAD8

# How much is taken at once, as it is copied to be folded: little enough for the processor's cache.
_PIECE = 1 << 22


def crc32c(data: bytes | NDArray[np.uint8]) -> int:
    """Return the CRC-32C of the bytes, as RFC 3720 defines it: 0xE3069283 for b"123456789"."""
    message = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    crc = 0
    for start in range(0, len(message), _PIECE):
        crc = _continued(crc, message[start : start + _PIECE])
    return crc


def _continued(crc: int, message: NDArray[np.uint8]) -> int:
    """Return the CRC of what `crc` is of, with the message after it."""
    # Zeros ahead of a message do not change the remainder; a four byte preset is XORed onto its start.
    preset = crc ^ 0xFFFFFFFF
    start = max(0, 4 - len(message))
    folded = np.concatenate([np.zeros(start, np.uint8), message])
    folded[start : start + 4] ^= np.frombuffer(preset.to_bytes(4, "little"), np.uint8)[: len(message)]
    remainder = _by_tables(_fold(folded))
    if len(message) < 4:
        # The rest of the preset hangs over the end, where it meets the remainder itself.
        remainder ^= preset >> (8 * len(message))
    return remainder ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a CRC in the form in which TensorFlow and LevelDB store it."""
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _fold(message: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return at most 5685 bytes with the same remainder; `message` is worked on in place."""
    power = 1
    while len(message) > 2 * power * _DEGREES[0]:
        power *= 2
    while power:
        a, b, c = (degree * power for degree in _DEGREES)
        while len(message) > a:
            n = min(len(message) - a, a - b)
            head = message[:n]
            for distance in (a - b, a - c, a):
                message[distance : distance + n] ^= head
            message = message[n:]
        power //= 2
    return message


def _by_tables(message: NDArray[np.uint8]) -> int:
    """Return the remainder of message · x^32 modulo P, by halving the number of words until one is left."""
    n_words = 1 << max(0, (len(message) - 1) // 4).bit_length()
    words = np.zeros(n_words, "<u4")
    words.view(np.uint8)[4 * n_words - len(message) :] = message
    level = 0
    while len(words) > 1:
        words = _multiplied(words[0::2], _tables(level)) ^ words[1::2]
        level += 1
    return int(_multiplied(words, _tables(0))[0])


def _multiplied(words: NDArray[np.uint32], tables: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Multiply 32-bit remainders by the power of x that the tables are for."""
    product: NDArray[np.uint32] = (
        tables[0][words & 0xFF]
        ^ tables[1][words >> 8 & 0xFF]
        ^ tables[2][words >> 16 & 0xFF]
        ^ tables[3][words >> 24 & 0xFF]
    )
    return product


@cache
def _tables(level: int) -> NDArray[np.uint32]:
    """Return what each byte of a word contributes to word · x^(32 · 2^level) modulo P: (4, 256) uint32."""
    if level:
        half = _tables(level - 1)
        return _multiplied(half, half)
    by_byte = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        by_byte = np.where(by_byte & 1, by_byte >> 1 ^ np.uint32(_POLYNOMIAL), by_byte >> 1)
    tables = [by_byte]
    for _ in range(3):
        tables.insert(0, tables[0] >> 8 ^ by_byte[tables[0] & 0xFF])
    return np.stack(tables)
