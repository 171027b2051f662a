"""Scoring systems on tracks: numbers, what is silent, going on after a stop, and failures that stay where they are."""

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from museval_metrics import import_museval, museval_bss_eval
from song_makers import write_wav
from unbraid.audio.resample import resample
from unbraid.datasets.tracks import Track, load_dataset
from unbraid.datatypes import FloatArray
from unbraid.errors import AudioError, CancelledError, UnbraidError, UsageError
from unbraid.evaluation.aggregate import summarise, tabulate
from unbraid.evaluation.arrays import open_arrays
from unbraid.evaluation.bsseval import bss_eval
from unbraid.evaluation.evaluate import Done, Scoring, evaluate_track
from unbraid.evaluation.records import read_track_scores
from unbraid.evaluation.results import BSS_METRICS, TrackScores
from unbraid.evaluation.scores import ScoreSums
from unbraid.evaluation.systems import Estimates, System, folder_system
from unbraid.evaluation.true_stems import TrueStems

RATE = 8000
STEMS = ("bass", "drums", "vocals")  # as files are sorted
ARRAYS = open_arrays("numpy", 1)
ROUNDED = 0.51e-5  # files have five decimals

Signals = dict[str, FloatArray]


def noises(stems: Sequence[str], *, n: int = 3 * RATE + 500, n_channels: int = 1, seed: int = 0) -> Signals:
    """Noise of other colours, levels and places on each stem."""
    rng = np.random.default_rng(seed)
    found = {}
    for index, stem in enumerate(stems):
        white = rng.standard_normal((n_channels, n + 20))
        white[-1] += 0.5 * white[0]
        coloured = np.stack([np.convolve(one, rng.uniform(-1, 1, 21), "valid") for one in white])
        found[stem] = (0.02 * (1 + index) * coloured).astype(np.float32)
    return found


def leaky(true: Signals, *, seed: int = 1) -> Signals:
    """Estimates with some of every stem in them, and something of none."""
    rng = np.random.default_rng(seed)
    stems = np.stack(list(true.values()))
    leaks = np.eye(len(stems)) + rng.uniform(-0.2, 0.2, (len(stems), len(stems)))
    mixed = np.einsum("jk,kct->jct", leaks, stems) + 0.01 * rng.standard_normal(stems.shape)
    return dict(zip(true, mixed.astype(np.float32), strict=True))


def make_track(folder: Path, true: Signals, mix: FloatArray | None = None, *, sample_rate: int = RATE) -> Track:
    """The track "song" as float WAVs."""
    place = folder / "song"
    place.mkdir(parents=True, exist_ok=True)
    for stem, samples in true.items():
        write_wav(place / f"{stem}.wav", samples, sample_rate=sample_rate)
    if mix is not None:
        write_wav(place / "mixture.wav", mix, sample_rate=sample_rate)
    (track,) = load_dataset(folder).tracks
    return track


def giving(estimates: Signals, name: str = "ours", *, block: int = 10_007) -> System:
    """A system that has these estimates, whatever the track."""
    samples = np.stack(list(estimates.values()))

    def estimate(track: Track, true: TrueStems, stack: ExitStack) -> Estimates:
        starts = range(0, samples.shape[-1], block)
        return Estimates(tuple(estimates), (samples[..., start : start + block] for start in starts))

    return System(name, estimate, lambda track: {"made": "here"})


def failing(name: str, error: BaseException, *, after: int = 1) -> System:
    """A system that fails after some blocks."""

    def blocks(n_stems: int, n_channels: int) -> Iterable[FloatArray]:
        for _ in range(after):
            yield np.ones((n_stems, n_channels, 1000), np.float32)
        raise error

    def estimate(track: Track, true: TrueStems, stack: ExitStack) -> Estimates:
        return Estimates(true.stems, blocks(len(true.stems), true.n_channels))

    return System(name, estimate, lambda track: {})


