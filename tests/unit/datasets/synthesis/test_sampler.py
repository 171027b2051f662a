from __future__ import annotations

import json
import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from unbraid.datasets.synthesis.sampler import Bank
from unbraid.datasets.synthesis.score import ROLES, Note
from unbraid.errors import DatasetError, UsageError

Array = np.ndarray[Any, Any]
RECORDED_RATE = 32000
RATE = 22050
SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[5] / "shared"))
REAL_BANK = SHARED / "data" / "bank"

# Overtone (of the tiny bank's guitar) by which layer and take can be told.
OVERTONES = {(1, 1): 2, (1, 2): 3, (2, 1): 4, (2, 2): 5}
GUITAR_CENTS = {48: 18.0, 55: -23.0, 62: 7.5}
# Every drum of the tiny kits sounds at a frequency of its own.
FULL_KIT = {36: 100, 38: 300, 42: 3000, 46: 2000, 44: 2500, 49: 4000, 45: 150, 50: 220, 56: 1200}
SMALL_KIT = {36: 130, 38: 370, 42: 3700}


def hertz(pitch: float) -> float:
    return float(440 * 2 ** ((pitch - 69) / 12))


def sine(frequency: float, seconds: float, decay_s: float = np.inf) -> Array:
    time_s = np.arange(round(seconds * RECORDED_RATE)) / RECORDED_RATE
    return np.sin(2 * np.pi * frequency * time_s) * np.exp(-time_s / decay_s)


class BankMaker:
    def __init__(self, folder: Path) -> None:
        self.folder, self.entries = folder, list[dict[str, Any]]()

    def add(self, instrument: str, family: str, stem: str, samples: Array, **entry: Any) -> None:
        file = f"{instrument}/{len(self.entries)}.wav"
        (self.folder / instrument).mkdir(exist_ok=True)
        soundfile.write(self.folder / file, samples.T, RECORDED_RATE, subtype="FLOAT")
        common = {"articulation": "sustain", "midi_note": None, "velocity": [1, 127], "round_robin": 1, "stem": stem}
        about = {"licence": "CC0-1.0", "attribution": f"Someone's {family}", "family": family}
        channels = samples.shape[0] if samples.ndim == 2 else 1
        self.entries.append({"file": file, "instrument": instrument, "channels": channels, **common, **about, **entry})

    def write(self) -> Path:
        (self.folder / "bank.json").write_text(json.dumps(self.entries), encoding="utf-8")
        return self.folder


def make_bank(folder: Path) -> Path:
    maker = BankMaker(folder)
    for note, cents in GUITAR_CENTS.items():
        for (layer, take), overtone in OVERTONES.items():
            f0 = hertz(note + cents / 100)
            samples = 0.4 * sine(f0, 2.0) + 0.2 * sine(overtone * f0, 2.0)
            about = {"midi_note": note, "velocity": [[1, 60], [61, 127]][layer - 1], "round_robin": take}
            maker.add("box_guitar", "guitar", "guitar", samples, cents_off_measured=cents, pitch_check="yin", **about)
    for name in ("upright", "toy"):
        maker.add(name, "piano", "piano", sine(hertz(60), 3.0), midi_note=60)
    # Two hundred periods lie between the points.
    maker.add("reed", "organ", "other", 0.5 * sine(441, 1.0), midi_note=69, sustain_loop_s=[0.4, 0.4 + 200 / 441])
    # A quarter of a period too many: what would click without fading over.
    loop_s = [0.4, 0.4 + 200.25 / 441]
    maker.add("bow", "strings", "other", 0.5 * sine(441, 1.0), midi_note=69, sustain_loop_s=loop_s)
    maker.add("drone_box", "synth", "other", 0.5 * sine(441, 1.0), midi_note=69)
    maker.add("wide", "brass", "other", np.stack([sine(441, 1.0), 0.25 * sine(882, 1.0)]), midi_note=69)
    for kit, drums in {"full_kit": FULL_KIT, "small_kit": SMALL_KIT}.items():
        for note, frequency in drums.items():
            about = {"midi_note": note, "articulation": f"drum {note}"}
            maker.add(kit, "drums", "drums", 0.5 * sine(frequency, 1.5, 0.5), **about)
    for index in range(4):
        about = {"articulation": f"stroke {index}", "attribution": "A drummer", "licence": "CC-BY-4.0"}
        maker.add("hand_drum", "drums", "drums", sine(500 + 250 * index, 0.3, 0.1), **about)
    clicks = np.zeros(2 * RECORDED_RATE)
    clicks[:: RECORDED_RATE // 2] = 1
    maker.add("loops", "loop", "drums", clicks, bpm=120.0, beats=4, loop_kind="drums")
    maker.add("loops", "loop", "other", 0.5 * sine(441, 2.0), bpm=120.0, beats=4, loop_kind="drone")
    maker.add("loops", "loop", "other", sine(900, 2.0), bpm=60.0, beats=2, loop_kind="mixed_unknown")
    maker.add("noises", "fx", "other", sine(700, 1.0), attribution="Not used")
    return maker.write()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bank(tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="module")
def bank(folder: Path) -> Bank:
    return Bank(folder, RATE)


def play(bank: Bank, role: str, notes: list[Note], seconds: float, *, seed: int = 0, **options: Any) -> Array:
    rate = options.pop("rate", RATE)
    player = bank.player(role, np.random.default_rng(seed), **options)
    assert player is not None
    return player(tuple(notes), round(seconds * rate), rate, np.random.default_rng(seed + 1))


def spectrum(samples: Array, rate: int = RATE) -> tuple[Array, Array]:
    n_fft = 2**18
    amplitude = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), n_fft))
    return np.fft.rfftfreq(n_fft, 1 / rate), amplitude


