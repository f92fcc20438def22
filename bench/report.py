"""bench/REPORT.md and its pictures, out of the result files.

Owns: tables and drawings.  Must not know: how anything was measured.  What has no result file is left out of the pictures and
named in the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from bench.figures import table
from bench.profile import STAGES, WAITING
from bench.registry import SUITES
from bench.targets import all_targets

Row = Mapping[str, Any]
Results = Mapping[str, Mapping[str, Any]]
# One colour per target whatever the picture; REST is drawn dashed or hatched.
COLOURS = {
    "tfs-native": "#1f6feb",
    "tfs-grpcio": "#8250df",
    "grpcio-echo": "#8c959f",
    "uvicorn-constant": "#8c959f",
    "grpcio-tensorflow": "#d1242f",
    "fastapi-tensorflow": "#bf8700",
    "litserve-tensorflow": "#bc4c00",
    "tensorflow-serving": "#1a7f37",
    "bare": "#57606a",
}


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Suite name -> its result file."""
    found = {}
    for path in sorted(directory.glob("*.json")):
        found[path.stem] = json.loads(path.read_text())
    return found


def measured(results: Results, suite: str) -> list[Row]:
    return [row for row in results.get(suite, {}).get("rows", []) if "median" in row]


def write(directory: Path) -> Path:
    """Writes REPORT.md beside `directory` and pictures/ under it; returns the report's path.  Raises ValueError without results."""
    results = read(directory)
    if not results:
        raise ValueError(f"no results in {directory}: run `python -m bench all` first")
    pictures = directory.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    parts = [heading(results), figures_section(results)]
    for suite, title, draw in SECTIONS:
        rows = measured(results, suite)
        if not rows:
            continue
        parts.append(section(suite, title))
        if draw is not None:
            draw(rows, pictures / f"{suite}.png")
            parts.append(f"![{title}](pictures/{suite}.png)\n")
        parts.append(rows_table(rows))
    parts += profile_section(results, pictures)
    for suite, title in NUMBERS:
        rows = [row for row in results.get(suite, {}).get("rows", []) if "figures" in row]
        if rows:
            parts += [section(suite, title), numbers_table(rows)]
    parts.append(missing_section(results))
    path = directory.parent / "REPORT.md"
    path.write_text("\n".join(parts))
    return path


# --- text -------------------------------------------------------------------------------------------------------------------------------


def heading(results: Results) -> str:
    newest = max(results.values(), key=lambda one: str(one["when"]))
    versions = ", ".join(f"{name} {version}" for name, version in newest["versions"].items())
    settings = ", ".join(f"{name}={value}" for name, value in newest.get("settings", {}).items())
    commits = sorted({str(one["git"]) + ("+changes" if one["dirty"] else "") for one in results.values()})
    quick = any(one.get("quick") for one in results.values())
    return (
        "# Bench report\n\n"
        "Written by `python -m bench report` from `bench/results/*.json`; `make bench` measures everything again. "
        "[README.md](README.md) says what the numbers mean and how they are taken.\n\n"
        f"- Machine: {newest['cpu']}, {newest['cores']} cores shared by server and load generator, Linux {newest['kernel']}\n"
        f"- Commits: {', '.join(commits)}; last run {newest['when']}\n"
        f"- Python {newest['python']}, {versions}\n"
        + (f"- TensorFlow's settings: {settings}\n" if settings else "")
        + f"- The suites took {sum(one.get('took_s', 0) for one in results.values()):.0f} s\n"
        + ("- Some of it from a quick run: few rounds\n" if quick else "")
    )


def figures_section(results: Results) -> str:
    rows = table(results)
    met = sum(row[3] == "yes" for row in rows)
    return f"## Asked and measured\n\n{met} of {len(rows)} figures are met.\n\n" + markdown(
        ("part", "asked", "measured", "met", "command"), ((*row[:4], f"`{row[4]}`") for row in rows)
    )


def section(suite: str, title: str) -> str:
    said = " ".join((SUITES[suite].__doc__ or "").split())
    return f"## {title}\n\n{said}\n"