def evaluate(
    track: Track,
    systems: Sequence[System],
    folder: Path,
    *,
    dataset: str = "folder",
    on_progress: Callable[[str, float], None] = lambda stage, part: None,
    **scoring: Any,
) -> list[Done]:
    folder.mkdir(exist_ok=True)
    done = evaluate_track(
        *(track, systems, folder),
        dataset=dataset,
        scoring=Scoring(**scoring),
        arrays=ARRAYS,
        on_progress=on_progress,
    )
    return list(done)


def scores_of(done: Done) -> TrackScores:
    assert done.error is None and done.scores is not None, done.error
    return done.scores


def errors_of(done: Sequence[Done]) -> list[str]:
    assert all((one.error is None) != (one.scores is None) for one in done)
    return [str(one.error) for one in done if one.error is not None]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def frames_of(scores: TrackScores, stem: str) -> NDArray[np.float64]:
    """SDR, ISR, SIR and SAR [shape=(4, frame)]."""
    return np.stack([scores.stems[stem].frames[metric] for metric in BSS_METRICS])


def assert_same(first: TrackScores, second: TrackScores) -> None:
    """To the last bit."""
    for name in ("system", "track", "subset", "window_s", "hop_s", "notices", "settings"):
        assert getattr(first, name) == getattr(second, name)
    assert list(first.stems) == list(second.stems)
    for stem, scores in first.stems.items():
        assert list(scores.frames) == list(second.stems[stem].frames)
        for metric, values in scores.frames.items():
            np.testing.assert_array_equal(values, second.stems[stem].frames[metric])
        np.testing.assert_equal(dict(scores.whole), dict(second.stems[stem].whole))


# Numbers.


@pytest.mark.parametrize(
    ("scoring", "options"),
    [
        ({}, {"window": RATE, "hop": RATE}),
        ({"framewise": True}, {"window": RATE, "hop": RATE, "framewise": True}),
        ({"window_s": 0.75, "hop_s": 0.3}, {"window": 6000, "hop": 2400}),
        ({"window_s": 60.0}, {"window": None, "hop": None}),
        ({"bss": False}, None),
    ],
)
@pytest.mark.parametrize("n_channels", [1, 2])
def test_scores_are_those_of_the_whole_arrays(
    tmp_path: Path, scoring: dict[str, Any], options: dict[str, Any] | None, n_channels: int
) -> None:
    true = noises(STEMS, n_channels=n_channels)
    mix = np.sum(list(true.values()), axis=0, dtype=np.float32) + noises("m", n_channels=n_channels, seed=7)["m"]
    estimates = leaky(true)
    order = ("drums", "vocals", "bass")  # the system's own
    (done,) = evaluate(
        make_track(tmp_path, true, mix),
        [giving({stem: estimates[stem] for stem in order})],
        tmp_path / "out",
        **scoring,
    )
    scores = scores_of(done)
    assert (list(scores.stems), scores.notices, done.is_new, done.system) == (list(STEMS), (), True, "ours")
    references, found = np.stack(list(true.values())), np.stack([estimates[stem] for stem in STEMS])
    sums = ScoreSums(STEMS, n_channels)
    sums.add(references, found, mix)
    for stem, expected in sums.scores().items():
        assert dict(scores.stems[stem].whole) == pytest.approx(expected, abs=1e-9)
    if options is None:
        assert all(not one.frames for one in scores.stems.values())
        return
    expected_frames = bss_eval(references, found, **options)
    for index, stem in enumerate(STEMS):
        for metric, values in zip(BSS_METRICS, frames_of(scores, stem), strict=True):
            np.testing.assert_allclose(values, getattr(expected_frames, metric.lower())[index], atol=ROUNDED)


