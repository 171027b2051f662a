"""Write docs/performance.md and docs/performance.svg from the measurements."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from bench import report_demucs
from bench.measure import median
from bench.tables import BF16_FLAGS, Results, kept_sections, table

__all__ = ["write_report"]

NAMES = {
    "theirs": "Spleeter 2.4.2",
    "cold": "Unbraid, first start (nothing cached)",
    "warm": "Unbraid",
    "warm f32": "Unbraid, `--precision f32`",
}


TITLE = (
    "# Performance\n\nWritten by `python -m bench`; do not edit by hand. Figures are medians, times are of the "
    "wall clock, 1 MB is 10⁶ bytes.\n"
)


def write_report(results: Path, docs: Path, commands: list[str]) -> Path:
    """Write the report from what was measured; of what was not, and of what others measured, sections stay."""
    found = {path.stem: json.loads(path.read_text()) for path in results.glob("*.json")}
    path = docs / "performance.md"
    kept = kept_sections(path.read_text(encoding="utf-8") if path.exists() else TITLE)
    header = _header(found.get("machine"), kept[""])
    last = "The commands"
    others = [f"## {name}\n\n{kept[name].strip(chr(10))}\n\n" for name in kept if name not in {"", last, *SECTIONS}]
    end = f"## {last}\n\n```\n" + "\n".join(commands) + "\n```\n"
    parts = [header, *_sections(found, kept, header), *others, end]
    if "separate" in found:
        (docs / "performance.svg").write_text(_chart(found["separate"]), encoding="utf-8")
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _header(found: Results | None, kept: str) -> str:
    if not found:
        return kept.strip("\n") + "\n"
    return TITLE + "\n" + _machine(found)


def _sections(found: dict[str, Results], kept: dict[str, str], header: str) -> list[str]:
    """All sections: from what was measured, else as they were, with the machine if it was another one."""
    parts = []
    for title, (step, write) in SECTIONS.items():
        body = write(found[step]) if step in found else kept.get(title) or "Not measured."
        if step not in found and title in kept and header.strip() != kept[""].strip():
            body = _earlier(body, kept[""])
        parts.append(f"## {title}\n\n{body.strip(chr(10))}\n\n")
    return parts


def _earlier(body: str, header: str) -> str:
    """A section of another run, which says so unless it does already."""
    rows = dict(re.findall(r"^\| (Date, commit|Processor) \| (.*) \|$", header, flags=re.MULTILINE))
    if body == "Not measured." or re.search(r"^\*Measured ", body, flags=re.MULTILINE) or not rows:
        return body
    return f"{body}\n\n*Measured earlier: {'; '.join(rows.values())}.*"


def _machine(found: Results) -> str:
    flags = ", ".join(found["flags"]) or "no AVX2"
    bf16 = "" if BF16_FLAGS & set(found["flags"]) else " (no bfloat16 instructions: everything is float32)"
    return table(
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
    text += table(head, rows)
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
                f"{one['max_steps']:.0f}",
                f"{one['share_of_equal_samples'] * 100:.1f} %",
                f"{one['n_ours'] - one['n_theirs']:+d}",
            ]
            for model, both in found["models"].items()
            for stem, one in both.get("difference", {}).items()
        ]
        text += table(["", "RMS of the stem", "RMS difference", "largest", "equal samples", "length"], rows)
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
    return f"One `Separator`, the {song_s:.0f} s song again and again.\n\n" + table(head, rows)


def _memory(found: Results) -> str:
    rows = []
    for model, lengths in found.items():
        for seconds, took in lengths.items():
            wall_s = took["wall_s"]
            speed = f"{int(seconds) / wall_s:.0f} ×"
            rows.append([f"{model}, {int(seconds)} s", f"{took['peak_mb']:.0f} MB", f"{wall_s:.1f} s", speed])
    text = "The whole command on songs of growing length, each once. Spleeter keeps the whole song in memory.\n\n"
    return text + table(["", "peak memory", "wall", "real time, start included"], rows)


def _builtin(found: Results) -> str:
    rows = []
    for precision, lengths in found.items():
        for seconds, runs in lengths.items():
            wall_s = median(took["wall_s"] for took in runs)
            peak_mb = max(took["peak_mb"] for took in runs)
            speed = f"{int(seconds) / wall_s:.0f} ×"
            rows.append([f"{precision}, {int(seconds)} s", f"{peak_mb:.0f} MB", f"{wall_s:.1f} s", speed])
    text = (
        "`unbraid separate -m unbraid:4stems --precision P song.mp3`; bfloat16 is the default where the processor has "
        "it. Greatest peaks, median times.\n\n"
    )
    return text + table(["", "peak memory", "wall", "real time, start included"], rows)


def _stages(found: Results) -> str:
    text = ""
    for model, one in found.items():
        watched_s = one["watched_wall_s"]
        text += f"### {model}\n\nA new process, by phases:\n\n"
        rows = [[name, f"{wall:.3f}", f"{one['phases_cpu_s'][name]:.3f}"] for name, wall in one["phases_s"].items()]
        text += table(["", "seconds", "of processor time"], rows)
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
        text += table(["stage", "seconds", "share", "of processor time", "calls"], rows) + "\n"
    return text


def _startup(found: Results) -> str:
    rows = [[f"`{name}`", f"{value:.0f} ms"] for name, value in found["ms"].items()]
    text = f"Medians of {found['n_runs']} new processes.\n\n" + table(["", "time"], rows)
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
    text = "The base install in a new environment.\n\n" + table(["", "Unbraid", "Spleeter 2.4.2"], rows)
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


# The steps that they are written from. Those beside Demucs say themselves what they were measured on.
SECTIONS: dict[str, tuple[str, Callable[[Results], str]]] = {
    "Whole command, beside Spleeter": ("separate", _separate),
    "Whole command, beside Demucs": ("demucs", report_demucs.whole_command),
    "Two stems of a bag": ("two-stems", report_demucs.two_stems),
    "One core, beside the HT Demucs paper": ("rtf", report_demucs.one_core),
    "Within a process": ("stages", _in_process),
    "The built-in model": ("builtin", _builtin),
    "Peak memory against duration": ("memory", _memory),
    "Peak memory against duration, HT Demucs": ("demucs-memory", report_demucs.memory),
    "Where the time goes": ("stages", _stages),
    "Start-up": ("startup", _startup),
    "Install size": ("install", _install),
    "Wiener filter": ("wiener", _wiener),
}