def numbers_table(rows: Sequence[Row]) -> str:
    """Of rows that hold plain numbers."""
    names = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    cells = (
        [
            str(row["workload"]),
            title_of(row["target"]),
            row.get("face", ""),
            *(shown(row["figures"].get(name)) for name in names),
        ]
        for row in rows
    )
    return markdown(("workload", "target", "face", *(name.replace("_", " ") for name in names)), cells)


def shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.2f}"


def rows_table(rows: Sequence[Row]) -> str:
    columns: dict[str, Callable[[Row], str]] = {
        "workload": lambda row: str(row.get("workload", "")),
        "target": lambda row: title_of(row["target"]),
        "face": lambda row: row.get("face", ""),
        "encoding": lambda row: row.get("encoding", ""),
        "generator": lambda row: row.get("generator", ""),
        "in flight": lambda row: (
            f"{row['connections']} × {row['streams']}" if "connections" in row and "rate" not in row else ""
        ),
        "asked /s": lambda row: str(row.get("rate", "")),
        **{label: value_of(key, form) for key, label, form in MEASURES},
    }
    filled = {name: cell for name, cell in columns.items() if any(cell(row) for row in rows)}
    return markdown(filled, ([cell(row) for cell in filled.values()] for row in rows))


MEASURES = (
    ("cpu_us", "CPU µs per answer", "{:.1f}"),
    ("per_s", "answers /s", "{:,.0f}"),
    ("mean_us", "mean µs", "{:,.0f}"),
    ("p50_us", "p50 µs", "{:,.0f}"),
    ("p90_us", "p90 µs", "{:,.0f}"),
    ("p99_us", "p99 µs", "{:,.0f}"),
    ("p999_us", "p99.9 µs", "{:,.0f}"),
    ("start_s", "start s", "{:.2f}"),
    ("rss_mb", "RSS MB", "{:.0f}"),
    ("peak_rss_mb", "peak RSS MB", "{:.0f}"),
    ("wrong", "wrong", "{:.0f}"),
    ("lost", "lost", "{:.0f}"),
)