@dataclass
class MusevalTrack:
    """What museval takes of a track of musdb's, with the targets of musdb 0.4."""

    true: Signals
    name: str = "song"
    subset: str = "test"
    rate: int = RATE

    @property
    def targets(self) -> Mapping[str, Any]:
        instruments = np.sum([one for stem, one in self.true.items() if stem != "vocals"], axis=0)
        named = [*self.true.items(), ("accompaniment", instruments)]
        return OrderedDict((name, SimpleNamespace(audio=samples.T)) for name, samples in named)


FOUR = ("drums", "bass", "other", "vocals")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("stems", "mode", "extra"),
    [
        (STEMS, "v4", 0),
        ((*STEMS, "accompaniment"), "v4", 300),  # estimates may be longer
        (("vocals", "accompaniment"), "v4", -300),  # or shorter
        (("drums", "bass"), "v4", 0),
        (("drums", "bass"), "v3", 0),
    ],
)
def test_a_track_is_scored_as_by_museval_and_so_are_many(
    tmp_path: Path, stems: tuple[str, ...], mode: str, extra: int
) -> None:
    museval = import_museval()
    scores, store = [], museval.EvalStore()
    for seed in range(2 if stems == STEMS else 1):
        true = noises(STEMS, seed=seed, n=3 * RATE)
        true["bass"][:, RATE : 2 * RATE] = 0  # a window in which a stem is silent
        parts = {**leaky(true, seed=seed + 10)}
        parts["accompaniment"] = parts["bass"] + parts["drums"]
        estimates = {}
        for stem in stems:
            n = parts[stem].shape[1] + extra
            estimates[stem] = np.pad(parts[stem], ((0, 0), (0, max(0, extra))), mode="reflect")[:, :n]
        expected = museval.eval_mus_track(
            MusevalTrack(true, name=f"song {seed}"), {stem: one.T for stem, one in estimates.items()}, mode=mode
        )
        store.add_track(expected.df)
        track = replace(make_track(tmp_path / f"{seed}", true), name=f"song {seed}")
        (done,) = evaluate(track, [giving(estimates)], tmp_path / "out", framewise=mode == "v3")
        scores.append(scores_of(done))
        targets = {target["name"]: target["frames"] for target in expected.scores["targets"]}
        assert sorted(scores[-1].stems) == sorted(targets)
        for stem, frames in targets.items():
            values = np.array([[frame["metrics"][metric] for frame in frames] for metric in BSS_METRICS], float)
            assert np.isnan(values[:, 1]).all() or stem != "drums"
            np.testing.assert_allclose(frames_of(scores[-1], stem), values, atol=1e-4)
    found = summarise(tabulate(scores))
    for (stem, metric), value in store.agg_frames_tracks_scores().items():
        assert found[metric, stem].value == pytest.approx(value, abs=1e-4)


def test_a_stem_alone_is_scored_against_the_rest_of_the_mix(tmp_path: Path) -> None:
    true = noises(FOUR)
    estimate = leaky(true)["vocals"]
    (done,) = evaluate(make_track(tmp_path, true), [giving({"vocals": estimate})], tmp_path / "out")
    scores = scores_of(done)
    rest = np.sum([true[stem] for stem in FOUR[:3]], axis=0)
    # What else is estimated does not change a stem's scores.
    expected = museval_bss_eval(np.stack([true["vocals"], rest]), np.stack([estimate, rest]), window=RATE, hop=RATE)
    assert list(scores.stems) == ["vocals"]
    np.testing.assert_allclose(frames_of(scores, "vocals"), expected[:, 0], atol=1e-4)


def test_an_only_stem_has_no_interference_and_that_is_said(tmp_path: Path) -> None:
    true = noises(["vocals"])
    (done,) = evaluate(make_track(tmp_path, true), [giving(leaky(true))], tmp_path / "out")
    scores = scores_of(done)
    assert scores.notices == ("vocals is the only stem: there is no interference to measure",)
    assert np.isposinf(scores.stems["vocals"].frames["SIR"]).all()
    assert np.isfinite(scores.stems["vocals"].frames["SDR"]).all()


