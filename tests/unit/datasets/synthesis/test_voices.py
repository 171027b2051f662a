"""Voices: what the vocoder keeps and changes, notes sung in tune and in time, and recorded phrases in a song."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from unbraid.datasets.synthesis.invented_speech import invent_speech
from unbraid.datasets.synthesis.score import Note, Part, Score
from unbraid.datasets.synthesis.singing import Manner, sing, sing_line
from unbraid.datasets.synthesis.syllables import as_material, find_syllables
from unbraid.datasets.synthesis.vocoder import analyze, frame_hop, synthesize
from unbraid.datasets.synthesis.voices import Voices, voice_synthesizer
from unbraid.errors import DatasetError, UsageError

RATE = 44100
FORMANTS_HZ = (700, 1220, 2600)
SHARED = Path(os.environ.get("UNBRAID_SHARED", Path(__file__).parents[5] / "shared"))
RECORDED = SHARED / "data" / "voice"
PLAIN = Manner(octave=None, glide_s=0.04, scoop_chance=0, vibrato_cents=20, drift_cents=4, late_s=0, breathing=0)


def vowel(f0_hz, seconds, *, formants_hz=FORMANTS_HZ, sample_rate=RATE):
    """Harmonics of a pitch weighted by two-pole resonances, and what little noise any recording has."""
    time_s = np.arange(round(seconds * sample_rate)) / sample_rate
    sound = np.zeros(len(time_s))
    for k in range(1, int(10000 / f0_hz)):
        hz = k * f0_hz
        gain = np.prod([1 / abs(1 - (hz / f) ** 2 + 1j * hz * (60 + 0.05 * f) / f**2) for f in formants_hz])
        sound += gain / k * np.cos(2 * np.pi * hz * time_s + k)
    sound *= 0.1 / np.sqrt(np.mean(sound**2))
    return (sound + 1e-5 * np.random.default_rng(0).standard_normal(len(sound))).astype(np.float32)


def words(f0_hz, n_words=4, sample_rate=RATE):
    """Vowels between hisses and pauses."""
    rng = np.random.default_rng(1)
    ramp = np.clip(np.minimum(np.arange(0.2 * sample_rate), np.arange(0.2 * sample_rate)[::-1]) / 900, 0, 1)
    parts = []
    for i in range(n_words):
        said = vowel(f0_hz, 0.2, formants_hz=np.array(FORMANTS_HZ) * (1 + 0.1 * i), sample_rate=sample_rate)
        hiss = np.diff(rng.standard_normal(round(0.08 * sample_rate) + 1)) * 0.01
        parts += [np.zeros(round(0.1 * sample_rate)), hiss, said * ramp[: len(said)]]
    return np.concatenate([*parts, np.zeros(round(0.1 * sample_rate))]).astype(np.float32)


def pitch_of(sound, sample_rate=RATE, low_hz=60, high_hz=1200):
    """Pitch by plain autocorrelation, its highest peak among lags no longer than 1.5 times the first good one."""
    windowed = (sound - sound.mean()) * np.hanning(len(sound))
    n_fft = 4 * len(sound)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(windowed, n_fft)) ** 2)
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(len(sound)), n_fft)) ** 2)
    lags = np.arange(int(sample_rate / high_hz), min(int(sample_rate / low_hz), len(sound) - 2))
    shape = correlation[: lags[-1] + 2] / window[: lags[-1] + 2]
    peaks = [k for k in lags if shape[k - 1] < shape[k] >= shape[k + 1]]
    best = max(shape[k] for k in peaks)
    k = next(k for k in peaks if shape[k] > 0.9 * best)
    bend = shape[k - 1] - 2 * shape[k] + shape[k + 1]
    return sample_rate / (k + 0.5 * (shape[k - 1] - shape[k + 1]) / bend)


def cents(found_hz, wanted_hz):
    return 1200 * np.log2(found_hz / wanted_hz)


def hz(pitch):
    return 440 * 2 ** ((pitch - 69) / 12)


def resonances(sound, f0_hz, wanted_hz, sample_rate=RATE):
    """Highest point near each wanted frequency of a smooth curve through the levels of the harmonics."""
    from scipy.interpolate import CubicSpline

    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    bin_hz = sample_rate / len(sound)
    harmonics = np.arange(1, int(5000 / f0_hz)) * f0_hz
    levels = [20 * np.log10(spectrum[int((h - 20) / bin_hz) : int((h + 20) / bin_hz) + 1].max()) for h in harmonics]
    # The glottis' slope would move the tops.
    curve = CubicSpline(harmonics, np.array(levels) + 20 * np.log10(harmonics / f0_hz))
    found = []
    for wanted in wanted_hz:
        near = np.linspace(0.82 * wanted, 1.18 * wanted, 400)
        found.append(near[curve(near).argmax()])
    return np.array(found)


def rms(sound):
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def resung(sound, f0_hz, *, pace=1.0, sample_rate=RATE, **options):
    utterance = analyze(sound, sample_rate)
    n_samples = round(len(sound) / pace)
    position = np.arange(1 - (-n_samples // frame_hop(sample_rate))) * pace
    voiced = utterance.f0[np.minimum(np.rint(position).astype(int), utterance.n_frames - 1)] > 0
    rng = np.random.default_rng(0)
    return synthesize(utterance, position, voiced * f0_hz, np.ones(len(position)), n_samples, rng, **options)


@pytest.mark.parametrize("f0_hz", [82.0, 123.4, 220.0, 391.0, 640.0])
def test_pitch_is_found(f0_hz):
    utterance = analyze(vowel(f0_hz, 0.4), RATE)
    inner = utterance.f0[10:-10]
    assert (inner > 0).all()
    assert np.abs(cents(inner, f0_hz)).max() < 8


def test_vowel_moves_to_another_pitch_and_keeps_its_formants_and_level():
    sound = vowel(110.0, 0.6)
    for wanted_hz in (87.0, 110.0, 165.0, 207.0):
        sung = resung(sound, wanted_hz)[6000:-6000]
        assert abs(cents(pitch_of(sung), wanted_hz)) < 10
        assert np.abs(resonances(sung, wanted_hz, FORMANTS_HZ) / FORMANTS_HZ - 1).max() < 0.08
        assert abs(20 * np.log10(rms(sung) / rms(sound[6000:-6000]))) < 2


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_formants_move_alone(scale):
    sung = resung(vowel(110.0, 0.6), 110.0, formant_scale=scale)[6000:-6000]
    wanted_hz = scale * np.array(FORMANTS_HZ)
    assert abs(cents(pitch_of(sung), 110.0)) < 10
    assert np.abs(resonances(sung, 110.0, wanted_hz) / wanted_hz - 1).max() < 0.08


@pytest.mark.parametrize("pace", [0.37, 1.0, 2.2])
def test_pace_is_exact(pace):
    sound = np.zeros(RATE, np.float32)
    sound[15000:30000] = vowel(150.0, 1.0)[:15000] * np.hanning(15000) ** 0.25
    sung = resung(sound, 150.0, pace=pace)
    assert len(sung) == round(len(sound) / pace)
    heard = np.flatnonzero(np.abs(sung) > 0.02)
    assert abs(heard[0] - 15000 / pace) < 0.02 * RATE
    assert abs(heard[-1] - 30000 / pace) < 0.02 * RATE


def test_silence_stays_silence_and_noise_stays_noise():
    assert np.abs(resung(np.zeros(20000, np.float32), 150.0)).max() < 1e-5
    noise = (0.1 * np.random.default_rng(3).standard_normal(RATE)).astype(np.float32)
    utterance = analyze(noise, RATE)
    assert np.mean(utterance.f0 > 0) < 0.02
    again = resung(noise, 150.0)
    assert abs(20 * np.log10(rms(again[3000:-3000]) / rms(noise))) < 1
    assert np.mean(analyze(again, RATE).f0 > 0) < 0.02
    # White it was, white it is: octaves from 250 Hz on have a power in proportion to their width.
    power = np.abs(np.fft.rfft(again)) ** 2
    for low in (250, 1000, 4000, 10000):
        assert abs(10 * np.log10(power[low : 2 * low].mean() / power[250:20000].mean())) < 1.5


def test_breath_takes_the_tone_away():
    sound = vowel(150.0, 0.6)
    whispered = resung(sound, 150.0, breath=1.0)
    assert np.mean(analyze(whispered, RATE).f0 > 0) < 0.2 < np.mean(analyze(resung(sound, 150.0), RATE).f0 > 0)
    assert abs(20 * np.log10(rms(whispered[3000:-3000]) / rms(sound))) < 3


def test_analysis_leaves_its_input_alone_and_works_at_other_rates():
    sound = vowel(150.0, 0.3, sample_rate=22050)
    before = sound.copy()
    utterance = analyze(sound, 22050)
    assert (sound == before).all()
    assert abs(cents(np.median(utterance.f0), 150.0)) < 5
    assert abs(cents(pitch_of(resung(sound, 200.0, sample_rate=22050)[1500:-1500], 22050), 200.0)) < 10
    assert analyze(np.zeros(0, np.float32), RATE).n_frames == 1


def test_synthesis_refuses_curves_of_another_length():
    utterance = analyze(vowel(150.0, 0.1), RATE)
    with pytest.raises(UsageError, match="1000 samples need 6 frames, got 5, 6, 6"):
        synthesize(utterance, np.zeros(5), np.zeros(6), np.ones(6), 1000, np.random.default_rng(0))


def test_syllables_are_found_where_they_are():
    utterance = analyze(words(130.0), RATE)
    syllables = find_syllables(utterance)
    assert len(syllables) == 4
    for i, syllable in enumerate(syllables):
        begins_s = 0.38 * i + 0.18
        assert syllable.start <= syllable.vowel_start < syllable.vowel_end <= syllable.end
        assert abs(syllable.vowel_start * 0.005 - begins_s) < 0.03
        assert abs(syllable.vowel_end * 0.005 - (begins_s + 0.2)) < 0.03
        assert (utterance.f0[syllable.vowel_start : syllable.vowel_end] > 0).all()
    # The hiss before the vowel belongs to it.
    assert syllables[1].vowel_start - syllables[1].start > 10


def melody():
    pitches, lengths_s = (57, 60, 64, 62, 59, 55), (0.5, 0.3, 0.9, 0.4, 0.5, 1.2)
    starts_s = 0.4 + np.cumsum((0, *lengths_s[:-1])) + np.array([0, 0, 0, 0.5, 0.5, 0.5])
    return tuple(Note(s, 0.95 * d, p, 0.9) for s, d, p in zip(starts_s.tolist(), lengths_s, pitches, strict=True))


def centre_of(sound, note, sample_rate=RATE):
    start, end = (round((note.start_s + share * note.duration_s) * sample_rate) for share in (0.35, 0.75))
    return sound[start:end]


@pytest.mark.parametrize("kind", ["spoken", "bass", "tenor", "alto", "soprano", "child"])
def test_notes_are_sung_in_tune_and_in_time(kind):
    rng = np.random.default_rng(5)
    material = as_material(analyze(words(140.0), RATE)) if kind == "spoken" else invent_speech(rng, RATE, kind)
    notes, n_samples = melody(), 6 * RATE
    sung = sing_line(material, PLAIN, list(notes), n_samples, np.random.default_rng(2))
    assert len(sung) == n_samples
    for note in notes:
        assert abs(cents(pitch_of(centre_of(sung, note)), hz(note.pitch))) < 30
    level = np.abs(sung)
    # Silent until the first consonant, in the rest, and after the last note.
    assert level[: round(0.2 * RATE)].max() < 1e-3
    assert level[round(2.13 * RATE) : round(2.4 * RATE)].max() < 0.05 * level.max()
    assert level[round((notes[-1].start_s + notes[-1].duration_s + 0.06) * RATE) :].max() < 1e-3
    # The rest ends with a vowel on the note.
    at = round(notes[3].start_s * RATE)
    assert rms(sung[at + 1000 : at + 5000]) > 0.02


def test_a_chord_has_all_its_notes_and_singing_is_reproducible():
    material = invent_speech(np.random.default_rng(1), RATE, "tenor")
    notes = tuple(Note(0.3, 1.5, pitch) for pitch in (55, 60, 65))
    manner = Manner(octave=None, vibrato_cents=0, drift_cents=2, scoop_chance=0, late_s=0, n_voices=2, width=1.0)
    sung = sing(material, manner, notes, 2 * RATE, np.random.default_rng(4))
    middle = sung.sum(axis=0)[RATE // 2 : RATE // 2 + RATE]
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2  # bins of 1 Hz
    for note in notes:
        wanted = round(hz(note.pitch))
        assert power[wanted - 5 : wanted + 6].max() > 100 * np.median(power[wanted - 20 : wanted + 20])
    assert abs(np.corrcoef(sung)[0, 1]) < 0.9  # two voices, left and right
    assert (sung == sing(material, manner, notes, 2 * RATE, np.random.default_rng(4))).all()
    assert (sung != sing(material, manner, notes, 2 * RATE, np.random.default_rng(5))).any()


def test_invented_voices_differ_and_repeat():
    notes = melody()
    players = [voice_synthesizer(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    first, again, other = (play(notes, 3 * RATE, RATE, np.random.default_rng(0)) for play in players)
    assert first.shape == (2, 3 * RATE)
    assert first.dtype == np.float32
    assert (first == again).all()
    assert np.abs(np.corrcoef(first[0], other[0])[0, 1]) < 0.5
    assert np.isfinite(first).all()
    assert rms(first) > 0.01
    assert (players[0]((), 100, RATE, np.random.default_rng(0)) == 0).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two speakers, two singers in different keys, and what is none of our business."""
    root = tmp_path_factory.mktemp("voice")
    entries = []

    def add(name, sound, kind, speaker, sample_rate=RATE, **more):
        soundfile.write(root / name, sound, sample_rate)
        made = {"file": name, "kind": kind, "speaker": speaker, "seconds": len(sound) / sample_rate, **more}
        entries.append({**made, "attribution": f"By {speaker}", "licence": "CC0-1.0"})

    add("he.wav", words(110.0), "speech", "he")
    add("she.flac", words(210.0, sample_rate=22050), "speech", "she", 22050)
    add("a.wav", vowel(hz(69), 1.0), "singing", "singer", group="in_a", bpm=120, key="am")
    add("e.wav", vowel(hz(64), 1.0), "singing", "singer", group="in_e", bpm=100, key="e")
    entries.append({"file": "x.mid", "kind": "midi"})
    (root / "manifest.json").write_text(json.dumps(entries))
    return root


