"""Write docs/performance.md and docs/performance.svg from the measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.measure import median

__all__ = ["write_report"]

Results = dict[str, Any]
NAMES = {
    "theirs": "Spleeter 2.4.2",
    "cold": "Unbraid, first start (nothing cached)",
    "warm": "Unbraid",
    "warm f32": "Unbraid, `--precision f32`",
}


def write_report(results: Path, docs: Path, commands: list[str]) -> Path:
    """Write the report from what was measured; a section without measurements says so."""
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    parts = [
        "# Performance\n\nWritten by `python -m bench`; do not edit by hand. Figures are medians, times are of the "
        "wall clock, 1 MB is 10⁶ bytes.\n",
        _machine(found.get("machine")),
        _section("Whole command, beside Spleeter", found.get("separate"), _separate),
        _section("Within a process", found.get("stages"), _in_process),
        _section("Peak memory against duration", found.get("memory"), _memory),
        _section("Where the time goes", found.get("stages"), _stages),
        _section("Start-up", found.get("startup"), _startup),
        _section("Install size", found.get("install"), _install),
        _section("Wiener filter", found.get("wiener"), _wiener),
        "## The commands\n\n```\n" + "\n".join(commands) + "\n```\n",
    ]
    path = docs / "performance.md"
    if "separate" in found:
        (docs / "performance.svg").write_text(_chart(found["separate"]), encoding="utf-8")
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _section(title: str, found: Results | None, write: Any) -> str:
    return f"## {title}\n\n{write(found) if found else 'Not measured.'}\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _machine(found: Results | None) -> str:
    if not found:
        return ""
    flags = ", ".join(found["flags"]) or "no AVX2"
    bf16 = (
        ""
        if {"avx512_bf16", "amx_bf16"} & set(found["flags"])
        else " (no bfloat16 instructions: everything is float32)"
    )
    return _table(
        ["", ""],
        [
            ["Date, commit", f"{found['date']}, `{found['commit']}`"],
            ["Processor", f"{found['processor']}, {found['cores']} cores; {flags}{bf16}"],
            ["Memory, system", f"{found['memory_gib']} GiB, {found['system']}; load before the start {found['load']}"],
            ["Ours", ", ".join(f"{name} {version}" for name, version in found["ours"].items())],
            ["Theirs", ", ".join(f"{name} {version}" for name, version in found["theirs"].items()) or "not measured"],
        ],
    )


def _separate(found: Results) -> str:
    text = (
        f"A {found['song_s']} s mp3 to WAV files, a new process each time, the same random weights of the official "
        f"shapes on both sides; theirs and ours take turns, {found['rounds']} rounds, and the ratio is the median of "
        "the rounds' ratios. *First start* has no cache of compiled networks, the other lines have one.\n\n"
        "![Time and memory beside Spleeter](performance.svg)\n\n"
    )
    rows = []
    for model, one in found["models"].items():
        for kind, runs in one["runs"].items():
            ratio = one.get("ratio", {}).get(kind)
            walls = [took["wall_s"] for took in runs]
            rows.append(
                [
                    f"{model}: {NAMES[kind]}",
                    f"{median(walls):.2f} s",
                    f"{min(walls):.2f}–{max(walls):.2f} s",
                    f"{median(took['cpu_s'] for took in runs):.1f} s",
                    f"{median(took['peak_mb'] for took in runs):.0f} MB",
                    f"**{ratio['wall_s']:.1f} ×**" if ratio else "",
                    f"{ratio['peak_mb']:.1f} ×" if ratio else "",
                ]
            )
    head = ["", "wall", "range", "processors", "peak memory", "faster", "less memory"]
    text += _table(head, rows)
    if any("difference" in one for one in found["models"].values()):
        text += (
            "\nThe stems of the two programs, both as 16-bit WAV (ours with `--precision f32 --high-band model`), in "
            "steps of 16 bits; one step is rounding:\n\n"
        )
        rows = [
            [
                f"{model}: {stem}",
                f"{one['rms_stem_steps']:.0f}",
                f"{one['rms_steps']:.3f}",
                f"{one['max_steps']}",
                f"{one['share_of_equal_samples'] * 100:.1f} %",
                f"{one['n_ours'] - one['n_theirs']:+d}",
            ]
            for model, both in found["models"].items()
            for stem, one in both.get("difference", {}).items()
        ]
        text += _table(["", "RMS of the stem", "RMS difference", "largest", "equal samples", "length"], rows)
    return text


def _in_process(found: Results) -> str:
    rows = []
    for model, one in found.items():
        to_file, in_memory = median(one["to_file_s"]), median(one["in_memory_s"])
        rows.append(
            [
                model,
                f"{to_file:.2f} s",
                f"**{one['song_s'] / to_file:.0f} ×**",
                f"{in_memory:.2f} s",
                f"{one['song_s'] / in_memory:.0f} ×",
            ]
        )
    head = ["", "mp3 to WAV files", "real time", "array to arrays", "real time"]
    song_s = next(iter(found.values()))["song_s"]
    return f"One `Separator`, the {song_s:.0f} s song again and again.\n\n" + _table(head, rows)


def _memory(found: Results) -> str:
    rows = []
    for model, lengths in found.items():
        for seconds, took in lengths.items():
            wall_s = took["wall_s"]
            speed = f"{int(seconds) / wall_s:.0f} ×"
            rows.append([f"{model}, {int(seconds)} s", f"{took['peak_mb']:.0f} MB", f"{wall_s:.1f} s", speed])
    text = "The whole command on songs of growing length, each once. Spleeter keeps the whole song in memory.\n\n"
    return text + _table(["", "peak memory", "wall", "real time, start included"], rows)


def _stages(found: Results) -> str:
    text = ""
    for model, one in found.items():
        watched_s = one["watched_wall_s"]
        text += f"### {model}\n\nA new process, by phases:\n\n"
        rows = [[name, f"{wall:.3f}", f"{one['phases_cpu_s'][name]:.3f}"] for name, wall in one["phases_s"].items()]
        text += _table(["", "seconds", "of processor time"], rows)
        text += (
            f"\nA warm separation from mp3 to WAV ({watched_s:.2f} s, {one['watched_cpu_s']:.2f} s of processor time, "
            f"{one['engine']}), seconds summed over all threads:\n\n"
        )
        total = sum(one["stages_s"].values())
        rows = [
            [
                name,
                f"{value:.2f}",
                f"{value / total * 100:.0f} %",
                f"{one['stages_cpu_s'][name]:.2f}",
                str(one["calls"][name]),
            ]
            for name, value in sorted(one["stages_s"].items(), key=lambda item: -item[1])
        ]
        text += _table(["stage", "seconds", "share", "of processor time", "calls"], rows) + "\n"
    return text


def _startup(found: Results) -> str:
    rows = [[f"`{name}`", f"{value:.0f} ms"] for name, value in found["ms"].items()]
    text = f"Medians of {found['n_runs']} new processes.\n\n" + _table(["", "time"], rows)
    slow = ", ".join(f"{name} {value:.0f}" for name, value in found["imports_of_help_ms"].items())
    return text + f"\nSlowest imports of `unbraid --help`, in ms, each with what it imports: {slow}.\n"


def _install(found: Results) -> str:
    largest = ", ".join(f"{name} {value:.1f}" for name, value in found["largest_mb"].items())
    rows = [
        ["download", f"{found['download_mb']:.0f} MB in {found['n_packages']} wheels", ""],
        ["on disk, with compiled Python", f"{found['disk_mb']:.0f} MB", _megabytes(found.get("theirs_disk_mb"))],
        ["download and build", f"{found['download_s']:.0f} s", ""],
        ["install", f"{found['install_s']:.0f} s", ""],
    ]
    text = "The base install in a new environment.\n\n" + _table(["", "Unbraid", "Spleeter 2.4.2"], rows)
    return text + f"\nLargest wheels, in MB: {largest}. Our own: {found['own_wheel_mb']:.1f} MB.\n"


def _megabytes(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} MB"


def _wiener(found: Results) -> str:
    text = f"{found['seconds']} s of four stereo stems, one iteration: {found['ours_s']:.2f} s"
    if "norbert_s" in found:
        text += (
            f"; norbert 0.2.1, which Spleeter calls for `--mwf`: {found['norbert_s']:.2f} s, "
            f"**{found['ratio']:.1f} ×**; relative difference {found['relative_error']:.1e}"
        )
    return text + ".\n"


def _chart(found: Results) -> str:
    """Bars of wall time and memory, as an SVG without dependencies."""
    bars = []
    for model, one in found["models"].items():
        for kind in ("theirs", "cold", "warm"):
            runs = one["runs"].get(kind)
            if runs:
                label = f"{model} · {NAMES[kind].split(' (')[0]}"
                wall, peak = (median(took[what] for took in runs) for what in ("wall_s", "peak_mb"))
                bars.append((label, wall, peak, "#9aa5b1" if kind == "theirs" else "#0b7285"))
    most_s, most_mb = max(bar[1] for bar in bars), max(bar[2] for bar in bars)
    height = 40 + 26 * len(bars)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="860" height="{height}" fill="#ffffff"/>',
        f'<text x="230" y="20" font-weight="bold">time for a {found["song_s"]} s song</text>',
        '<text x="560" y="20" font-weight="bold">peak memory</text>',
    ]
    for i, (label, wall, peak, colour) in enumerate(bars):
        y = 34 + 26 * i
        lines.append(f'<text x="222" y="{y + 14}" text-anchor="end">{label}</text>')
        for x, share, text in ((230, wall / most_s, f"{wall:.1f} s"), (560, peak / most_mb, f"{peak:.0f} MB")):
            width = max(2, round(230 * share))
            lines.append(f'<rect x="{x}" y="{y}" width="{width}" height="18" rx="2" fill="{colour}"/>')
            lines.append(f'<text x="{x + width + 6}" y="{y + 14}">{text}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