def test_more_stems_than_the_dataset_has_go_into_other_and_that_is_said(tmp_path: Path) -> None:
    true = noises(FOUR)
    estimates = leaky(true)
    piano = noises("p", seed=8)["p"]
    split = {**estimates, "other": estimates["other"] - piano, "piano": piano}
    track = make_track(tmp_path, true)
    done = evaluate(track, [giving(estimates, "four"), giving(split, "five")], tmp_path / "out")
    four, five = map(scores_of, done)
    assert (four.notices, five.notices) == ((), ("other: true other against estimated other + piano",))
    for stem in FOUR:
        np.testing.assert_allclose(frames_of(five, stem), frames_of(four, stem), atol=1e-3)
    with_unknown = {stem: samples for stem, samples in split.items() if stem not in ("other", "vocals")}
    true.pop("other")
    track = make_track(tmp_path / "without", true)
    (done_without,) = evaluate(track, [giving(with_unknown)], tmp_path / "out 2")
    assert scores_of(done_without).notices == ("estimated piano is not scored: no true stem is like it",)
    assert list(scores_of(done_without).stems) == ["bass", "drums"]


def test_nothing_in_common_is_that_systems_error(tmp_path: Path) -> None:
    true = noises(STEMS)
    done = evaluate(
        make_track(tmp_path, true), [giving({"voice": true["vocals"]}), giving(true, "good")], tmp_path / "out"
    )
    assert errors_of(done) == ["none of the stems voice is one of the true stems bass, drums, vocals; choose others"]
    assert np.isposinf(scores_of(done[1]).stems["vocals"].frames["SDR"]).all()


# What is silent.


def test_a_silent_true_stem_leaves_the_others_their_scores(tmp_path: Path) -> None:
    true = noises(STEMS)
    estimates = leaky(true)
    true["vocals"][:] = 0
    track = make_track(tmp_path, true)
    (done,) = evaluate(track, [giving(estimates)], tmp_path / "out")
    scores = scores_of(done)
    sounding = ["bass", "drums"]
    expected = museval_bss_eval(*(np.stack([s[stem] for stem in sounding]) for s in (true, estimates)), **WINDOW)
    for index, stem in enumerate(sounding):
        np.testing.assert_allclose(frames_of(scores, stem), expected[:, index], atol=1e-4)
    assert not scores.stems["vocals"].frames
    energy = np.square(estimates["vocals"].astype(float)).sum()
    assert scores.stems["vocals"].whole["uSDR"] == pytest.approx(10 * np.log10(1e-7 / (energy + 1e-7)), abs=1e-6)
    assert scores.notices == ("true vocals is silent: no SDR, ISR, SIR, SAR",)
    with pytest.raises(ValueError, match="silent"):
        museval_bss_eval(*(np.stack([s[stem] for stem in STEMS]) for s in (true, estimates)), **WINDOW)
    for folder in ("strict", "out"):  # also where a run that was not strict has left scores
        refused = evaluate(track, [giving(estimates)], tmp_path / folder, strict=True)
        assert errors_of(refused) == [STRICT.format("true vocals")]


WINDOW = {"window": RATE, "hop": RATE}
STRICT = (
    "{} is silent from beginning to end, which museval refuses; without --museval-strict the other stems are scored"
)


