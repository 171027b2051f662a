"""What a written file shall be: codec, bit depth or bitrate, and what each codec can carry."""

from __future__ import annotations

import re
from dataclasses import dataclass

from unbraid.datatypes import AudioInfo
from unbraid.errors import UsageError

__all__ = ["CODECS", "Encoding", "parse_bitrate"]

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Vorbis I, §4.3.9; side speakers take the place of the rear ones where there are no others.
_VORBIS_LAYOUTS = (
    ("FC",),
    ("FL", "FR"),
    ("FL", "FR", "FC"),
    ("FL", "FR", "BL", "BR"),
    ("FL", "FR", "FC", "BL", "BR"),
    ("FL", "FR", "FC", "SL", "SR"),
    ("FL", "FR", "FC", "LFE", "BL", "BR"),
    ("FL", "FR", "FC", "LFE", "SL", "SR"),
    ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
)
# The same in Opus, less those of five and seven, whose order FFmpeg's encoder (8.1 and before) mixes up.
_OPUS_LAYOUTS = tuple(layout for layout in _VORBIS_LAYOUTS if len(layout) not in (5, 7))
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


@dataclass(frozen=True)
class Codec:
    """What one codec can carry.

    bit_depths, bitrates : what may be asked for; bitrates as (lowest, highest) in bits/s, None: not settable
    sample_rates : the rates allowed in Hz, ascending; None: every one up to `max_sample_rate`
    max_channels : channels at most
    layouts : the sets of speakers that have a place; None: any
    """

    bit_depths: tuple[int | str, ...] = ()
    bitrates: tuple[int, int] | None = None
    default_bitrate: int | None = None
    sample_rates: tuple[int, ...] | None = None
    max_sample_rate: int = 2**31 - 1
    max_channels: int = 8
    layouts: tuple[tuple[str, ...], ...] | None = None


CODECS: dict[str, Codec] = {
    "wav": Codec(bit_depths=(16, 24, "float"), max_channels=65535),
    "flac": Codec(bit_depths=(16, 24), max_sample_rate=655350),
    "mp3": Codec(bitrates=(8_000, 320_000), default_bitrate=256_000, sample_rates=_MP3_RATES, max_channels=2),
    "ogg": Codec(bitrates=(45_000, 500_000), default_bitrate=192_000, max_sample_rate=192_000, layouts=_VORBIS_LAYOUTS),
    "opus": Codec(
        bitrates=(6_000, 512_000),
        default_bitrate=160_000,
        sample_rates=(8000, 12000, 16000, 24000, 48000),
        layouts=_OPUS_LAYOUTS,
    ),
    "m4a": Codec(bitrates=(8_000, 576_000), default_bitrate=256_000, sample_rates=_AAC_RATES),
    "wma": Codec(bitrates=(24_000, 320_000), default_bitrate=192_000, max_sample_rate=48_000, max_channels=2),
}


@dataclass(frozen=True)
class Encoding:
    """Codec and quality of a file to write; checked when built.

    codec : "wav", "flac", "mp3", "ogg" (Vorbis), "opus", "m4a" (AAC) or "wma" (version 2); also the file's extension
    bit_depth : 16, 24 or "float" (32-bit) for wav; 16 or 24 for flac; None elsewhere. None means 16 for wav and flac
    bitrate : bits per second, of all channels together, for the lossy codecs; None: the codec's default

    Raises
    ------
    UsageError : an unknown codec, or a combination that does not exist; names those that do
    """

    codec: str = "wav"
    bit_depth: int | str | None = None
    bitrate: int | None = None

    def __post_init__(self) -> None:
        limits = CODECS.get(self.codec)
        if limits is None:
            raise UsageError(f"unknown codec {self.codec!r}: choose one of {', '.join(CODECS)}")
        if limits.bit_depths:
            if self.bit_depth is None:
                object.__setattr__(self, "bit_depth", 16)
            if self.bit_depth not in limits.bit_depths:
                allowed = ", ".join(map(str, limits.bit_depths))
                raise UsageError(f"{self.codec} has no bit depth {self.bit_depth}: choose one of {allowed}")
            if self.bitrate is not None:
                raise UsageError(
                    f"{self.codec} is lossless and takes no bitrate: leave it out, or choose another codec"
                )
            return
        if self.bit_depth is not None:
            raise UsageError(f"{self.codec} is lossy and takes no bit depth: use wav or flac, or give a bitrate")
        assert limits.bitrates is not None
        low, high = limits.bitrates
        if self.bitrate is None:
            object.__setattr__(self, "bitrate", limits.default_bitrate)
        elif not low <= self.bitrate <= high:
            raise UsageError(
                f"{self.codec} has no bitrate {self.bitrate}: choose {low // 1000}k to {high // 1000}k bits per second"
            )

    @classmethod
    def choose(
        cls,
        codec: str = "wav",
        *,
        bit_depth: int | str | None = None,
        bitrate: int | None = None,
        like: AudioInfo | None = None,
    ) -> Encoding:
        """What was asked for and, where nothing was, what keeps all that the input has.

        Of 8-bit input 16 bits are written; of 32-bit integers and floats: float in wav, 24 bits in flac (samples are
        float32 on their way, which holds 24 bits exactly). Lossy input gives 16 bits.

        codec, bit_depth, bitrate : as above
        like : what is known of the input; None: 16 bits
        """
        depths = CODECS[codec].bit_depths if codec in CODECS else ()
        if depths and bit_depth is None and like is not None:
            wanted = {8: 16, 16: 16, 24: 24}.get(like.bit_depth) if isinstance(like.bit_depth, int) else None
            bit_depth = wanted or ("float" if "float" in depths else 24)
        return cls(codec, bit_depth, bitrate)

    def nearest_sample_rate(self, sample_rate: int) -> int:
        """The sample rate at which this codec can carry audio of `sample_rate` Hz.

        The same where it can; else the lowest one above it, so that nothing is cut off; else the highest there is.
        """
        limits = CODECS[self.codec]
        if limits.sample_rates is None:
            return min(sample_rate, limits.max_sample_rate)
        return next((rate for rate in limits.sample_rates if rate >= sample_rate), limits.sample_rates[-1])

    @property
    def extension(self) -> str:
        """The file name's extension, without the dot."""
        return self.codec


def parse_bitrate(text: str) -> int:
    """Bits per second from "128k", "128kbps", "0.5M" or "128000".

    Raises
    ------
    UsageError : the text is none of these
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmM]?)(?:bps|b/s|bit/s)?\s*", text)
    if match is None:
        raise UsageError(f"bitrate must be like 128k or 128000, got {text!r}")
    return round(float(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()])