def test_speech_sings_the_notes_in_its_own_octave(folder):
    for exclude in ("he", "she"):
        rng = np.random.default_rng(0)
        player = Voices(folder, RATE).player(rng, exclude=(exclude, "singer"))
        notes = melody()
        # As drawn; but alone and without ornaments, which have tests of their own.
        alone = type(player)(player.material, Manner(**{**vars(PLAIN), "octave": 0}))
        sung = alone(notes, 6 * RATE, RATE, np.random.default_rng(1)).mean(axis=0)
        found = np.array([pitch_of(centre_of(sung, note)) for note in notes])
        octaves = np.log2(found / [hz(note.pitch) for note in notes])
        assert np.abs(octaves - octaves[0].round()).max() < 30 / 1200
        spoken_hz = 210 if exclude == "he" else 110
        assert 0.9 * spoken_hz < np.median(found) < 2.6 * spoken_hz
    with pytest.raises(UsageError, match="sample_rate must be 44100, got 48000"):
        player(notes, 100, 48000, rng)


def score(root, minor, tempo_bpm, parts=()):
    return Score("house", tempo_bpm, 4, root, minor, 16.0, parts)


def test_phrases_come_into_the_key(folder):
    voices = Voices(folder, RATE)
    for seed in range(2):
        # C major has the notes of A minor: A stays A, whatever octave; D minor needs a D.
        for key, wanted in (((0, False), 9), ((2, True), 2)):
            line = voices.phrases(
                np.random.default_rng(seed), score(*key, 120), 16 * RATE, exclude=("in_e", "he", "she")
            )
            assert line.shape == (2, 16 * RATE)
            power = np.abs(np.fft.rfft(line[0])) ** 2
            peak_hz = np.argmax(power[16 * 60 : 16 * 1000]) / 16 + 60
            # The strongest harmonic near the formant is the fundamental, or one, two octaves or a twelfth above.
            distance = (69 + 12 * np.log2(peak_hz / 440) - wanted - np.array([0, 7.02, 3.86]) + 6) % 12 - 6
            assert np.abs(distance).min() < 0.6


