"""Pictures of what was measured (SVG, matplotlib): the same figures make the same files."""

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from naming import ENGINE, EXACT, KINDS, WILDCARDS
from results import EVERYWHERE, Part, Results, Series, Spread, Where
from stage import KERNEL, KRACAUER, KRACAUER_FAST, KRACAUER_FAST_WORKERS, KRACAUER_LOGGING, KRACAUER_WORKERS, LABELS

REMEDY: Final = "pictures are left out: they need matplotlib, pip install '.[bench]'"
COLOURS: Final = {
    KRACAUER_FAST: "#7f1d1d",
    KRACAUER_FAST_WORKERS: "#be123c",
    KRACAUER: "#c2410c",
    KRACAUER_WORKERS: "#f97316",
    KRACAUER_LOGGING: "#fb923c",
    KERNEL: "#404040",
    "haproxy": "#1d4ed8",
    "nginx": "#15803d",
    "sniproxy": "#7e22ce",
    "tayga": "#a16207",
}
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kracauer",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # each text names all that are listed
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
}


def is_possible() -> bool:
    """Tell whether there is matplotlib."""
    return importlib.util.find_spec("matplotlib") is not None  # an extra: all else goes without it


def draw(results: Results, directory: Path) -> list[str]:
    """Write a picture of each part that can be shown in one, take those of other parts away; returns the files' names."""
    drawn = []
    for name, plot in PLOTS.items():
        path = directory / f"{name}.svg"
        if name in results.parts and results.parts[name].series and is_possible():
            _save(results.parts[name], plot, path)
            drawn.append(path.name)
        else:
            path.unlink(missing_ok=True)
    return drawn


