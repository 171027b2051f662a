from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from unbraid.datasets.synthesis.compose import STYLES, compose
from unbraid.datasets.synthesis.harmony import (
    PROGRESSIONS,
    Bar,
    Chord,
    Hit,
    harmonised,
    key_scale,
    progression,
    voicing,
)
from unbraid.datasets.synthesis.rhythms import GROOVES, PERCUSSION, Grid
from unbraid.datasets.synthesis.score import ROLES, Part, Score
from unbraid.errors import UsageError

SECONDS = 60.0
CHORDAL = ("piano", "guitar", "organ", "pad", "strings")
STEMS = sorted(set(ROLES.values()))
RANGES = {
    "drums": (35, 59), "percussion": (35, 82), "bass": (22, 55), "piano": (28, 90), "guitar": (40, 88),
    "organ": (36, 88), "pad": (36, 88), "strings": (48, 90), "brass": (45, 82), "lead": (48, 90),
    "arpeggio": (48, 108), "voice": (48, 76), "backing": (43, 81),
}  # fmt: skip
# The most notes a second, chords counted by their notes.
DENSEST = {"drums": 32, "percussion": 45, "bass": 15, "voice": 5, "backing": 14, "lead": 14, "brass": 30, "strings": 15}


@pytest.fixture(scope="module", params=STYLES)
def songs(request: pytest.FixtureRequest) -> list[Score]:
    return [compose(np.random.default_rng(seed), SECONDS, style=request.param) for seed in range(6)]


@pytest.fixture(scope="module")
def many() -> list[Score]:
    return [compose(np.random.default_rng(seed), SECONDS) for seed in range(60)]


def of_role(scores: list[Score], *roles: str) -> Iterator[tuple[Score, Part]]:
    return ((score, part) for score in scores for part in score.parts if part.role in roles)


def bar_s(score: Score) -> float:
    return 60 / score.tempo_bpm * score.beats_per_bar


def sixteenth_s(score: Score) -> float:
    return bar_s(score) / (12 if score.beats_per_bar in (3, 6) else 16)


def sounding(score: Score, roles: tuple[str, ...], second: float) -> set[int]:
    return {
        note.pitch % 12
        for _, part in of_role([score], *roles)
        for note in part.notes
        if note.start_s - 0.05 <= second < note.start_s + note.duration_s - 0.02
    }


def heard(score: Score, stem: str, frame_s: float = 0.1) -> np.ndarray:
    frames = np.zeros(round(SECONDS / frame_s) + 1, bool)
    for part in score.parts:
        if part.stem == stem:
            for note in part.notes:
                begin = int(note.start_s / frame_s)
                frames[begin : max(begin + 1, round((note.start_s + note.duration_s) / frame_s))] = True
    return frames[:-1]


def longest_run(mask: np.ndarray) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def test_the_same_seed_writes_the_same_song() -> None:
    first, again, other = (compose(np.random.default_rng(seed), 40.0) for seed in (5, 5, 6))
    assert first == again
    assert first.parts != other.parts


@pytest.mark.parametrize("seconds", [0.5, 12.0, 300.0])
@pytest.mark.parametrize("style", STYLES)
def test_notes_lie_in_the_song_and_in_order(style: str, seconds: float) -> None:
    score = compose(np.random.default_rng(11), seconds, style=style)
    assert score.style == style
    assert score.seconds == seconds
    assert score.root in range(12)
    assert seconds < 5 or score.parts
    for part in score.parts:
        assert part.role in ROLES
        assert part.notes
        starts = [note.start_s for note in part.notes]
        assert starts == sorted(starts)
        for note in part.notes:
            assert 0 <= note.start_s < seconds
            assert note.duration_s > 0.01
            assert note.start_s + note.duration_s <= seconds + 1e-9
            assert 0 < note.velocity <= 1
            assert isinstance(note.pitch, int)
    if seconds > 200:
        assert max(note.start_s for part in score.parts for note in part.notes) > seconds - 2 * bar_s(score)


def test_pitches_and_densities_are_those_of_the_instruments(songs: list[Score]) -> None:
    for _, part in of_role(songs, *ROLES):
        low, high = RANGES[part.role]
        pitches = [note.pitch for note in part.notes]
        assert low <= min(pitches), part.role
        assert max(pitches) <= high, part.role
        busiest = max(Counter(int(note.start_s / 4) for note in part.notes).values()) / 4
        assert busiest <= DENSEST.get(part.role, 80), part.role


