"""The sections of docs/performance.md that stand beside Demucs."""

from __future__ import annotations

from bench.measure import median
from bench.tables import Results, measured_on, table

__all__ = ["memory", "one_core", "two_stems", "whole_command"]

NAMES = {
    "theirs": "Demucs 4.1",
    "theirs -j": "Demucs 4.1, `-j 2`",
    "cold": "Unbraid, first start (nothing cached)",
    "warm f32": "Unbraid, `--precision f32`",
    "warm bf16": "Unbraid, bf16 (the default where the processor has it)",
}
BAG_NAMES = {
    "all": "Unbraid, all four stems",
    "two": "Unbraid, `--two-stems vocals`",
    "theirs all": "Demucs 4.1, all four stems",
    "theirs two": "Demucs 4.1, `--two-stems vocals`",
}


def _times(runs: list[Results]) -> list[str]:
    """Wall time and its range, processor time, memory."""
    walls = [took["wall_s"] for took in runs]
    return [
        f"{median(walls):.2f} s",
        f"{min(walls):.2f}–{max(walls):.2f} s" if len(walls) > 1 else "once",
        f"{median(took['cpu_s'] for took in runs):.1f} s",
        f"{median(took['peak_mb'] for took in runs):.0f} MB",
    ]


def whole_command(found: Results) -> str:
    """Time and memory of both, and the difference between their stems."""
    text = (
        f"HT Demucs of the published size (41.5 M parameters, random half precision weights, the same package on both "
        f"sides): a {found['song_s']} s mp3 to four WAV files of 16 bits, a new process each time, overlap 0.25, no "
        f"random shifts (`--shifts 0`). All take turns, {found['rounds']} rounds, and the ratio is the median of the "
        "rounds' ratios to Demucs without options. *First start* has no cache of compiled networks, the other lines of "
        "Unbraid have one.\n\n"
    )
    rows = []
    for kind in (kind for kind in NAMES if kind in found["runs"]):
        ratio = found["ratio"].get(kind)
        faster = "" if not ratio else f"{ratio['wall_s']:.2f} ×" if "theirs" in kind else f"**{ratio['wall_s']:.1f} ×**"
        less = f"{ratio['peak_mb']:.1f} ×" if ratio else ""
        rows.append([NAMES[kind], *_times(found["runs"][kind]), faster, less])
    text += table(["", "wall", "range", "processors", "peak memory", "faster", "less memory"], rows)
    text += (
        "\nThe stems of the two programs, of a WAV file (Demucs's decoder leaves the padding at an mp3's start, 1105 "
        "samples), written as floats; *largest* in steps of 16 bits:\n\n"
    )
    rows = [
        [
            f"{precision}: {stem}",
            f"{one['rms_stem_steps']:.0f}",
            f"{one['rms_steps'] / one['rms_stem_steps']:.1e}",
            f"{one['max_steps']:.3f}",
            f"{one['n_ours'] - one['n_theirs']:+d}",
        ]
        for precision, stems in found["difference"].items()
        for stem, one in stems.items()
    ]
    text += table(["", "RMS of the stem", "relative difference", "largest", "length"], rows)
    return text + measured_on(found["machine"])


def memory(found: Results) -> str:
    """Peak memory by length."""
    rows = [
        [
            f"{int(seconds)} s",
            f"{took['peak_mb']:.0f} MB",
            f"{took['wall_s']:.1f} s",
            f"{int(seconds) / took['wall_s']:.1f} ×",
        ]
        for seconds, took in found["runs"].items()
    ]
    text = "The whole command with the same network on songs of growing length, default precision, each once.\n\n"
    return text + table(["", "peak memory", "wall", "real time, start included"], rows) + measured_on(found["machine"])


def two_stems(found: Results) -> str:
    """A bag whole, and for one stem."""
    text = (
        "Four networks of the published size joined like `htdemucs_ft`, each with a say in one stem only; a "
        f"{found['song_s']} s mp3, as above. `--two-stems vocals` writes the vocals and what they leave of the mix: "
        f"one network is run, **{found['ratio']['wall_s']:.1f} × faster** than all four. Demucs runs all of them "
        "either way.\n\n"
    )
    rows = [[name, *_times(found["runs"][kind])] for kind, name in BAG_NAMES.items() if kind in found["runs"]]
    text += table(["", "wall", "range", "processors", "peak memory"], rows)
    return text + measured_on(found["machine"])


def one_core(found: Results) -> str:
    """The real-time factor beside the paper's."""
    text = (
        f"Section 5.1 of the HT Demucs paper: the time for {found['seconds']} s of Gaussian noise, divided by these "
        f"{found['seconds']} s, on one core; from array to arrays in a process that may use one core, with the model "
        "loaded and run once before. The paper's own figures (Table 2: 7.8 s, depth 5) are of a core of a Xeon at "
        "2.20 GHz. What was published as `htdemucs` has dimension 512.\n\n"
    )
    rows = []
    for width, one in found["factors"].items():
        for kind, factors in one["factors"].items():
            name = "Demucs 4.1" if kind == "theirs" else f"Unbraid, {kind}"
            faster = "" if kind == "theirs" else f"**{one['ratio'][kind]:.1f} ×**"
            factor = f"{median(factors):.2f}"
            rows.append([f"dimension {width}: {name}", factor, f"{found['paper'][width]:.2f}", faster])
    text += table(["", "real-time factor", "in the paper", "faster than Demucs here"], rows)
    return text + measured_on(found["machine"])