def test_a_silent_estimate_leaves_the_others_theirs_and_its_true_stem_is_still_interference(tmp_path: Path) -> None:
    true = noises(STEMS)
    estimates = leaky(true)
    # In another's estimate there is much of it.
    estimates["bass"] += true["drums"]
    stood_in = np.stack([estimates[stem] for stem in STEMS])
    estimates["drums"] = np.zeros_like(estimates["drums"])
    track = make_track(tmp_path, true)
    (done,) = evaluate(track, [giving(estimates)], tmp_path / "out")
    scores = scores_of(done)
    # Scores of one stem do not depend on the estimates of others, so those of a drummer who plays will do.
    expected = museval_bss_eval(np.stack([true[stem] for stem in STEMS]), stood_in, **WINDOW)
    for index, stem in enumerate(STEMS):
        if stem != "drums":
            np.testing.assert_allclose(frames_of(scores, stem), expected[:, index], atol=1e-4)
    # Without the drums as a true stem, they would be artefacts of the bass.
    sounding = [stem for stem in STEMS if stem != "drums"]
    without = museval_bss_eval(*(np.stack([s[stem] for stem in sounding]) for s in (true, estimates)), **WINDOW)
    assert (without[2, 0] > frames_of(scores, "bass")[2] + 3).all()
    assert not scores.stems["drums"].frames
    assert scores.stems["drums"].whole["uSDR"] == pytest.approx(0, abs=1e-6)
    assert scores.notices == ("estimated drums is silent: no SDR, ISR, SIR, SAR",)
    assert errors_of(evaluate(track, [giving(estimates)], tmp_path / "strict", strict=True)) == [
        STRICT.format("estimated drums")
    ]
    assert files_in(tmp_path / "strict") == []


def test_all_silent_is_said_and_not_an_error(tmp_path: Path) -> None:
    true = {stem: np.zeros((2, 2 * RATE), np.float32) for stem in ("drums", "vocals")}
    (done,) = evaluate(make_track(tmp_path, true), [giving(true)], tmp_path / "out")
    scores = scores_of(done)
    assert all(not one.frames for one in scores.stems.values())
    assert [notice.split(":")[0] for notice in scores.notices] == ["true drums is silent", "true vocals is silent"]


def test_anti_phase_counts_as_silent_as_in_museval(tmp_path: Path) -> None:
    true = noises(("drums", "vocals"), n_channels=2)
    estimates = leaky(true)
    true["vocals"][1] = -true["vocals"][0]
    done = evaluate(make_track(tmp_path, true), [giving(estimates)], tmp_path / "out")
    assert scores_of(done[0]).notices == ("true vocals is silent: no SDR, ISR, SIR, SAR",)


def test_a_silent_window_has_no_scores_and_the_rest_of_the_track_has(tmp_path: Path) -> None:
    true = noises(STEMS)
    true["vocals"][:, : RATE + 1] = 0
    (done,) = evaluate(make_track(tmp_path, true), [giving(leaky(true))], tmp_path / "out")
    for stem in STEMS:
        np.testing.assert_array_equal(np.isnan(frames_of(scores_of(done), stem)), [[True, False, False]] * 4)


# Lengths, rates.


@pytest.mark.parametrize(
    ("extra", "notice"),
    [
        (0, None),
        (800, "the estimated stems were 800 samples too long, cut off"),
        (1, "the estimated stems were 1 samples too long, cut off"),
        (-800, "the estimated stems were 800 samples too short, filled up with silence"),
    ],
)
def test_estimates_of_nearly_the_length_are_fitted_and_that_is_said(
    tmp_path: Path, extra: int, notice: str | None
) -> None:
    true = noises(STEMS, n_channels=2)
    n = true["bass"].shape[1]
    estimates = {stem: np.pad(one, ((0, 0), (0, max(extra, 0)))) for stem, one in leaky(true).items()}
    given = {stem: one[:, : n + extra] for stem, one in estimates.items()}
    for block in (999, 10**9):
        (done,) = evaluate(
            make_track(tmp_path, true), [giving(given, block=block)], tmp_path / f"out {block}", bss=False
        )
        scores = scores_of(done)
        assert scores.notices == (() if notice is None else (notice,))
        for stem in STEMS:
            fitted = np.zeros((2, n))
            fitted[:, : n + min(0, extra)] = given[stem][:, :n]
            wrong = fitted - true[stem]
            assert scores.stems[stem].whole["L1"] == pytest.approx(np.abs(wrong).mean(), rel=1e-6)


