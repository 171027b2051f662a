import re
from collections import Counter

import pytest

from unbraid.evaluation.published import MEDIANS, PublishedRow, published_rows
from unbraid.weights.catalog import catalog

FOUR = {"drums", "bass", "other", "vocals"}
ROWS = published_rows()


def of(source: str, metric: str = "SDR") -> list[PublishedRow]:
    return [row for row in ROWS if source in row.source and row.metric == metric]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source} {row.metric} {row.system} {row.extra}")
def test_each_row_makes_sense(row: PublishedRow) -> None:
    assert set(row.values) in (FOUR, set())
    assert all(-5 <= value <= 20 for value in row.values.values())
    assert "MUSDB18" in row.dataset
    assert "median" in row.aggregation or "mean" in row.aggregation
    # What is printed has two decimals.
    assert all(value == round(value, 2) for value in (*row.values.values(), row.all or 0.0))
    if row.values and row.all is not None and not row.all_differs:
        if row.kind_of_all == "mean":
            # Of numbers with two decimals, so each may be off by half a hundredth, as may the mean.
            assert sum(row.values.values()) / 4 == pytest.approx(row.all, abs=0.01 + 1e-9)
        else:
            assert min(row.values.values()) < row.all < max(row.values.values())


def test_only_the_misprint_is_excused() -> None:
    excused = [row for row in ROWS if row.all_differs]
    assert [row.system for row in excused] == ["Sparse HT Demucs (fine tuned)"]
    assert sum(excused[0].values.values()) / 4 == pytest.approx(9.27)
    assert "9.27" in excused[0].note


def test_every_row_of_the_papers_is_there() -> None:
    assert len(of("arXiv:1909.01174), Table 1")) == 8
    assert len(of("arXiv:1909.01174), Table 2", "SI-SDR")) == 6
    assert len(of("arXiv:2211.08553), Table 1")) == 14
    assert [len(of("extended abstract", metric)) for metric in ("SDR", "SIR", "SAR", "ISR")] == [3] * 4
    rows = Counter((row.source, row.metric, row.system, row.extra) for row in ROWS)
    assert set(rows.values()) == {1}


def test_tables_repeat_what_others_say() -> None:
    quoted = next(row for row in of("arXiv:2211.08553") if row.system == "Spleeter")
    assert quoted.values == next(row for row in of("extended abstract") if "Wiener" in row.system).values
    # What the note on Demucs's Table 2 says.
    ablation = [row.all for row in of("arXiv:1909.01174), Table 2", "SI-SDR")[:2]]
    assert ablation == [row.all for row in of("arXiv:1909.01174), Table 1")[3:1:-1]]


@pytest.mark.parametrize(
    ("model", "system", "extra"),
    [
        ("htdemucs", "HT Demucs", "800 songs"),
        ("htdemucs_ft", "HT Demucs (fine tuned)", "800 songs"),
        ("hdemucs_mmi", "Hybrid Demucs", "800 songs"),
        ("demucs_extra", "Demucs v2", "150 songs"),
        ("umx", "Open-Unmix (umx)", ""),
        ("umxl", "Open-Unmix L (umxl)", None),
        ("umxhq", "Open-Unmix HQ (umxhq)", ""),
        ("spleeter:4stems", "Spleeter, 4 stems, masks", None),
    ],
)
def test_the_catalogue_says_the_same(model: str, system: str, extra: str | None) -> None:
    row = next(
        row for row in ROWS
        if row.system == system and row.metric == "SDR" and (extra is None or row.extra == extra)
    )  # fmt: skip
    score = catalog()[model].scores[0]
    assert score.values == row.values
    assert score.metric == f"SDR, {row.aggregation}" == f"SDR, {MEDIANS}"
    assert score.dataset == row.dataset or "of MUSDB18" in row.note


def test_notes_are_single_lines() -> None:
    assert not any(re.search(r"\n|  ", text) for row in ROWS for text in (row.note, row.table_note, row.source))