def test_one_note_at_a_time_where_there_is_one_throat_or_one_finger(songs: list[Score]) -> None:
    for _, part in of_role(songs, "bass", "voice", "lead"):
        for note, following in zip(part.notes, part.notes[1:], strict=False):
            assert note.start_s + note.duration_s <= following.start_s + 0.005
    for _, part in of_role(songs, *ROLES):  # no string or key sounds twice at once
        ends: dict[int, float] = {}
        for note in part.notes:
            assert ends.get(note.pitch, 0.0) <= note.start_s + 0.005
            ends[note.pitch] = note.start_s + note.duration_s


def test_bass_plays_tones_of_the_chord_on_downbeats(songs: list[Score]) -> None:
    agree = []
    for score, part in of_role(songs, "bass"):
        for note in part.notes:
            bar, off = divmod(note.start_s + 0.03, bar_s(score))
            if off < 0.06:
                # On the beat, or soon after it where chords are struck off the beat.
                for late in (0.0, 2.0, 3.0, 4.0):
                    tones = sounding(score, CHORDAL, bar * bar_s(score) + late * sixteenth_s(score) + 0.08)
                    # Three tones are a chord; two, if they're a fifth: others are riffs.
                    if len(tones) >= 3 or any((tone + 7) % 12 in tones for tone in tones):
                        agree.append(note.pitch % 12 in tones)
                        break
    assert len(agree) >= (1 if songs[0].style == "techno" else 10)  # techno rarely has both
    assert np.mean(agree) > 0.8


def test_melodies_are_in_the_key_or_the_chord(songs: list[Score]) -> None:
    fits = []
    for score, part in of_role(songs, "voice", "lead"):
        scale = {
            (score.root + step) % 12 for step in ((0, 2, 3, 5, 7, 8, 10) if score.minor else (0, 2, 4, 5, 7, 9, 11))
        }
        fits += [note.pitch % 12 in scale for note in part.notes]
    # What's left are tones of borrowed and secondary dominant chords, and the sixth and seventh of modes.
    assert np.mean(fits) > 0.78


def test_a_second_voice_is_consonant_with_the_first() -> None:
    chord = Chord(0, (0, 4, 7))
    bars = [Bar(0, 16, 4, "chorus", 0, 0, (chord,))]
    sung = [Hit(2 * i, 2, pitch, 0.9) for i, pitch in enumerate((60, 62, 64, 65, 67, 69, 71))]
    for pentatonic in (False, True):
        scale = key_scale(0, False, pentatonic=pentatonic)
        third = harmonised(sung, bars, scale, (3, 4, 5, 7, -3, -4))
        steps = [other.pitch - hit.pitch for other, hit in zip(third, sung, strict=True)]
        # In C major, worked out on paper.
        assert steps == ([4, 5, 3, 4, 5, 3, 3] if pentatonic else [4, 3, 3, 4, 4, 3, 3])
        assert all(other.pitch % 12 in scale for other in third)
    assert [hit.pitch for hit in sung] == [60, 62, 64, 65, 67, 69, 71]


@pytest.mark.parametrize("style", ["techno", "trance", "synthpop", "trap", "drum and bass"])
def test_machines_keep_the_grid(style: str) -> None:
    off = []
    for seed in range(6):
        score = compose(np.random.default_rng(seed), SECONDS, style=style)
        for _, part in of_role([score], *(set(ROLES) - {"voice", "backing", "guitar"})):
            steps = np.array([note.start_s for note in part.notes]) / sixteenth_s(score)
            # Sixteenths, thirty-seconds of rolls, and triplets.
            distance = np.abs(np.stack([steps * n - np.round(steps * n) for n in (2, 3)])).min(axis=0)
            off.append(distance.max())
    assert max(off) < 1e-6


@pytest.mark.parametrize("style", ["rock", "pop", "metal", "disco", "bossa", "folk"])
def test_players_keep_time(style: str) -> None:
    late = []
    for seed in range(6):
        score = compose(np.random.default_rng(seed), SECONDS, style=style)
        for _, part in of_role([score], "drums", "bass", "piano"):
            steps = np.array([note.start_s for note in part.notes]) / sixteenth_s(score)
            # Fills have triplets.
            distance = np.abs(np.stack([steps - np.round(steps), (steps * 3 - np.round(steps * 3)) / 3])).min(axis=0)
            late.append(distance * sixteenth_s(score))
    errors = np.concatenate(late)
    assert 0.001 < np.sqrt(np.mean(errors**2)) < 0.01
    assert errors.max() < 0.03