@pytest.mark.parametrize("extra", [-801, 801])
def test_estimates_of_another_length_are_an_error_with_both(tmp_path: Path, extra: int) -> None:
    true = noises(("drums", "vocals"), n=3 * RATE)
    estimates = noises(("drums", "vocals"), n=3 * RATE + extra)
    assert errors_of(evaluate(make_track(tmp_path, true), [giving(estimates)], tmp_path / "out")) == [
        f"the estimated stems are {3 + extra / RATE:.3f} s long, but the true ones 3.000 s: they may differ by 0.1 s"
    ]


def test_what_was_done_to_the_inputs_is_among_the_notices(tmp_path: Path) -> None:
    true = noises(STEMS, n_channels=2)
    track = make_track(tmp_path / "data", true, np.sum(list(true.values()), axis=0))
    write_wav(tmp_path / "data" / "song" / "drums.wav", true["drums"][:1])
    write_wav(tmp_path / "data" / "song" / "drums.wav", true["drums"][:1], sample_rate=RATE)
    write_wav(tmp_path / "data" / "song" / "vocals.wav", true["vocals"][:, :-30], sample_rate=RATE)
    estimates = {stem: resample(one, RATE, 16000) for stem, one in leaky(true).items()}
    make_track(tmp_path / "estimates", estimates, sample_rate=16000)
    system = folder_system(tmp_path / "estimates", "theirs", [track])
    (done,) = evaluate(track, [system], tmp_path / "out")
    scores = scores_of(done)
    assert scores.notices == (
        "true drums: its one channel is used for both",
        "true vocals: 30 samples shorter than the others, padded with silence",
        *(f"{stem}: resampled from 16000 to 8000 Hz" for stem in STEMS),
    )
    expected = {stem: resample(estimates[stem], 16000, RATE) for stem in STEMS}
    wrong = expected["bass"] - true["bass"]
    assert scores.stems["bass"].whole["L1"] == pytest.approx(np.abs(wrong).mean(), rel=1e-4)
    assert scores.settings["sample_rate"] == "8000 Hz"


# Files, and going on.


def test_what_is_written_is_what_is_given_and_nothing_else_is_left(tmp_path: Path) -> None:
    true = noises(STEMS)
    track = replace(make_track(tmp_path, true), subset="test")
    systems = [giving(leaky(true, seed=seed), name) for seed, name in enumerate(("a", "b:c"))]
    done = evaluate(track, systems, tmp_path / "out")
    assert files_in(tmp_path / "out") == ["a/test/song.json", "b%3Ac/test/song.json"]
    for one, file in zip(done, files_in(tmp_path / "out"), strict=True):
        assert_same(scores_of(one), read_track_scores(tmp_path / "out" / file))
        assert json.loads((tmp_path / "out" / file).read_text())["museval_version"] == "0.4.1"


def test_scores_that_are_there_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = noises(STEMS)
    track = make_track(tmp_path, true)
    systems = [giving(leaky(true, seed=seed), f"{seed}") for seed in range(3)]
    first = evaluate(track, systems[:2], tmp_path / "out")
    stages: list[str] = []

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be decoded")

    with monkeypatch.context() as patch:
        patch.setattr("unbraid.evaluation.true_stems.open_audio", fail)
        again = evaluate(track, systems[:2], tmp_path / "out", on_progress=lambda stage, part: stages.append(stage))
    assert [one.is_new for one in first] == [True, True]
    assert [(one.system, one.is_new) for one in again] == [("0", False), ("1", False)]
    assert stages == []
    for before, now in zip(first, again, strict=True):
        assert_same(scores_of(before), scores_of(now))
    more = evaluate(track, systems, tmp_path / "out")
    assert [(one.system, one.is_new) for one in more] == [("0", False), ("1", False), ("2", True)]