def test_phrases_rest_where_the_voice_does(folder):
    voices = Voices(folder, RATE)
    part = Part("voice", (Note(8.5, 1.0, 60),))
    line = voices.phrases(np.random.default_rng(3), score(9, True, 120, (part,)), 20 * RATE, exclude=("he", "she"))
    # Sections are of four bars, eight seconds.
    assert (line[:, : round(7.99 * RATE)] == 0).all()
    assert rms(line[:, 8 * RATE : 16 * RATE]) > 0.02
    assert (line[:, 18 * RATE :] == 0).all()
    again = voices.phrases(np.random.default_rng(3), score(9, True, 120, (part,)), 20 * RATE, exclude=("he", "she"))
    assert (line == again).all()


def test_exclusion_and_attributions(folder):
    voices = Voices(folder, RATE)
    assert voices.attributions() == ("By he (CC0-1.0)", "By she (CC0-1.0)", "By singer (CC0-1.0)")
    with pytest.raises(DatasetError, match="no recording is left"):
        voices.player(np.random.default_rng(0), exclude=("he", "she", "in_a", "in_e"))
    with pytest.raises(DatasetError, match="no singing is left"):
        voices.phrases(np.random.default_rng(0), score(0, False, 100), RATE, exclude=("singer",))


def test_cache_gives_the_same_and_survives_damage(folder, tmp_path):
    def sung(cache):
        player = Voices(folder, RATE, cache=cache).player(np.random.default_rng(0), exclude=("singer", "she"))
        return player(melody(), 2 * RATE, RATE, np.random.default_rng(1))

    plain, first = sung(None), sung(tmp_path / "cache")
    stored = list((tmp_path / "cache").iterdir())
    assert [path.suffix for path in stored] == [".npz"]
    assert (plain == first).all()
    assert (plain == sung(tmp_path / "cache")).all()
    stored[0].write_bytes(stored[0].read_bytes()[:1000])
    assert (plain == sung(tmp_path / "cache")).all()