def test_the_tempo_is_the_one_that_is_named(songs: list[Score]) -> None:
    """Onsets fall on a few places of a beat, whatever swings; of a beat of another length, anywhere."""
    for score in songs:
        roles = set(ROLES) - {"voice", "backing", "guitar"}  # they are late, or strum
        onsets = np.array([note.start_s for _, part in of_role([score], *roles) for note in part.notes])

        def share_of_fullest(beat_s: float, onsets: np.ndarray = onsets) -> float:
            histogram, _ = np.histogram(onsets % beat_s, bins=48, range=(0, beat_s))
            return float(np.sort(histogram)[-16:].sum() / len(onsets))

        if len(onsets) > 200:
            beat = 4 * sixteenth_s(score)
            assert share_of_fullest(beat) > 0.9
            assert max(share_of_fullest(beat * factor) for factor in (0.93, 0.97, 1.03, 1.07)) < 0.75


def test_jazz_swings() -> None:
    for seed in range(6):
        score = compose(np.random.default_rng(seed), SECONDS, style="jazz")
        beat = 4 * sixteenth_s(score)
        places = np.concatenate(
            [[note.start_s % beat for note in part.notes if note.pitch == 51] for _, part in of_role([score], "drums")]
            or [[]]
        )
        off = places[(places > 0.3 * beat) & (places < 0.85 * beat)]
        if len(off) > 10:
            assert 0.57 < np.median(off) / beat < 0.69
            assert np.std(off) < 0.025


def test_bars_have_the_beats_that_are_named() -> None:
    """Drums repeat after a bar rather than after a beat less or more."""
    seen = Counter()
    agree = Counter()
    for style, seed in [(style, seed) for style in ("waltz", "ballad", "rock", "folk", "blues") for seed in range(8)]:
        score = compose(np.random.default_rng(seed), 120.0, style=style)
        n_steps = round(bar_s(score) / sixteenth_s(score))
        tap = 6 if score.beats_per_bar == 6 else 4
        hits = np.zeros((2, round(120 / sixteenth_s(score)) + 2))
        for _, part in of_role([score], "drums"):
            for note in part.notes:
                if note.pitch in (35, 36, 37, 38, 40):
                    hits[int(note.pitch > 36), round(note.start_s / sixteenth_s(score))] += note.velocity
        if hits.sum() < 40:
            continue

        def alike(lag: int, hits: np.ndarray = hits) -> float:
            return float((hits[:, :-lag] * hits[:, lag:]).sum() / (hits**2).sum())

        seen[score.beats_per_bar] += 1
        agree[score.beats_per_bar] += alike(n_steps) > max(alike(n_steps - tap), alike(n_steps + tap))
    assert set(seen) == {3, 4, 6}
    for beats, count in seen.items():
        assert agree[beats] >= 0.85 * count


def test_every_part_plays_and_every_stem_rests(many: list[Score]) -> None:
    assert {part.role for score in many for part in score.parts} == set(ROLES)
    combinations: Counter[frozenset[str]] = Counter()
    rests: Counter[str] = Counter()
    for score in many:
        frames = {stem: heard(score, stem) for stem in STEMS}
        for stem in {part.stem for part in score.parts}:
            others = np.any([frames[other] for other in STEMS if other != stem], axis=0)
            # Short rests of the others count as playing.
            others = np.convolve(others, np.ones(11), "same") > 0
            rests[stem] += longest_run(~frames[stem] & others) >= 40
        for begin in range(0, round(SECONDS * 10), 20):
            combinations[frozenset(stem for stem in STEMS if frames[stem][begin : begin + 20].any())] += 1
    assert all(rests[stem] > 20 for stem in STEMS)
    assert all(frozenset([stem]) in combinations for stem in STEMS)
    assert len(combinations) >= 25
    assert combinations[frozenset()] < 0.01 * combinations.total()
    assert sum(max(Counter(part.role for part in score.parts).values()) > 1 for score in many) >= 5


def test_singers_breathe() -> None:
    for style in ("pop", "soul", "folk", "rock", "hip-hop"):
        for score, part in of_role(
            [compose(np.random.default_rng(s), SECONDS, style=style) for s in range(4)], "voice"
        ):
            bars = Counter(int(note.start_s / bar_s(score) + 0.02) for note in part.notes)
            assert max(bars.values()) <= 8  # six, and those that come early from the next
            gaps = [b.start_s - a.start_s - a.duration_s for a, b in zip(part.notes, part.notes[1:], strict=False)]
            longest_phrase = np.diff([0, *(np.flatnonzero(np.array(gaps) > 0.2) + 1), len(part.notes)]).max()
            assert longest_phrase <= 30