@pytest.mark.parametrize(
    "change",
    [
        "window",
        "version",
        "none",
        "dataset",
        "track",
        "as long",
        "new stem",
        "new mix",
        "system",
        "damaged",
        "cut off",
        "form",
    ],
)
def test_scores_made_otherwise_are_made_again(tmp_path: Path, change: str) -> None:
    true = noises(STEMS)
    track, estimates = make_track(tmp_path, true), leaky(true)
    system = giving(estimates)
    first = scores_of(evaluate(track, [system], tmp_path / "out")[0])
    file = tmp_path / "out" / "ours" / "tracks" / "song.json"
    options: dict[str, Any] = {}
    match change:
        case "window":
            options = {"hop_s": 0.5}
        case "version":
            options = {"framewise": True}
        case "none":
            options = {"bss": False}
        case "dataset":
            options = {"dataset": "Spleeter CSV"}
        case "track":
            track = make_track(tmp_path, {stem: one[:, :-1] for stem, one in true.items()})
        case "as long":
            track = make_track(tmp_path, {stem: one[:, ::-1] for stem, one in true.items()})
        case "new stem":
            track = make_track(tmp_path, {**true, "whistle": true["bass"]})
        case "new mix":
            track = make_track(tmp_path, true, true["bass"])
        case "system":
            system = replace(system, settings=lambda track: {"made": "elsewhere"})
        case "damaged":
            file.write_text("{")
        case "cut off":
            file.write_bytes(file.read_bytes()[:-100])
        case "form":
            content = json.loads(file.read_text())
            content["unbraid"]["form"] = 0
            file.write_text(json.dumps(content))
    (again,) = evaluate(track, [system], tmp_path / "out", **options)
    assert again.is_new
    assert_same(scores_of(again), read_track_scores(file))
    if change in ("damaged", "cut off", "form"):
        assert_same(scores_of(again), first)
    (third,) = evaluate(track, [system], tmp_path / "out", **options)
    assert not third.is_new


def test_another_version_of_ours_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = noises(STEMS)
    track, system = make_track(tmp_path, true), giving(true)
    evaluate(track, [system], tmp_path / "out")
    monkeypatch.setattr("unbraid.__version__", "99")
    assert [one.is_new for one in evaluate(track, [system], tmp_path / "out")] == [False]


def test_stems_on_disk_that_have_changed_are_scored_again(tmp_path: Path) -> None:
    true = noises(STEMS)
    track = make_track(tmp_path / "data", true)
    make_track(tmp_path / "stems", leaky(true))

    def is_new() -> bool:
        system = folder_system(tmp_path / "stems", "theirs", [track])
        return evaluate(track, [system], tmp_path / "out", bss=False)[0].is_new

    assert [is_new(), is_new()] == [True, False]
    path = tmp_path / "stems" / "song" / "drums.wav"
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1000))  # of the same length
    assert [is_new(), is_new()] == [True, False]


# Failures.


def test_a_system_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    true = noises(STEMS)
    systems = [
        giving(leaky(true), "first"),
        failing("broken", AudioError("cannot read 'x'")),
        giving(true, "last"),
    ]
    done = evaluate(make_track(tmp_path, true), systems, tmp_path / "out")
    assert [one.system for one in done] == ["first", "broken", "last"]
    assert errors_of(done) == ["cannot read 'x'"]
    assert done[1].error is not None
    assert files_in(tmp_path / "out") == ["first/tracks/song.json", "last/tracks/song.json"]


def test_stems_that_vanish_are_that_systems_error(tmp_path: Path) -> None:
    true = noises(STEMS)
    track = make_track(tmp_path / "data", true)
    make_track(tmp_path / "stems", leaky(true))
    system = folder_system(tmp_path / "stems", "theirs", [track])
    gone = tmp_path / "stems" / "song" / "drums.wav"
    gone.unlink()
    done = evaluate(track, [system, giving(true)], tmp_path / "out")
    assert {one.system for one in done if one.error is None} == {"ours"}
    (error,) = errors_of(done)
    assert error == f"cannot score 'song': cannot read '{gone}': No such file or directory"