GOOD = {"file": "a.wav", "kind": "speech", "speaker": "he", "seconds": 1.0}


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ("{", "cannot read the voices' manifest .*manifest.json"),
        ({"file": "a.wav"}, "must be a list"),
        ([1], "entry 0 has no kind"),
        ([{"kind": "midi"}], "lists no singing and no speech"),
        ([{**GOOD, "speaker": None}], "entry 0: speaker must be a text, got None"),
        ([{**GOOD, "file": "b.wav"}], "entry 0: there is no file 'b.wav'"),
        ([{**GOOD, "file": "../a.wav"}], "entry 0: file must lie in the folder"),
        ([GOOD, {**GOOD, "seconds": -1}], "entry 1: seconds must be a number > 0, got -1"),
        ([{**GOOD, "bpm": "fast"}], "entry 0: bpm must be a number > 0, got 'fast'"),
        ([{**GOOD, "key": "h"}], "entry 0: key must be like 'c', 'fs' or 'ebm', got 'h'"),
    ],
)
def test_a_manifest_that_will_not_do_is_told_in_a_line(tmp_path, manifest, told):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    (tmp_path / "manifest.json").write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    with pytest.raises(DatasetError, match=told) as raised:
        Voices(tmp_path, RATE)
    assert "\n" not in str(raised.value)


