"""Songs of any length: the packets of one mp3 file, over and over. Run with the interpreter that holds unbraid."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["as_wav", "song"]


def song(source: Path, folder: Path, seconds: int) -> Path:
    """Give a song of this length, made of `source` unless it is there already.

    Decoders see one continuous mp3 stream, so a song of an hour is as real as its source and costs a second to make.
    """
    import av

    target = folder / f"song_{seconds}s.mp3"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with av.open(str(partial), "w", format="mp3") as output:
        stream, shift, done = None, 0, False
        while not done:
            end = shift
            with av.open(str(source)) as container:
                original = container.streams.audio[0]
                assert original.time_base is not None
                limit = round(seconds / original.time_base)
                stream = stream or output.add_stream_from_template(original)
                for packet in container.demux(original):
                    if packet.dts is None or packet.duration is None:
                        continue
                    packet.stream = stream
                    packet.pts = packet.dts = packet.dts + shift
                    end = packet.pts + packet.duration
                    output.mux(packet)
                    if end >= limit:
                        done = True
                        break
            shift = end
    partial.rename(target)
    return target


def as_wav(source: Path) -> Path:
    """Decode a song to 16 bits beside it: decoders do not agree on where an mp3 begins."""
    import soundfile

    from unbraid import read_audio

    target, partial = source.with_suffix(".wav"), source.with_suffix(".partial")
    if not target.exists():
        audio = read_audio(source)
        soundfile.write(partial, audio.samples.T, audio.sample_rate, subtype="PCM_16", format="WAV")
        partial.rename(target)
    return target


if __name__ == "__main__":
    lengths = [word for word in sys.argv[3:] if word != "--wav"]
    for length in lengths:
        made = song(Path(sys.argv[1]), Path(sys.argv[2]), int(length))
        if "--wav" in sys.argv:
            as_wav(made)