def peak_hz(samples: Array, rate: int = RATE) -> float:
    frequency, amplitude = spectrum(samples, rate)
    return float(frequency[np.argmax(amplitude)])


def cents_off(samples: Array, expected_hz: float, rate: int = RATE) -> float:
    """How far the harmonics of a tone are from where they should be: the best of a comb that is moved."""
    frequency, amplitude = spectrum(samples, rate)
    cents = np.arange(-80, 80.5, 0.5)
    harmonics = [expected_hz * k for k in range(1, 7) if expected_hz * k < 0.45 * rate]
    fit = sum(np.interp(harmonic * 2 ** (cents / 1200), frequency, amplitude) for harmonic in harmonics)
    return float(cents[np.argmax(fit)])


@pytest.mark.parametrize("rate", [8000, RATE, 48000])
@pytest.mark.parametrize("pitch", [45, 48, 51, 53, 58, 65])
def test_pitch_is_right_at_any_rate(bank: Bank, pitch: int, rate: int) -> None:
    for seed in range(3):
        track = play(bank, "guitar", [Note(0, 1.2, pitch, 0.9)], 1.2, seed=seed, rate=rate)
        peak = peak_hz(track[0] + track[1], rate)
        assert abs(1200 * np.log2(peak / hertz(pitch))) < 3


def overtone_of(samples: Array, pitch: int) -> int:
    frequency, amplitude = spectrum(samples)
    found = np.interp([hertz(pitch) * k for k in (2, 3, 4, 5)], frequency, amplitude)
    return 2 + int(np.argmax(found))


@pytest.mark.parametrize(("velocity", "layer"), [(0.02, 1), (0.2, 1), (0.8, 2), (1.0, 2)])
def test_layer_is_of_the_velocity_and_takes_alternate(bank: Bank, velocity: float, layer: int) -> None:
    notes = [Note(0.5 * index, 0.4, 55, velocity) for index in range(8)]
    track = play(bank, "guitar", notes, 4.0).sum(axis=0)
    heard = [overtone_of(track[int((0.5 * i + 0.01) * RATE) : int((0.5 * i + 0.38) * RATE)], 55) for i in range(8)]
    assert set(heard) == {OVERTONES[layer, 1], OVERTONES[layer, 2]}
    assert all(one != other for one, other in pairwise(heard))


