"""From the arguments of upstream's classes, as packages hold them, to fields of our configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final

from unbraid.errors import ModelError
from unbraid.models.plain import check_known, shown

__all__ = ["fields_from_kwargs"]

# Upstream's argument -> our field, where the two differ.
_NAMES: Final = MappingProxyType(
    {
        "sources": "stems",
        "audio_channels": "n_channels",
        "samplerate": "sample_rate",
        "segment_length": "segment_samples",
        "channels": "hidden_channels",
        "channels_time": "hidden_channels_time",
        "nfft": "n_fft",
        "cac": "complex_as_channels",
        "wiener_iters": "n_wiener_iterations",
        "end_iters": "n_wiener_iterations_training",
    }
)
_LONGEST_S: Final = 3600


def fields_from_kwargs(kwargs: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Turn upstream's arguments into our fields: other names, tuples for lists, samples for seconds.

    kwargs : by upstream's names; None means what it means upstream, and numbers may be fractions
    known : the arguments of the class in question

    Raises
    ------
    ModelError : an argument that is not known (the nearest known one is named), or a segment that is no duration
    """
    check_known("argument", kwargs, known)
    fields = {_NAMES.get(key, key): _value(key, value) for key, value in kwargs.items()}
    if "segment" in kwargs:
        del fields["segment"]
        fields["segment_samples"] = _segment_samples(kwargs["segment"], fields.get("sample_rate", 44100))
    if isinstance(depth := fields.get("dconv_depth"), int) and depth < 0:  # upstream's way to say: without dilation
        fields.update(dconv_depth=-depth, dconv_dilate=False)
    for name, nothing in (("rescale", 0.0), ("freq_emb", 0.0), ("multi_freqs", ()), ("hidden_channels_time", None)):
        if name in fields and not fields[name]:  # upstream takes 0, None and False alike
            fields[name] = nothing
    if "stems" not in fields:
        raise ModelError("the argument 'sources' is missing")
    return fields


def _value(name: str, value: object) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_item(name, item) for item in value)
    return _item(name, value)


def _item(name: str, value: object) -> Any:
    if isinstance(value, Fraction):
        try:
            return int(value) if value.denominator == 1 else float(value)
        except OverflowError as error:
            raise ModelError(f"the argument '{name}' is too large: {shown(value)}") from error
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelError(f"the argument '{name}' must be a number, a text or a list of these, got {shown(value)}")


def _segment_samples(segment: object, sample_rate: object) -> int:
    """Duration of a segment in samples, cut as upstream cuts it: 39/5 s at 44.1 kHz are exactly 343980."""
    number = segment if isinstance(segment, int | float | Fraction) else 0
    if not 0 < number <= _LONGEST_S:
        raise ModelError(f"segment must be from 0 to {_LONGEST_S} seconds, got {shown(segment)}")
    if not isinstance(sample_rate, int) or not 0 < sample_rate < 2**31:
        raise ModelError(f"samplerate must be a positive whole number, got {shown(sample_rate)}")
    return int(number * sample_rate)