def test_files_are_decoded_when_wanted(tmp_path):
    with pytest.raises(DatasetError, match="cannot read the voices' manifest"):
        Voices(tmp_path, RATE)
    (tmp_path / "a.wav").write_bytes(b"no sound")
    (tmp_path / "manifest.json").write_text(json.dumps([GOOD]))
    with pytest.raises(DatasetError, match=r"cannot decode the voice .*a\.wav"):
        Voices(tmp_path, RATE).player(np.random.default_rng(0))


@pytest.mark.skipif(not (RECORDED / "manifest.json").is_file(), reason="the recorded voices are not here")
@pytest.mark.parametrize("speaker", ["vctk_p236", "vctk_p258", "libritts_5105"])
def test_real_speech_sings_in_tune(speaker):
    entries = json.loads((RECORDED / "manifest.json").read_text())
    entry = next(entry for entry in entries if entry["speaker"] == speaker and entry["kind"] == "speech")
    sound, sample_rate = soundfile.read(RECORDED / entry["file"], dtype="float32", always_2d=True)
    spoken = soxr.resample(sound.mean(axis=1), sample_rate, RATE)[: 8 * RATE]
    material = as_material(analyze(spoken, RATE, high_hz=500))
    notes = melody()
    sung = sing_line(material, PLAIN, list(notes), 6 * RATE, np.random.default_rng(2))
    found = np.array(
        [cents(np.median(analyze(centre_of(sung, note), RATE).f0[5:-5]), hz(note.pitch)) for note in notes]
    )
    assert np.abs(found).max() < 40