def test_takes_of_another_seed_differ_and_of_the_same_do_not(bank: Bank) -> None:
    notes = [Note(0.3 * index, 0.2, 50 + index, 0.7) for index in range(6)]
    first, again, other = (play(bank, "guitar", notes, 2.0, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_harder_is_louder_within_a_layer(bank: Bank) -> None:
    def level(velocity: float) -> float:
        return float(np.std(play(bank, "guitar", [Note(0, 1, 55, velocity)], 1.0)))

    levels = [level(velocity) for velocity in (0.6, 0.75, 0.9, 1.0)]
    assert levels == sorted(levels)
    assert 1.15 < levels[-1] / levels[0] < 2


@pytest.mark.parametrize("role", ["guitar", "piano", "organ", "drums"])
def test_note_begins_on_time(bank: Bank, role: str) -> None:
    starts_s = [0.3, 0.9137, 1.6021]
    notes = [Note(start_s, 0.1, 42 if role == "drums" else 60, 0.9) for start_s in starts_s]
    for seed in range(4):
        track = np.abs(play(bank, role, notes, 2.2, seed=seed)).max(axis=0)
        for start_s in starts_s:
            region = track[int((start_s - 0.02) * RATE) : int((start_s + 0.1) * RATE)]
            background = region[: int(0.01 * RATE)].max()
            onset_s = np.argmax(region > background + 0.1 * region.max()) / RATE - 0.02
            assert abs(onset_s) < 0.005


def test_piano_is_damped_and_silent_afterwards(bank: Bank) -> None:
    track = play(bank, "piano", [Note(0.0, 0.5, 60)], 2.0)
    held = np.std(track[:, int(0.3 * RATE) : int(0.49 * RATE)])
    assert np.std(track[:, int(0.65 * RATE) : int(0.7 * RATE)]) < 0.1 * held
    assert np.abs(track[:, int(0.76 * RATE) :]).max() < 1e-6
    assert 0.8 < np.std(track[:, int(0.5 * RATE) : int(0.505 * RATE)]) / held < 1.2


@pytest.mark.parametrize(("role", "name"), [("organ", "reed"), ("strings", "bow"), ("pad", "drone_box")])
def test_held_note_goes_on_without_a_click(bank: Bank, role: str, name: str) -> None:
    others = set(bank.instruments) - {name}
    for pitch in (69, 66):
        track = play(bank, role, [Note(0.0, 5.0, pitch)], 5.0, exclude=others)
        held = track[0, int(0.5 * RATE) : int(4.9 * RATE)]
        blocks = held[: len(held) // 1000 * 1000].reshape(-1, 1000).std(axis=1)
        assert blocks.max() / blocks.min() < 1.1
        # A click would be spread over all frequencies.
        steps = np.abs(np.diff(held, 2)).max()
        omega = 2 * np.pi * hertz(pitch) / RATE * (441 / 440)  # in radians a sample
        assert steps < 1.15 * np.abs(held).max() * 4 * np.sin(omega / 2) ** 2


def test_loop_that_is_searched_for_keeps_the_phase(bank: Bank) -> None:
    others = set(bank.instruments) - {"drone_box"}
    track = play(bank, "pad", [Note(0.0, 6.0, 69)], 6.0, exclude=others)
    frequency, amplitude = spectrum(track[0, RATE : 5 * RATE])
    power = np.square(amplitude)
    # Jumps of the phase, a few a second, would spread the tone over several hertz.
    assert power[np.abs(frequency - hertz(69)) < 2].sum() > 0.99 * power.sum()


def test_note_that_is_shorter_than_the_loop_is_not_looped(bank: Bank) -> None:
    short, long = (play(bank, "organ", [Note(0.0, seconds, 69)], 3.0) for seconds in (0.5, 2.5))
    assert np.allclose(short[:, : RATE // 2 - 40], long[:, : RATE // 2 - 40], atol=1e-4)
    assert np.abs(short[:, int(0.6 * RATE) :]).max() == 0


def test_two_microphones_stay_two_and_one_is_panned(bank: Bank) -> None:
    wide = play(bank, "brass", [Note(0.0, 0.8, 69)], 0.8)
    assert abs(peak_hz(wide[0]) / 441 - 1) < 0.01
    assert abs(peak_hz(wide[1]) / 882 - 1) < 0.01
    shares = []
    for seed in range(8):
        left, right = play(bank, "guitar", [Note(0.0, 0.8, 60)], 0.8, seed=seed)
        assert np.corrcoef(left, right)[0, 1] > 0.999
        shares.append(np.std(left) / np.std(right))
    assert min(shares) < 0.8 < 1.25 < max(shares)


def drum_heard(samples: Array, drums: dict[int, int]) -> int:
    """The drum of a kit whose frequency is nearest, as kits are tuned by up to three semitones."""
    distances = {note: abs(np.log2(peak_hz(samples) / frequency)) for note, frequency in drums.items()}
    return min(distances, key=distances.__getitem__)


def test_drum_that_a_kit_lacks_is_replaced_by_one_of_its_kind(bank: Bank) -> None:
    only = set(bank.instruments) - {"full_kit"}
    for wanted, expected in {
        37: 38,
        55: 49,
        57: 49,
        41: 45,
        48: 50,
        62: 50,
        64: 45,
        70: 42,
        35: 36,
        39: 38,
        67: 56,
    }.items():
        track = play(bank, "drums", [Note(0.0, 0.1, wanted)], 0.6, exclude=only).sum(axis=0)
        assert drum_heard(track, FULL_KIT) == expected, wanted


def test_every_drum_sounds_even_with_a_kit_of_three(bank: Bank) -> None:
    only = set(bank.instruments) - {"small_kit"}
    for role in ("drums", "percussion"):
        for note in range(27, 88):
            assert np.std(play(bank, role, [Note(0.0, 0.1, note, 0.8)], 0.2, exclude=only)) > 0.01
    crash = play(bank, "drums", [Note(0.0, 0.1, 49)], 0.4, exclude=only).sum(axis=0)
    assert drum_heard(crash, SMALL_KIT) == 42


def test_kits_are_mixed_at_times(bank: Bank) -> None:
    heard = set()
    for seed in range(24):
        track = play(bank, "drums", [Note(0.0, 0.1, 36), Note(2.0, 0.1, 38)], 2.5, seed=seed).sum(axis=0)
        kick = drum_heard(track[: RATE // 2], {0: FULL_KIT[36], 1: FULL_KIT[38]})
        assert kick == 0
        ratio = np.log2(peak_hz(track[2 * RATE :]) / peak_hz(track[: RATE // 2]))
        heard.add(round(float(ratio), 1))
    # Snare over kick is 1.58 and 1.51 octaves in the two kits, 1.21 and 1.89 in mixtures; tuning moves it by 0.08.
    assert min(heard) < 1.35
    assert max(heard) > 1.75


def test_closed_hat_chokes_the_open_one_and_else_it_rings_out(bank: Bank) -> None:
    only = set(bank.instruments) - {"full_kit"}
    alone, choked, kicked = (
        play(bank, "drums", [Note(0.0, 0.05, 46), *more], 1.0, exclude=only)
        for more in ([], [Note(0.4, 0.05, 42)], [Note(0.4, 0.05, 36)])
    )
    frequency, amplitude = spectrum(alone.sum(axis=0))
    open_hz = frequency[np.argmax(amplitude)]

    def open_level(track: Array) -> float:
        tail = track[0, int(0.5 * RATE) : int(0.9 * RATE)]
        frequency, amplitude = spectrum(tail)
        return float(amplitude[np.abs(frequency - open_hz) < 20].max())

    assert open_level(choked) < 0.01 * open_level(alone)
    assert 0.8 < open_level(kicked) / open_level(alone) < 1.25
    assert np.array_equal(choked[:, : int(0.39 * RATE)] != 0, alone[:, : int(0.39 * RATE)] != 0)


def test_percussion_may_be_of_no_kit(bank: Bank) -> None:
    only = set(bank.instruments) - {"hand_drum"}
    notes = [Note(0.5 * index, 0.1, 60 + index) for index in range(8)]
    track = play(bank, "percussion", notes, 4.0, exclude=only).sum(axis=0)
    hits = track.reshape(8, -1)
    assert (hits.std(axis=1) > 0.01).all()
    assert len({round(peak_hz(hit), -1) for hit in hits}) > 1
    assert bank.player("drums", np.random.default_rng(0), exclude=only) is None


def test_excluded_instruments_are_not_drawn(bank: Bank) -> None:
    players: list[Any] = [bank.player("piano", np.random.default_rng(seed)) for seed in range(20)]
    both = {player.voice.instrument for player in players}
    assert both == {"upright", "toy"}
    for seed in range(20):
        player = bank.player("piano", np.random.default_rng(seed), exclude=["toy"])
        assert player is not None
        assert player.voice.instrument == "upright"  # type: ignore[attr-defined]
    assert bank.player("piano", np.random.default_rng(0), exclude=["toy", "upright"]) is None


def test_role_without_instruments_gives_none_and_no_role_is_an_error(bank: Bank) -> None:
    for role in ("bass", "voice", "backing"):
        assert bank.player(role, np.random.default_rng(0)) is None
    with pytest.raises(UsageError, match="role must be one of"):
        bank.player("kazoo", np.random.default_rng(0))


def test_part_far_out_of_range_is_moved_by_octaves(bank: Bank) -> None:
    track = play(bank, "guitar", [Note(0.0, 1.0, 98)], 1.0).sum(axis=0)
    pitch = 69 + 12 * np.log2(peak_hz(track) / 440)
    assert pitch < 75
    assert abs((pitch - 98) / 12 - round((pitch - 98) / 12)) < 0.01


def test_notes_at_the_end_are_cut_and_no_notes_are_silence(bank: Bank) -> None:
    for role in ("guitar", "drums"):
        late = play(bank, role, [Note(0.9, 1.0, 42), Note(1.5, 1.0, 42)], 1.0)
        assert late.shape == (2, RATE)
        assert late.dtype == np.float32
        assert np.abs(late[:, : int(0.89 * RATE)]).max() == 0 < np.std(late)
        assert np.abs(play(bank, role, [], 0.5)).max() == 0


def test_loop_of_drums_keeps_the_tempo(bank: Bank) -> None:
    track = bank.loop(np.random.default_rng(0), "drums", 132.0, 10.0)
    assert track is not None
    assert track.shape == (2, 10 * RATE)
    for beat in range(21):
        at = round(beat * 60 / 132 * RATE)
        region = np.abs(track[0, max(0, at - 2000) : at + 2000])
        assert abs(np.argmax(region) - min(at, 2000)) < 0.003 * RATE
        assert region.max() > 0.3
    assert bank.loop(np.random.default_rng(0), "drums", 90.0, 1.0) is None
    assert bank.loop(np.random.default_rng(0), "texture", 120.0, 1.0) is None
    with pytest.raises(UsageError, match="a loop is one of"):
        bank.loop(np.random.default_rng(0), "dance", 120.0, 1.0)


def test_loop_of_a_tone_does_not_click(bank: Bank) -> None:
    track = bank.loop(np.random.default_rng(0), "melodic", 125.0, 9.0)
    assert track is not None
    held = track[0, 100:-100]
    steps = np.abs(np.diff(held, 2)).max()
    assert steps < 1.3 * np.abs(held).max() * 4 * np.sin(np.pi * 441 * 125 / 120 / RATE) ** 2
    assert np.abs(held[-RATE:]).max() > 0.3


def test_attributions_are_of_what_may_be_heard(bank: Bank) -> None:
    lines = bank.attributions()
    assert "A drummer (CC-BY-4.0)" in lines
    assert "Someone's guitar (CC0-1.0)" in lines
    assert len(lines) == len(set(lines))
    assert not any("Not used" in line for line in lines)


def test_copy_in_another_process_plays_the_same(bank: Bank) -> None:
    notes = [Note(0.0, 0.5, 50), Note(0.3, 0.5, 57)]
    expected = play(bank, "guitar", notes, 1.0)
    packed = pickle.dumps(bank)
    assert len(packed) < 100_000
    assert np.array_equal(play(pickle.loads(packed), "guitar", notes, 1.0), expected)


def test_memory_is_bounded(tmp_path: Path) -> None:
    folder = make_bank(tmp_path)
    small, large = Bank(folder, RATE, memory_bytes=100_000), Bank(folder, RATE)
    files = [entry["file"] for entry in json.loads((folder / "bank.json").read_text())[:2]]
    for bank in (small, large):
        for file in files:
            bank.recording(file)
    for file in files:
        (folder / file).unlink()
    assert large.recording(files[0]).shape == (1, 2 * RATE)
    assert small.recording(files[1]).shape == (1, 2 * RATE)
    with pytest.raises(DatasetError, match="cannot decode"):
        small.recording(files[0])


def test_recording_is_resampled_and_not_changed_by_playing(bank: Bank, folder: Path) -> None:
    file = next(
        entry["file"] for entry in json.loads((folder / "bank.json").read_text()) if entry["instrument"] == "reed"
    )
    before = bank.recording(file).copy()
    assert np.abs(before[0, 500:-500] - 0.5 * np.sin(2 * np.pi * 441 * np.arange(RATE)[500:-500] / RATE)).max() < 1e-3
    play(bank, "organ", [Note(0.0, 3.0, 69)], 3.0)
    assert np.array_equal(bank.recording(file), before)


def test_what_will_not_do_is_told_in_one_line(tmp_path: Path) -> None:
    def error_of(content: str | None) -> str:
        if content is not None:
            (tmp_path / "bank.json").write_text(content)
        with pytest.raises(DatasetError) as caught:
            Bank(tmp_path, RATE)
        return str(caught.value)

    (tmp_path / "noise.wav").write_bytes(b"not a recording")
    messages = [
        error_of(None),
        error_of("[{"),
        error_of("[]"),
        error_of('[{"file": "gone.wav"}]'),
        error_of('[{"file": "noise.wav"}]'),
    ]
    assert "No such file" in messages[0]
    assert "not JSON" in messages[1]
    assert "gone.wav" in messages[3]
    assert "an entry is damaged" in messages[4]
    maker = BankMaker(tmp_path)
    maker.add("upright", "piano", "piano", sine(300, 0.1), midi_note=60)
    maker.entries[0]["file"] = "noise.wav"
    maker.write()
    with pytest.raises(DatasetError, match=r"cannot decode .*noise\.wav") as caught:
        play(Bank(tmp_path, RATE), "piano", [Note(0, 1, 60)], 1.0)
    assert not any("\n" in message for message in [*messages, str(caught.value)])


@pytest.fixture(scope="module")
def real_bank() -> Bank:
    if not (REAL_BANK / "bank.json").is_file():
        pytest.skip("the recorded instruments are not on this machine")
    return Bank(REAL_BANK, RATE)


@pytest.mark.parametrize("role", [role for role in ROLES if ROLES[role] not in ("drums", "vocals")])
def test_real_instruments_are_in_tune(real_bank: Bank, role: str) -> None:
    rng = np.random.default_rng(7)
    for seed in range(4):
        # Drops and wobbles have no pitch that a comb could find.
        player: Any = real_bank.player(role, np.random.default_rng(seed), exclude=["sonicpi_bass"])
        if player.voice.short:
            continue
        notes = player.voice.notes
        # The highest strings of a piano are tuned sharp on purpose.
        pitch = int(rng.integers(notes[0] - 2, min(notes[-1] + 3, 98)))
        track = player((Note(0.1, 0.8, pitch, float(rng.random())),), RATE, RATE, rng)
        louder = track[np.argmax(track.std(axis=1)), int(0.15 * RATE) : int(0.85 * RATE)]
        assert abs(cents_off(louder, hertz(pitch))) < 20, (player.voice.instrument, pitch)


@pytest.mark.parametrize("role", ["drums", "percussion"])
def test_real_kits_have_all_drums(real_bank: Bank, role: str) -> None:
    for seed in range(3):
        player = real_bank.player(role, np.random.default_rng(seed))
        assert player is not None
        notes = tuple(Note(0.2 * index, 0.1, 35 + index, 0.9) for index in range(47))
        track = player(notes, round(9.4 * RATE), RATE, np.random.default_rng(seed))
        hits = track.reshape(2, 47, -1)
        assert (np.abs(hits).max(axis=(0, 2)) > 0.01).all()