def _save(part: Part, plot: Callable[[Part, Any], None], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        plot(part, figure)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    path.write_text(_shorten(path.read_text(encoding="utf-8")), encoding="utf-8")


def _shorten(svg: str) -> str:
    """Return the same picture in half as many bytes: hundredths of a point are enough, and nobody reads the indent."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    rounded = re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), svg)
    return "\n".join(line.strip() for line in rounded.splitlines() if line.strip()) + "\n"


def _colour(way: str) -> str:
    return COLOURS.get(way, "#737373")


def _label(way: str) -> str:
    return LABELS.get(way, way)


def _errors(spreads: Sequence[Spread]) -> list[list[float]]:
    """How far the rounds lay below and above, as errorbar(3) of matplotlib wants it."""
    return [[spread.median - spread.least for spread in spreads], [spread.most - spread.median for spread in spreads]]


def _line(axes: Any, series: Sequence[Series], key: str, figure: str, **look: Any) -> None:
    points = [(each.point[key], each.spread(figure)) for each in series]
    known = [(at, spread) for at, spread in points if spread is not None]
    if known:
        spreads = [spread for _, spread in known]
        medians = [spread.median for spread in spreads]
        axes.errorbar([at for at, _ in known], medians, _errors(spreads), marker="o", markersize=3, **look)


def _spread_out(axes: Any, values: Sequence[int | str]) -> None:
    """Make room for numbers of very different sizes, each of which is named."""
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=7)


def _bars(axes: Any, part: Part, ways: Sequence[str], figure: str, where: Where = EVERYWHERE) -> None:
    """One horizontal bar for each way, the first on top."""
    shown = [(way, series.spread(figure)) for way in ways if (series := part.find(way, where)) is not None]
    known = [(way, spread) for way, spread in shown if spread is not None]
    spreads = [spread for _, spread in known]
    axes.barh(
        [_label(way) for way, _ in known],
        [spread.median for spread in spreads],
        xerr=_errors(spreads),
        color=[_colour(way) for way, _ in known],
        error_kw={"elinewidth": 0.8},
    )
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def bulk(part: Part, figure: Any) -> None:
    """The rate in each case: rows for kinds of links, columns for flows and directions."""
    links = [(offloads, mtu) for offloads in part.points("offloads") for mtu in part.points("mtu", {"offloads": offloads})]
    cases = [(flows, direction) for flows in part.points("flows") for direction in part.points("direction")]
    figure.set_size_inches(10, 0.4 + 1.8 * len(links))
    grid = figure.subplots(len(links), len(cases), squeeze=False, sharex="row")
    for row, (offloads, mtu) in zip(grid, links, strict=True):
        for axes, (flows, direction) in zip(row, cases, strict=True):
            where = {"offloads": offloads, "mtu": mtu, "flows": flows, "direction": direction}
            _bars(axes, part, part.ways(), "gbit_per_s", where)
            axes.set_title(f"{direction}, {'one flow' if flows == 1 else f'{flows} flows'}", fontsize=8)
            if axes is not row[0]:
                axes.set_yticklabels([])
        row[0].set_ylabel(f"offloads {offloads}\nMTU {mtu}")
    figure.supxlabel("Gbit/s", fontsize=9)


def openings(part: Part, figure: Any) -> None:
    """Rate and latency by the number at once, and the processor time of a connection."""
    figure.set_size_inches(10, 3.6)
    rate, latency, work = figure.subplots(1, 3)
    for way in part.ways():
        series, look = list(part.select(way)), {"color": _colour(way), "label": _label(way)}
        _line(rate, series, "at once", "per_second", **look)
        _line(latency, series, "at once", "median_us", **look)
        _line(work, series, "at once", "machine_us", **look)
    for axes, title in ((rate, "connections a second"), (latency, "median latency, µs"), (work, "machine's µs each")):
        _spread_out(axes, part.points("at once"))
        axes.set_xlabel("at once")
        axes.set_title(title)
    rate.set_ylim(bottom=0)
    latency.set_yscale("log")
    latency.minorticks_off()
    latency.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    work.set_ylim(bottom=0)
    figure.legend(*rate.get_legend_handles_labels(), loc="outside lower center", ncols=len(part.ways()), fontsize=7)


def round_trips(part: Part, figure: Any) -> None:
    """The median and the work of a byte there and back."""
    figure.set_size_inches(8, 2.2)
    median, work = figure.subplots(1, 2)
    for axes, name, title in ((median, "median_us", "median, µs"), (work, "machine_us", "machine's µs each")):
        _bars(axes, part, part.ways(), name)
        axes.set_title(title)
    work.set_yticklabels([])


def memory(part: Part, figure: Any) -> None:
    """Bytes for a connection, the kernel's behind the processes'."""
    figure.set_size_inches(7, 2.2)
    axes = figure.subplots()
    kernel = part.find(KERNEL)
    ways = [way for way in part.ways() if way != KERNEL]
    own, more = [], []
    for way in ways:
        series = part.find(way)
        spread = series.spread("daemon_bytes") if series is not None else None
        extra = series.differences(kernel, "kernel_bytes") if series is not None and kernel is not None else None
        own.append(max(spread.median, 0) if spread else 0)
        more.append(max(extra.median, 0) if extra else 0)
    labels = [_label(way) for way in ways]
    axes.barh(labels, own, color=[_colour(way) for way in ways], label="processes")
    axes.barh(labels, more, left=own, color="#d4d4d4", label="kernel, beyond the two ends' own")
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("bytes for an idle connection")
    axes.legend(fontsize=7)


def flows(part: Part, figure: Any) -> None:
    """Each figure by the number of idle connections."""
    figure.set_size_inches(10, 3)
    panels = (
        ("packet_us", "scattered packet, own µs"),
        ("ping_median_us", "there and back, µs"),
        ("open_per_second", "new connections a second"),
    )
    for axes, (name, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        _line(axes, list(part.select()), "flows", name, color=_colour(KRACAUER))
        _spread_out(axes, part.points("flows"))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("idle connections")
        axes.set_title(title)


def growth(part: Part, figure: Any) -> None:
    """Time for a packet in the engine by the number of connections."""
    figure.set_size_inches(5, 3)
    axes = figure.subplots()
    _line(axes, list(part.select()), "flows", "us_any_flow", color=_colour(KRACAUER), label="of any connection")
    _line(axes, list(part.select()), "flows", "us_one_flow", color=_colour(KRACAUER_LOGGING), label="of always the same")
    _spread_out(axes, part.points("flows"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_title("µs a packet in the engine")
    axes.legend(fontsize=7)


def names(part: Part, figure: Any) -> None:
    """The look-up, and the latency of a connection, by the number of names."""
    figure.set_size_inches(10, 3.2)
    lookup, latency = figure.subplots(1, 2)
    for kind, style in ((EXACT, "-"), (WILDCARDS, "--")):
        _line(
            lookup,
            list(part.select(ENGINE, {"kind": kind})),
            "names",
            "lookup_us",
            color=_colour(KRACAUER),
            ls=style,
            label=kind,
        )
    for kind in KINDS:
        for way in part.ways({"kind": kind}):
            if way != ENGINE:
                look = {"color": _colour(way), "ls": "-" if kind == EXACT else "--", "label": f"{_label(way)}, {kind}"}
                _line(latency, list(part.select(way, {"kind": kind})), "names", "median_us", **look)
    for axes, title in ((lookup, "look-up alone, µs"), (latency, "set-up of a connection, median µs")):
        _spread_out(axes, part.points("names"))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("names")
        axes.set_title(title)
    lookup.legend(fontsize=7)
    handles, labels = latency.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=7)


def engine(part: Part, figure: Any) -> None:
    """One bar for each path."""
    paths = [(str(series.point["path"]), spread) for series in part.select() if (spread := series.spread("us")) is not None]
    figure.set_size_inches(7, 0.6 + 0.2 * len(paths))
    axes = figure.subplots()
    axes.barh([path for path, _ in paths], [spread.median for _, spread in paths], color=_colour(KRACAUER))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("µs")


PLOTS: Final[dict[str, Callable[[Part, Any], None]]] = {
    "bulk": bulk,
    "bulk-links": bulk,
    "connections": openings,
    "tls": openings,
    "round-trips": round_trips,
    "memory": memory,
    "flows": flows,
    "growth": growth,
    "names": names,
    "engine": engine,
}