def value_of(key: str, form: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row["median"].get(key, row.get("peak_rss_mb") if key == "peak_rss_mb" else None)
        return form.format(value) if value is not None else ""

    return cell


def profile_section(results: Results, pictures: Path) -> list[str]:
    """Where the time of a request goes; nothing without a result."""
    rows = results.get("profile", {}).get("rows", [])
    if not rows:
        return []
    by_workload: dict[str, dict[str, float]] = {}
    for key, value in rows[0]["figures"].items():
        workload, _, stage = key.rpartition(".")
        by_workload.setdefault(workload, {})[stage] = value
    draw_profile(by_workload, pictures / "profile.png")
    table_rows = (
        [name, *(f"{stages[stage]:.2f}" for stage in (*STAGES, "cpu"))]
        for name, stages in by_workload.items()
    )
    return [
        "## Where the time goes\n\nMicroseconds per answer, 64 calls in flight over native gRPC, from the core's marks. `queue` and `wake` "
        "are waiting; the picture leaves them out. Of a batched call the stages of the whole batch are counted, as it waits for them.\n",
        "![Where the time goes](pictures/profile.png)\n",
        markdown(("workload", *STAGES, "CPU"), table_rows),
    ]


def draw_profile(by_workload: Mapping[str, Mapping[str, float]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(9, 0.55 * len(by_workload) + 1.8))
    shown = [stage for stage in STAGES if stage not in WAITING]
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    totals = {name: sum(stages[stage] for stage in shown) for name, stages in by_workload.items()}
    labels = [f"{name}\n{totals[name]:.1f} µs" for name in by_workload]
    left = [0.0] * len(by_workload)
    for number, stage in enumerate(shown):
        shares = [100 * stages[stage] / totals[name] for name, stages in by_workload.items()]
        axes.barh(labels, shares, left=left, label=stage, color=colours[number])
        left = [one + more for one, more in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("% of the time that is not waiting")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(shown), fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    save(figure, path)


def missing_section(results: Results) -> str:
    reasons = {
        row["target"]: row["missing"] for one in results.values() for row in one["rows"] if "missing" in row
    }
    left = [name for name in SUITES if name not in results]
    lines = [f"- {title_of(name)}: {reason}" for name, reason in sorted(reasons.items())]
    lines += [f"- `python -m bench {name}` has no result file" for name in left]
    return "## Missing\n\n" + ("\n".join(lines) if lines else "Nothing.") + "\n"


def markdown(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    names = list(head)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def title_of(name: str) -> str:
    target = all_targets().get(name)
    return target.title if target is not None else {"bare": "TensorFlow alone"}.get(name, name)


# --- pictures -----------------------------------------------------------------------------------------------------------------------------


def label_of(row: Row) -> str:
    face = {"rest": "REST", "grpc": "gRPC"}.get(row.get("face", ""), "")
    content = ", tensor_content" if row.get("encoding") == "content" else ""
    title = (
        title_of(row["target"]).removesuffix(", native gRPC") if face == "REST" else title_of(row["target"])
    )
    return title + (" REST" if title == "tfs" else "") + content


def style_of(row: Row) -> dict[str, Any]:
    rest, content = row.get("face") == "rest", row.get("encoding") == "content"
    return {
        "color": COLOURS.get(row["target"], "#000000"),
        "linestyle": "--" if rest else ":" if content else "-",
        "marker": "o",
    }


def series(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each line of a picture, by its label."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(label_of(row), []).append(row)
    return found


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def finish(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    axes.grid(True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def lines(
    rows: Sequence[Row], path: Path, x: Callable[[Row], float], names: tuple[str, str, str], measure: str
) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.8))
    for label, mine in series(rows).items():
        points = sorted((x(row), row["median"][measure]) for row in mine if measure in row["median"])
        axes.loglog([one for one, _ in points], [one for _, one in points], label=label, **style_of(mine[0]))
    finish(axes, *names)
    save(figure, path)


def draw_concurrency(rows: Sequence[Row], path: Path) -> None:
    names = ("calls in flight", "right answers per second", "Throughput against concurrency, half-plus-two")
    lines(rows, path, lambda row: row["connections"] * row["streams"], names, "per_s")


def draw_payload(rows: Sequence[Row], path: Path) -> None:
    names = ("floats in the request and in the reply", "CPU µs per answer", "Cost against payload, echo")
    lines(rows, path, lambda row: float(row["workload"].removeprefix("echo")), names, "cpu_us")


def draw_batch_size(rows: Sequence[Row], path: Path) -> None:
    names = ("images in the request", "CPU µs per answer", "Cost against rows per request, MNIST")
    lines(rows, path, lambda row: float(row["workload"].rpartition("x")[2]), names, "cpu_us")


def draw_latency(rows: Sequence[Row], path: Path) -> None:
    rates = sorted({row["rate"] for row in rows})
    figure, panels = plt.subplots(1, len(rates), figsize=(4.2 * len(rates), 4.6), sharey=True, squeeze=False)
    keys = ("p50_us", "p90_us", "p99_us", "p999_us")
    for axes, rate in zip(panels[0], rates, strict=True):
        for row in (one for one in rows if one["rate"] == rate):
            axes.semilogy(
                range(4), [row["median"][key] / 1000 for key in keys], label=label_of(row), **style_of(row)
            )
        axes.set_xticks(range(4), ["p50", "p90", "p99", "p99.9"])
        finish(
            axes,
            "percentile",
            "ms since the call was due" if rate == rates[0] else "",
            f"MNIST, {rate} calls/s, open loop",
        )
    save(figure, path)


def draw_bars(rows: Sequence[Row], path: Path, group: Callable[[Row], str], names: tuple[str, str]) -> None:
    """Grouped bars of CPU per answer, on a logarithmic scale: one group per `group`, one bar per series."""
    groups = list(dict.fromkeys(group(row) for row in rows))
    bars = series(row for row in rows if "cpu_us" in row["median"])  # one that never answered has none
    width = 0.84 / len(bars)
    figure, axes = plt.subplots(figsize=(max(8.0, 1.35 * len(groups) + 3), 4.8))
    for number, (label, mine) in enumerate(bars.items()):
        places = [groups.index(group(row)) + (number - (len(bars) - 1) / 2) * width for row in mine]
        heights = [row["median"]["cpu_us"] for row in mine]
        look = style_of(mine[0])
        hatch = {"--": "///", ":": "..."}.get(look["linestyle"], "")
        axes.bar(
            places,
            heights,
            width * 0.92,
            label=label,
            color=look["color"],
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.set_xticks(range(len(groups)), groups)
    finish(axes, "", *names)
    save(figure, path)


def draw_sides(rows: Sequence[Row], path: Path) -> None:
    names = ("CPU µs per right answer (log)", "gRPC beside REST JSON, this server beside hand-written ones")
    draw_bars(rows, path, lambda row: str(row["workload"]), names)


def draw_transport(rows: Sequence[Row], path: Path) -> None:
    busy = [row for row in rows if row.get("streams", 16) == 16]
    names = ("CPU µs per right answer (log)", "gRPC, 4 connections × 16 streams")
    draw_bars(busy, path, lambda row: str(row["model"]), names)


def draw_rest(rows: Sequence[Row], path: Path) -> None:
    names = ("CPU µs per right answer (log)", "REST, 16 connections")
    draw_bars(rows, path, lambda row: str(row["model"]), names)


def draw_start(rows: Sequence[Row], path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
    labels = [title_of(row["target"]) for row in rows]
    colours = [COLOURS.get(row["target"], "#000000") for row in rows]
    for axes, measure, title in zip(
        panels, ("start_s", "rss_mb"), ("exec to ready, s", "resident memory, MB"), strict=True
    ):
        axes.barh(labels, [row["median"][measure] for row in rows], color=colours)
        axes.invert_yaxis()
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_yticklabels([])
    save(figure, path)


def draw_batch_latency(rows: Sequence[Row], path: Path) -> None:
    """One line per setting, one point per number of calls in flight."""
    settings = list(dict.fromkeys(str(row["target"]) for row in rows))
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.8), sharey=True)
    for axes, key in zip(panels, ("p50_us", "p99_us"), strict=True):
        for setting, colour in zip(settings, colours, strict=False):
            mine = [row for row in rows if row["target"] == setting]
            points = [(row["median"]["per_s"], row["median"][key] / 1000) for row in mine]
            axes.loglog(*zip(*points, strict=True), marker="o", color=colour, label=setting)
            for row, point in zip(mine, points, strict=True):
                number = row["connections"] * row["streams"]
                axes.annotate(
                    str(number), point, (4, 4), textcoords="offset points", fontsize=7, color=colour
                )
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        name = key.removesuffix("_us")
        y = "ms per call" if key == "p50_us" else ""
        finish(axes, "right answers per second", y, f"{name}, larger CNN, by calls in flight")
    save(figure, path)


SECTIONS: tuple[tuple[str, str, Callable[[Sequence[Row], Path], None] | None], ...] = (
    ("transport", "gRPC", draw_transport),
    ("rest", "REST", draw_rest),
    ("sides", "gRPC and REST side by side", draw_sides),
    ("concurrency", "Throughput against concurrency", draw_concurrency),
    ("latency", "Latency under open-loop load", draw_latency),
    ("payload", "Payload size", draw_payload),
    ("batch_size", "Rows per request", draw_batch_size),
    ("start", "Start-up and memory", draw_start),
    ("batching", "Batching", None),
    ("batch_latency", "Batching: throughput against latency", draw_batch_latency),
    ("perf_analyzer", "Another load generator", None),
)
# Suites whose rows are plain numbers.
NUMBERS = (
    ("swap", "Version swaps"),
    ("many_models", "Many models"),
    ("reload_memory", "Memory over reloads"),
    ("soak", "Memory over many calls"),
)
