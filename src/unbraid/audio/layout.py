"""Speakers: which channels form a stereo pair, and which stand alone."""

from __future__ import annotations

__all__ = ["channel_groups", "default_channels"]

_PAIRS = (
    ("FL", "FR"),
    ("BL", "BR"),
    ("SL", "SR"),
    ("FLC", "FRC"),
    ("WL", "WR"),
    ("DL", "DR"),
    ("SDL", "SDR"),
    ("TFL", "TFR"),
    ("TBL", "TBR"),
    ("TSL", "TSR"),
    ("BFL", "BFR"),
    ("SSL", "SSR"),
    ("TTL", "TTR"),
)

_DEFAULTS = {
    1: ("FC",),
    2: ("FL", "FR"),
    3: ("FL", "FR", "LFE"),
    4: ("FL", "FR", "FC", "BC"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}


def default_channels(n_channels: int) -> tuple[str, ...]:
    """Speakers of a file that has `n_channels` channels and does not name them.

    Up to 8 channels as FFmpeg assumes (1: mono, 2: stereo, 3: 2.1, 4: 4.0, 5: 5.0, 6: 5.1, 7: 6.1, 8: 7.1);
    more are "CH0", "CH1", …: each its own.
    """
    return _DEFAULTS.get(n_channels) or tuple(f"CH{i}" for i in range(n_channels))


def channel_groups(channels: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """How a stereo network sees a file: left–right pairs together, every other channel alone.

    Front, back, side, wide, top … left and right are pairs, in that order of left and right whatever their order in
    the file; centres, LFE and a left without its right stand alone (the network hears them on both of its inputs).
    Every channel is in exactly one group; groups are in the order of their first channel.

    Parameters
    ----------
    channels : tuple of str
        Speaker names as in `AudioInfo.channels`

    Returns
    -------
    groups : tuple of tuples of int
        One or two channel indices each

    Examples
    --------
    >>> channel_groups(("FL", "FR", "FC", "LFE", "BL", "BR"))
    ((0, 1), (2,), (3,), (4, 5))
    """
    partner = dict(_PAIRS) | {right: left for left, right in _PAIRS}
    lefts = {left for left, _ in _PAIRS}
    groups: list[tuple[int, ...]] = []
    done: set[int] = set()
    for i, name in enumerate(channels):
        if i in done:
            continue
        other = partner.get(name)
        if other is None or channels.count(name) != 1 or channels.count(other) != 1:
            groups.append((i,))
            continue
        j = channels.index(other)
        groups.append((i, j) if name in lefts else (j, i))
        done.add(j)
    return tuple(groups)
