from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest

from browser import Browser, Page, open_browser
from unbraid.errors import UnbraidError
from unbraid.evaluation.report import Table, write_report
from unbraid.evaluation.results import BSS_METRICS, StemScores, TrackScores

STEMS = ("vocals", "drums", "bass", "other")
SUMMARY = Table(("System", "vocals", "year"), (("ours", "6.50", "–"), ("theirs", "−1.25", "2019")), "Median SDR in dB")
HOSTILE = (
    "<script>document.title='hurt'</script>",
    "</script><script>document.title='hurt'</script>",
    "\"><img src=x onerror=document.title='hurt'>",
    "<!--<script>",
    "a & b <b>c</b> &lt; $1 %{x} $x^2$",
    "line\u2028break\u0000\ud83d",
)


def stem_scores(rng: np.random.Generator, *, level: float = 6.0, n_frames: int = 40) -> StemScores:
    """Scores around a level, with some windows that have none."""
    frames = {metric: rng.normal(level + 2.0 * place, 3.0, n_frames) for place, metric in enumerate(BSS_METRICS)}
    silent = rng.random(n_frames) < 0.2
    for values in frames.values():
        values[silent] = np.nan
    return StemScores(frames, {"uSDR": level - 0.5, "SI-SDR": level - 1.25, "L1": 0.01 / (1.0 + abs(level))})


def track_scores(system: str, track: str, rng: np.random.Generator, **changes: Any) -> TrackScores:
    stems = {stem: stem_scores(rng, level=rng.normal(6.0, 2.0)) for stem in STEMS}
    return TrackScores(**{"system": system, "track": track, "subset": "test", "stems": stems, **changes})


def several(rng: np.random.Generator) -> list[TrackScores]:
    """Two systems on eight tracks; the second lacks a track and a stem."""
    tracks = [track_scores("first", f"Band {number} - Song", rng) for number in range(8)]
    for number in range(7):
        track = track_scores("second", f"Band {number} - Song", rng, notices=("one channel was silent",))
        tracks.append(
            TrackScores(**{**vars(track), "stems": {stem: track.stems[stem] for stem in STEMS if stem != "bass"}})
        )
    return tracks


def written(value: float, decimals: int = 2) -> str:
    return f"{value:.{decimals}f}".replace("-", "−")