def test_choruses_come_back() -> None:
    """Melodies are made of motifs: intervals in threes occur again much more often than by chance."""
    shares = []
    for _, part in of_role([compose(np.random.default_rng(s), 120.0, style="pop") for s in range(6)], "voice"):
        moves = np.diff([note.pitch for note in part.notes]).tolist()
        threes = list(zip(moves, moves[1:], moves[2:], strict=False))
        shuffled = np.random.default_rng(0).permutation(moves).tolist()
        chance = list(zip(shuffled, shuffled[1:], shuffled[2:], strict=False))
        shares.append((len(set(threes)) / len(threes), len(set(chance)) / len(chance)))
    own, chance_share = np.mean(shares, axis=0)
    assert own < 0.8 * chance_share


@pytest.mark.parametrize(
    ("feel", "root", "expected"),
    [
        ("folk", 2, {2: {2, 6, 9}, 7: {7, 11, 2}, 9: {9, 1, 4}, 11: {11, 2, 6}, 6: {6, 9, 1}, 4: {4, 7, 11}}),
        ("metal minor", 4, {4: {4, 11}, 5: {5, 0}, 7: {7, 2}, 9: {9, 4}, 11: {11, 6}, 0: {0, 7}, 2: {2, 9}}),
        ("soul minor", 9, {9: {9, 0, 4, 7}, 2: {2, 5, 9, 0}, 5: {5, 9, 0, 4}, 4: {4, 7, 11, 2}, 0: {0, 4, 7, 10}}),
    ],
)
def test_chords_are_what_their_numerals_say(feel: str, root: int, expected: dict[int, set[int]]) -> None:
    chords = {
        chord
        for seed in range(40)
        for bar in progression(np.random.default_rng(seed), feel, root, 0.0)
        for chord in bar
    }
    assert {chord.root for chord in chords} == set(expected)
    for chord in chords:
        tones = set(chord.tones)
        if feel == "soul minor":  # the degrees have dominant sevenths and ninths, too
            assert tones & expected[chord.root] >= {chord.root, (chord.root + 7) % 12}
        else:
            assert tones == expected[chord.root]


@pytest.mark.parametrize("feel", PROGRESSIONS)
def test_all_numerals_are_chords(feel: str) -> None:
    for seed in range(30):
        for bar in progression(np.random.default_rng(seed), feel, 3, 0.5):
            assert all(len(chord.tones) >= 2 and chord.tones[0] == chord.root for chord in bar)


def test_voices_move_less_than_chords_in_root_position() -> None:
    chords = [Chord(root, (0, 4, 7)) for root in (0, 5, 7, 2, 9, 4, 10, 0)]
    led = [voicing(chords[0], (), 3, 60)]
    for chord in chords[1:]:
        led.append(voicing(chord, led[-1], 3, 60))
        assert {pitch % 12 for pitch in led[-1]} == set(chord.tones)
    stacked = [tuple(60 + chord.root + step for step in chord.intervals) for chord in chords]
    assert np.abs(np.diff(led, axis=0)).sum() < 0.6 * np.abs(np.diff(stacked, axis=0)).sum()


def test_patterns_fill_bars() -> None:
    for name, rows in GROOVES.items():
        for pattern in " ".join(rows).split():
            assert len(pattern) in ((12,) if name in ("three", "six") else (16, 32)), (name, pattern)
            assert set(pattern) <= set("123456789op.")
    for name, choices in PERCUSSION.items():
        for layer in choices.replace("+", " ").split():
            pitch, pattern = layer.split(":")
            assert 35 <= int(pitch) <= 82
            assert len(pattern) in (16, 32), (name, pattern)


def test_swing_delays_the_second_of_a_pair() -> None:
    steps = np.arange(9)
    np.testing.assert_allclose(Grid(0.1, 4, 0.0).seconds(steps), 0.1 * steps)
    np.testing.assert_allclose(Grid(0.1, 4, 1.0).seconds([0, 2, 4, 6, 8]), [0, 0.8 / 3, 0.4, 0.4 + 0.8 / 3, 0.8])
    np.testing.assert_allclose(Grid(0.1, 2, 0.5).seconds([0, 1, 2]), [0, 0.1 + 0.1 / 6, 0.2])


def test_three_minutes_are_composed_in_a_moment() -> None:
    compose(np.random.default_rng(0), 10.0)
    taken = []
    for seed in range(5):
        begin = time.process_time()
        compose(np.random.default_rng(seed), 180.0)
        taken.append(time.process_time() - begin)
    assert np.median(taken) < 0.2


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_length_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="seconds must be > 0"):
        compose(np.random.default_rng(0), seconds)


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(UsageError, match="style must be one of rock"):
        compose(np.random.default_rng(0), 10.0, style="polka")
