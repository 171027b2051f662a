"""Finds the members of a zip archive that stores them as they are, which is how ``torch.save`` writes.

(PKWARE, APPNOTE.TXT 4.3. Torch adds a zip64 record that repeats the numbers of the plain one.)
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from unbraid.weights.convert.pickle_calls import Damage, shown

__all__ = ["Member", "stored_members"]

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")

_ENCRYPTED = 0x2041  # bits of a member's flags

# The directory of a model with a thousand tensors has 60 kB.
_LARGEST_DIRECTORY = 1 << 24


@dataclass(frozen=True, eq=False)
class Member:
    """One member of an archive: a read-only view of its bytes, and the CRC-32 that they must have."""

    name: str
    data: memoryview
    crc: int

    def checked(self) -> memoryview:
        """Return the bytes, or raise Damage where they do not match their checksum."""
        if zlib.crc32(self.data) != self.crc:
            raise Damage(f"its member {shown(self.name)} does not match its checksum")
        return self.data


def stored_members(data: memoryview) -> dict[str, Member]:
    """Return the members of an archive by name, in the order of its directory; nothing is copied.

    Raises Damage unless every member is stored, unencrypted, plainly named, inside the archive and apart from others.
    """
    n_entries, directory, end = _directory(data)
    members: dict[str, Member] = {}
    spans = []
    at = directory
    for _ in range(n_entries):
        if at + _CENTRAL.size > end:
            raise Damage("its directory is damaged")
        fields = _CENTRAL.unpack_from(data, at)
        magic, _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment = fields[:13]
        raw_name = bytes(data[at + _CENTRAL.size : at + _CENTRAL.size + n_name])
        at += _CENTRAL.size + n_name + n_extra + n_comment
        if magic != b"PK\x01\x02" or at > end:
            raise Damage("its directory is damaged")
        name = _name(raw_name)
        if name in members:
            raise Damage(f"it has two members {shown(name)}")
        if method or flags & _ENCRYPTED or packed != size:
            raise Damage(f"its member {shown(name)} is compressed or encrypted, which torch.save never does")
        start = fields[16]
        begin = _after_header(data, start, raw_name)
        spans.append((start, begin + size, name))
        members[name] = Member(name, data[begin : begin + size], crc)
    if at != end:
        raise Damage("its directory is damaged")
    _check_apart(spans, directory)
    return members


def _directory(data: memoryview) -> tuple[int, int, int]:
    """Return the number of members, and where their directory begins and ends."""
    last = len(data) - _END.size
    if last < 0 or bytes(data[last : last + 4]) != b"PK\x05\x06":
        raise Damage("it does not end as a zip archive does: it is cut short, or not what torch.save wrote")
    _, disk, first_disk, n_here, n_entries, size, start, n_comment = _END.unpack_from(data, last)
    end = last
    if last >= _END64.size + _LOCATOR.size and bytes(data[last - _LOCATOR.size :][:4]) == b"PK\x06\x07":
        end = last - _LOCATOR.size - _END64.size
        fields = _END64.unpack_from(data, end)
        if fields[0] != b"PK\x06\x06" or fields[7:] != (n_entries, size, start):
            raise Damage("the end of its directory is damaged, or it is larger than 4 GB")
    if disk or first_disk or n_comment or n_here != n_entries or size > _LARGEST_DIRECTORY or start + size != end:
        raise Damage("the end of its directory is damaged, or it is larger than 4 GB")
    return n_entries, start, end


def _name(raw: bytes) -> str:
    """Return a member's name; nothing is ever written there, but torch.save writes no others."""
    name = raw.decode("ascii", "replace")
    if not re.fullmatch(r"[^\x00-\x1f\\:/�]+(/[^\x00-\x1f\\:/�]+)*", name) or ".." in name.split("/"):
        raise Damage(f"its member {shown(name)} has a name that torch.save never gives")
    return name


def _after_header(data: memoryview, start: int, raw_name: bytes) -> int:
    """Return where a member's bytes begin, behind the header at `start`, which must be of this member."""
    if start + _LOCAL.size > len(data):
        raise Damage("a member begins beyond its end")
    magic, _, _, method, _, _, _, _, _, n_name, n_extra = _LOCAL.unpack_from(data, start)
    begin = start + _LOCAL.size + n_name
    if magic != b"PK\x03\x04" or method or bytes(data[start + _LOCAL.size : begin]) != raw_name:
        raise Damage(f"its member {shown(_name(raw_name))} is not where its directory says")
    return int(begin + n_extra)


def _check_apart(spans: list[tuple[int, int, str]], directory: int) -> None:
    """Every member, with its header, ends before the next one and the directory begin."""
    before, name_before = 0, ""
    for start, end, name in [*sorted(spans), (directory, directory, "directory")]:
        if start < before:
            raise Damage(f"its members {shown(name_before)} and {shown(name)} overlap")
        before, name_before = end, name