@pytest.mark.parametrize("how", ["problem", "gone", "no audio", "length"])
def test_a_track_that_cannot_be_read_is_every_systems_error(tmp_path: Path, how: str) -> None:
    true = noises(STEMS)
    track = make_track(tmp_path, true)
    path = tmp_path / "song" / "drums.wav"
    if how == "problem":
        track = replace(track, problem="cannot use the track 'song': it is odd")
    elif how == "gone":
        path.unlink()
    elif how == "no audio":
        path.write_bytes(b"nothing to hear" * 99)
    else:
        write_wav(path, true["drums"][:, :RATE], sample_rate=RATE)
    done = evaluate(track, [giving(true, "a"), giving(true, "b")], tmp_path / "out")
    assert [one.system for one in done] == ["a", "b"]
    first, second = errors_of(done)
    assert first == second
    assert ("it is odd" if how == "problem" else repr(str(path))) in first
    assert files_in(tmp_path / "out") == []


def test_scores_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    true = noises(STEMS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ours").write_text("a file in its place")
    done = evaluate(make_track(tmp_path, true), [giving(true), giving(true, "other")], tmp_path / "out", bss=False)
    (error,) = errors_of(done)
    assert error.startswith("cannot write the scores")
    assert done[1].error is None


# Progress.


@pytest.mark.parametrize("stems", [FOUR, (*FOUR, "accompaniment")])
@pytest.mark.parametrize("framewise", [False, True])
def test_progress_goes_forward_and_to_the_end(tmp_path: Path, stems: tuple[str, ...], framewise: bool) -> None:
    true = noises(FOUR)
    estimates = leaky(true)
    estimates["accompaniment"] = estimates["bass"] + estimates["drums"]
    seen: list[tuple[str, float]] = []
    system = giving({stem: estimates[stem] for stem in stems})
    track = make_track(tmp_path, true)
    evaluate(track, [system], tmp_path / "out", framewise=framewise, on_progress=lambda *args: seen.append(args))
    order = ["reading", "separating", "scoring"]
    assert list(dict.fromkeys(stage for stage, _ in seen)) == order
    assert seen == sorted(seen, key=lambda one: (order.index(one[0]), one[1]))
    assert seen[0] == ("reading", 0.0)
    last = dict(seen)
    assert (last["separating"], last["scoring"]) == (1.0, 1.0)


@pytest.mark.parametrize("error", [CancelledError("enough"), KeyboardInterrupt(), ZeroDivisionError()])
@pytest.mark.parametrize("where", ["reading", "separating", "scoring"])
def test_what_progress_raises_stops_the_work_and_leaves_nothing(
    tmp_path: Path, where: str, error: BaseException
) -> None:
    true = noises(STEMS)
    started: list[str] = []

    def stop(stage: str, part: float) -> None:
        started.append(stage)
        if stage == where:
            raise error

    with pytest.raises(type(error)):
        evaluate(make_track(tmp_path, true), [giving(true), giving(true, "2")], tmp_path / "out", on_progress=stop)
    assert started.count(where) == 1
    assert files_in(tmp_path / "out") == []


@pytest.mark.parametrize("options", [{"window_s": 0.0}, {"hop_s": -1.0}, {"window_s": float("nan")}])
def test_windows_of_no_length_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="window and hop must be more than 0 s"):
        Scoring(**options)


def test_windows_below_a_sample_are_refused(tmp_path: Path) -> None:
    true = noises(STEMS)
    done = evaluate(make_track(tmp_path, true), [giving(true)], tmp_path / "out", window_s=1e-5)
    assert errors_of(done) == ["window and hop must be at least 1 sample, got 0 and 8000"]
    assert isinstance(done[0].error, UnbraidError)