def embedded(path: Path) -> dict[str, Any]:
    """The data that the page draws."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"))
    assert len(found) == 1
    data: dict[str, Any] = json.loads(found[0])
    return data


def score_named(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(score for score in data["scores"] if score["name"] == name)
    return found


class Markup(HTMLParser):
    """The elements of a page, with their attributes, and the texts outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._silent = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent and data.strip():
            self.texts.append(data.strip())


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must neither complain nor ask for anything but files."""
    browser.complaints.clear()
    browser.requests.clear()
    yield browser.page()
    assert browser.complaints == []
    assert {address.split(":")[0] for address in browser.requests} == {"file"}


# The file.


def test_a_table_refuses_a_row_of_another_length() -> None:
    with pytest.raises(ValueError, match="a row must have 2 cells, got 1"):
        Table(("System", "SDR"), (("ours",),))


def test_no_tracks_and_twice_the_same_track_are_refused(path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="at least one track"):
        write_report(path, [], title="Report", tables=[SUMMARY])
    with pytest.raises(ValueError, match="'ours' has two scores for the track 'Song'"):
        write_report(path, [track_scores("ours", "Song", rng)] * 2, title="Report", tables=[SUMMARY])
    assert not path.exists()


def test_the_same_name_in_two_subsets_is_two_tracks(path: Path, rng: np.random.Generator) -> None:
    tracks = [track_scores("ours", "Song", rng, subset=subset) for subset in ("test", "train", "")]
    write_report(path, tracks, title="Report", tables=[SUMMARY])
    assert embedded(path)["tracks"] == ["Song", "test/Song", "train/Song"]


def test_a_report_replaces_another_and_leaves_nothing_beside_it(path: Path, rng: np.random.Generator) -> None:
    path.write_text("old")
    write_report(path, [track_scores("ours", "Song", rng)], title="New", tables=[SUMMARY])
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert list(path.parent.iterdir()) == [path]


def test_the_same_scores_give_the_same_bytes(path: Path) -> None:
    first, second = (
        (write_report(path, several(np.random.default_rng(3)), title="Report", tables=[SUMMARY]), path.read_bytes())[1]
        for _ in range(2)
    )
    assert first == second


def test_where_no_file_can_be_the_error_says_so(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnbraidError, match=r"cannot write the report '.*report\.html': (File exists|Not a directory)"):
        write_report(tmp_path / "file" / "report.html", [track_scores("ours", "A", rng)], title="", tables=[SUMMARY])
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UnbraidError, match="cannot write the report"):
        write_report(tmp_path / "report.html", [track_scores("ours", "Song", rng)], title="Report", tables=[SUMMARY])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "report.html"]


def test_without_plotly_the_error_says_what_to_install(
    path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UnbraidError, match=r"pip install 'unbraid\[evaluate\]'"):
        write_report(path, [track_scores("ours", "Song", rng)], title="Report", tables=[SUMMARY])
    assert not path.exists()


def test_scores_are_the_medians_and_boxes_their_quantiles(path: Path, rng: np.random.Generator) -> None:
    tracks = several(rng)
    write_report(path, tracks, title="Report", tables=[SUMMARY])
    data = embedded(path)
    assert [score["name"] for score in data["scores"]] == [*BSS_METRICS, "uSDR", "SI-SDR", "L1"]
    assert [score["unit"] for score in data["scores"]] == ["dB"] * 6 + [""]
    sdr, sisdr = score_named(data, "SDR"), score_named(data, "SI-SDR")
    for place, stem in enumerate(STEMS):
        of_first = [np.nanmedian(track.stems[stem].frames["SDR"]) for track in tracks[:8]]
        assert sdr["values"][0][place] == pytest.approx(of_first, abs=0.00501)
        low, *_, high = sdr["boxes"][0][place]
        # numpy's default: straight lines between the order statistics, of which there are eight, seven steps apart
        ordered = sorted(of_first)
        assert low == pytest.approx(ordered[0] + 0.05 * 7 * (ordered[1] - ordered[0]), abs=0.00501)
        assert high == pytest.approx(ordered[7] - 0.05 * 7 * (ordered[7] - ordered[6]), abs=0.00501)
        assert sisdr["values"][0][place] == pytest.approx(
            [track.stems[stem].whole["SI-SDR"] for track in tracks[:8]], abs=0.00501
        )
    assert sdr["boxes"][1][STEMS.index("bass")] is None
    assert sdr["values"][1][STEMS.index("bass")] == [None] * 8
    assert [counts[0] for counts in sdr["counts"]] == [8, 7]


def test_what_is_better_is_first(path: Path, page: Page) -> None:
    bleeds = {"a": -20.0, "b": -35.5, "c": 3.25}
    tracks = [
        TrackScores("ours", name, "", {"drums": StemScores({}, {"bleed:vocals": bleed, "uSDR": bleed})})
        for name, bleed in bleeds.items()
    ]
    write_report(path, tracks, title="Report", tables=[SUMMARY])
    assert [score["lessIsBetter"] for score in embedded(path)["scores"]] == [True, False]
    page.open(path)
    assert page.texts("#bars .ytick text") == ["b", "a", "c"]
    choose(page, score="uSDR")
    assert page.texts("#bars .ytick text") == ["c", "a", "b"]
    assert page.texts("#ends tbody tr:first-child td") == ["b", "−35.50", "c", "3.25"]


def test_windows_that_are_silent_or_exact_survive(path: Path) -> None:
    frames = np.array([np.nan, 1.236, -20.5, np.inf, -np.inf, 400.0, 327.66])
    silent = StemScores(dict.fromkeys(BSS_METRICS, np.full(5, np.nan)), {"uSDR": np.nan})
    exact = StemScores({"SDR": np.full(4, np.inf)}, {"uSDR": np.inf})
    stems = {"vocals": StemScores({"SDR": frames}, {}), "drums": silent, "bass": exact}
    write_report(path, [TrackScores("ours", "Song", "", stems)], title="Report", tables=[SUMMARY])
    data = embedded(path)
    packed = data["frames"]["ours"]["Song"]["stems"]["vocals"]["SDR"]
    codes = np.frombuffer(base64.b64decode(packed), "<i2")
    assert codes.tolist() == [-32768, 124, -2050, 32767, -32767, 32767, 32766]
    assert score_named(data, "SDR")["values"] == [[[164.45], [None], [None]]]
    assert score_named(data, "uSDR")["values"] == [[[None], [None], ["Infinity"]]]
    assert score_named(data, "SDR")["boxes"] == [[[164.45] * 5, None, None]]


def test_an_axis_is_not_stretched_by_one_system_far_away(path: Path, rng: np.random.Generator) -> None:
    tracks = several(rng)
    mix = {"vocals": StemScores({"SAR": np.full(9, 150.0)}, {})}
    write_report(path, [*tracks, TrackScores("mix", "Band 1 - Song", "test", mix)], title="Report", tables=[SUMMARY])
    low, high = score_named(embedded(path), "SAR")["range"]
    assert -10.0 < low < 12.0 < high < 60.0


def test_a_hundred_and_fifty_tracks_of_four_systems_fit_in_fifteen_megabytes(path: Path) -> None:
    rng = np.random.default_rng(5)
    stems = {stem: stem_scores(rng, n_frames=240) for stem in STEMS}  # four minutes, the mean of MUSDB18
    tracks = [TrackScores(system, f"Track {number}", "test", stems) for system in "abcd" for number in range(150)]
    write_report(path, tracks, title="Report", tables=[SUMMARY])
    assert path.stat().st_size < 15e6


def test_the_markup_is_complete_and_refers_to_nothing_outside(path: Path, rng: np.random.Generator) -> None:
    notes = ("MUSDB18, test subset", "2026-03-14")
    write_report(path, several(rng), title="Report", tables=[SUMMARY], notes=notes)
    markup = Markup(path)
    tags = [tag for tag, _ in markup.elements]
    assert tags.count("h1") == 1 and tags.count("h2") == 6 and tags.count("script") == 3
    assert not {"link", "iframe", "img", "object", "embed"} & set(tags)
    assert not [attributes for _, attributes in markup.elements if {"src", "href", "srcset"} & set(attributes)]
    policies = [attributes["content"] for _, attributes in markup.elements if "http-equiv" in attributes]
    assert len(policies) == 1 and policies[0] is not None and policies[0].startswith("default-src 'none'; ")
    identities = [attributes["id"] for _, attributes in markup.elements if "id" in attributes]
    assert len(set(identities)) == len(identities)
    assert {*notes, "Median SDR in dB", "theirs", "−1.25", "2019"} <= set(markup.texts)
    text = "\n".join(markup.texts)
    assert "second: no scores for Band 7 - Song." in text and "second: no scores for bass." in text
    assert "one channel was silent" in text and "7 tracks: Band 0 - Song, Band 1 - Song" in text


def test_columns_of_numbers_are_flush_right(path: Path, rng: np.random.Generator) -> None:
    table = Table(("System", "SDR", "data"), (("1", "6.3 [6.0, 6.8]", "800 songs"), ("2", "–", "MUSDB18")))
    write_report(path, [track_scores("ours", "Song", rng)], title="Report", tables=[table])
    text = path.read_text("utf-8")
    assert '<td class="number">6.3 [6.0, 6.8]</td><td>800 songs</td>' in text
    assert '<th scope="row">1</th><td class="number">' in text


def test_settings_that_differ_show_all_their_values(path: Path, rng: np.random.Generator) -> None:
    tracks = [track_scores("ours", f"Song {n}", rng, settings={"version": "1", "rate": f"{n} Hz"}) for n in range(2)]
    write_report(path, [*tracks, track_scores("theirs", "Song 0", rng)], title="Report", tables=[SUMMARY])
    text = path.read_text("utf-8")
    assert '<th scope="row">version</th><td>1</td><td>–</td>' in text
    assert '<th scope="row">rate</th><td>2 values: 0 Hz, 1 Hz</td><td>–</td>' in text


def test_no_name_can_leave_its_place(path: Path, rng: np.random.Generator) -> None:
    write_hostile(path, rng)
    markup = Markup(path)
    assert [tag for tag, _ in markup.elements].count("script") == 3
    assert "img" not in [tag for tag, _ in markup.elements]
    data = embedded(path)
    assert set(HOSTILE[:5]) < set(data["tracks"]) and set(data["systems"]) == {HOSTILE[0], HOSTILE[1]}
    assert "line\u2028break\u0000\\ud83d" in data["tracks"]


def write_hostile(path: Path, rng: np.random.Generator) -> None:
    tracks = [
        TrackScores(
            system,
            track,
            "",
            {stem: stem_scores(rng) for stem in (HOSTILE[1], HOSTILE[2], "vocals")},
            notices=HOSTILE,
            settings={HOSTILE[0]: HOSTILE[1], HOSTILE[2]: HOSTILE[0]},
        )
        for system in HOSTILE[:2]
        for track in HOSTILE
    ]
    table = Table(HOSTILE[:3], (HOSTILE[:3], HOSTILE[3:]), HOSTILE[0])
    write_report(path, tracks, title=HOSTILE[1], tables=[table], notes=HOSTILE)


# The page, in a browser.


def choose(page: Page, **choices: str) -> None:
    """Go to another address of the same page, and wait until it is drawn."""
    page.value(
        "new Promise(done => { addEventListener('hashchange', () => setTimeout(done), {once: true}); "
        f"location.hash = {json.dumps(urlencode(choices, quote_via=quote))}; }})"
    )


def selected(page: Page, key: str) -> set[str]:
    return set(page.value(f"[...document.querySelectorAll('select[data-key={key}]')].map(one => one.value)"))


def test_boxes_and_bars_show_the_medians(path: Path, rng: np.random.Generator, page: Page) -> None:
    tracks = several(rng)
    write_report(path, tracks, title="Report", tables=[SUMMARY])
    page.open(path)
    headings = page.texts("#boxes h3")
    assert headings == [f"{metric} (dB)" for metric in ("SDR", "ISR", "SIR", "SAR")]
    # four panels; the first system has four boxes in each, the second three
    assert page.value("document.querySelectorAll('#boxes .boxlayer path.box').length") == 4 * (4 + 3)
    medians = [
        [np.nanmedian(track.stems["drums"].frames["SDR"]) for track in half] for half in (tracks[:8], tracks[8:])
    ]
    rows = page.value(
        "[...document.querySelectorAll('#boxes-table tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    assert rows[2][:4] == ["SDR", "first", "drums", "8"] and written(float(np.median(medians[0]))) == rows[2][6]

    choose(page, stem="drums", system="second", boxes="uSDR")
    assert page.texts("#boxes h3") == ["uSDR (dB)"]
    best_first = [*sorted(range(7), key=lambda number: -medians[1][number]), 7]  # the one that it lacks comes last
    assert page.texts("#bars .ytick text") == [f"Band {number} - Song" for number in best_first]
    shown = [text.strip("◂▸ ") for text in page.texts("#bars .bars .point text")]
    assert shown == [written(medians[0][n]) for n in best_first] + [written(medians[1][n]) for n in best_first[:7]]

    choose(page, stem="bass", hide="first")
    assert page.value("document.querySelectorAll('#boxes .boxlayer path.box').length") == 4 * 3
    assert page.texts("#bars .bars .point text") == []
    assert page.value("[...document.querySelectorAll('#systems input')].map(box => box.checked)") == [False, True]


def test_a_link_leads_to_a_track_over_time(path: Path, rng: np.random.Generator, page: Page) -> None:
    tracks = several(rng)
    write_report(path, tracks, title="Report", tables=[SUMMARY])
    page.open(path, urlencode({"track": "Band 3 - Song", "stem": "other", "metric": "SIR"}, quote_via=quote))
    assert selected(page, "track") == {"Band 3 - Song"} and selected(page, "stem") == {"other"}
    assert 0 <= page.value("document.getElementById('time-section').getBoundingClientRect().top") < 900
    lines = page.value("document.getElementById('time').data.map(line => line.y)")
    assert len(lines) == 2
    for line, track in zip(lines, (tracks[3], tracks[11]), strict=True):
        frames = track.stems["other"].frames["SIR"]
        assert np.array(line, dtype=float) == pytest.approx(frames, abs=0.00501, nan_ok=True)
    times = page.value("document.getElementById('time').data[0].x.map(x => new Date(x).toISOString().slice(11, 23))")
    assert times[:2] == ["00:00:00.500", "00:00:01.500"]
    assert page.texts("#time .xtick text")[0] == "0:00"
    places = page.value(
        "[...document.querySelector('#time .trace').querySelectorAll('.point')].map(point => "
        "point.transform.baseVal.consolidate().matrix.e / document.querySelector('#time .nsewdrag').getBBox().width)"
    )
    known = np.flatnonzero(~np.isnan(tracks[3].stems["other"].frames["SIR"]))
    assert places == pytest.approx((known + 0.5) / 40, abs=0.002)

    # From the table of the best and worst: the worst of the drums.
    drums = [np.nanmedian(track.stems["drums"].frames["SDR"]) for track in tracks[:8]]
    first_row = "#ends > :nth-child(2) tbody tr:first-child td"
    assert page.texts(first_row) == [
        f"Band {np.argmin(drums)} - Song",
        written(min(drums)),
        f"Band {np.argmax(drums)} - Song",
        written(max(drums)),
    ]
    page.value(
        "new Promise(done => { addEventListener('hashchange', () => setTimeout(done), {once: true}); "
        f"scrollTo(0, 0); document.querySelector('{first_row} a').click(); }})"
    )
    assert 0 <= page.value("document.getElementById('time-section').getBoundingClientRect().top") < 900
    assert selected(page, "track") == {f"Band {np.argmin(drums)} - Song"} and selected(page, "stem") == {"drums"}
    assert selected(page, "metric") == {"SIR"}  # stays

    # By hand, and a track that the second system lacks.
    page.value(
        "new Promise(done => { addEventListener('hashchange', () => setTimeout(done), {once: true}); "
        "const select = document.querySelector('select[data-key=track]'); select.value = 'Band 7 - Song'; "
        "select.dispatchEvent(new Event('change')); })"
    )
    assert page.value("document.getElementById('time').data.map(line => line.name)") == ["first"]
    assert page.texts("#time-table tr:first-child td") == [
        written(np.nanmedian(tracks[7].stems["drums"].frames["SDR"])),
        "–",
    ]


def test_silent_exact_and_missing_scores_are_shown(path: Path, page: Page) -> None:
    silent = StemScores(dict.fromkeys(BSS_METRICS, np.full(5, np.nan)), {})
    exact = StemScores({"SDR": np.array([1.0, np.inf, np.inf])}, {"L1": 0.00321, "uSDR": np.inf})
    stems = {"vocals": exact, "drums": silent}
    write_report(path, [TrackScores("ours", "Song", "", stems)], title="Report", tables=[SUMMARY])
    page.open(path)
    assert page.texts("#bars .bars .point text") == ["1.00"]  # infinite windows do not count
    assert page.value("document.getElementById('time').data[0].customdata") == ["1.00", "∞", "∞"]
    choose(page, stem="drums")
    assert page.texts("#time .annotation-text") == ["No window has this score"]
    choose(page, score="L1")
    assert page.texts("#bars .bars .point text") == ["0.0032"]
    choose(page, stem="vocals", score="uSDR")
    assert page.texts("#bars .bars .point text") == ["∞ ▸"]
    # Whole-track scores alone, and none at all.
    write_report(path, [TrackScores("a", "b", "", {"bass": StemScores({}, {"uSDR": 3.0})})], title="", tables=[SUMMARY])
    page.open(path)
    assert page.value("getComputedStyle(document.getElementById('time')).display") == "none"
    assert page.texts("#bars .bars .point text") == ["3.00"]
    write_report(path, [TrackScores("a", "b", "", {})], title="Nothing", tables=[SUMMARY])
    page.open(path)
    assert page.value("document.querySelector('.when-nothing').checkVisibility()")
    assert not page.value("document.getElementById('figures').checkVisibility()")


def test_hostile_names_do_no_harm_in_a_browser(path: Path, rng: np.random.Generator, page: Page) -> None:
    write_hostile(path, rng)
    page.open(path)
    assert page.value("document.title") == HOSTILE[1] == page.value("document.querySelector('h1').textContent")
    assert page.value("document.images.length + document.scripts.length") == 3
    for track in HOSTILE[:5]:
        choose(page, track=track, stem=HOSTILE[2], hide=HOSTILE[1])
        assert selected(page, "track") == {track}
        assert page.texts("#time .gtitle") == [track]
    assert sorted(page.texts("#bars .ytick text"))[:1] != []
    assert page.value("document.querySelectorAll('#figures b, #figures img').length") == 0


def test_a_phone_in_the_dark_needs_no_sideways_scrolling(
    path: Path, rng: np.random.Generator, browser: Browser
) -> None:
    browser.complaints.clear()
    page = browser.page(width=390, height=800, dark=True)
    write_report(path, several(rng), title="A-report-with-a-very-long-name-" * 3, tables=[SUMMARY])
    page.open(path)
    assert page.value("document.documentElement.scrollWidth") == 390
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert page.value("document.querySelector('#bars .xtick text').style.fill") == "rgb(230, 233, 237)"
    assert len(page.texts("#bars .annotation-text")) == 8
    assert browser.complaints == []
