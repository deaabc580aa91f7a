"""Tables of what was measured, in Markdown: medians, with the least and the most of the rounds where there were several."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from bars import BARS
from naming import ENGINE, KINDS
from results import EVERYWHERE, Part, Results, Series, Spread, Where
from stage import KERNEL, LABELS

NONE: Final = "–"
MINUS: Final = "−"


def number(value: float) -> str:
    """Return three digits of a number, or all of a greater one's."""
    size = abs(value)
    digits = 0 if size >= 100 or not size else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:,.{digits}f}".replace("-", MINUS)


def ratio(value: float) -> str:
    """Return a ratio."""
    return f"{value:.2f}"


def show(spread: Spread | None, render: Callable[[float], str] = number, scale: float = 1.0) -> str:
    """Return the median, and what the rounds lay between."""
    if spread is None:
        return NONE
    median, least, most = (render(value * scale) for value in (spread.median, spread.least, spread.most))
    return median if least == most else f"{median} ({least} to {most})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are figures."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def label(way: str) -> str:
    """Return how a way is called where people read it."""
    return LABELS.get(way, way)


def _against(part: Part, series: Series, other: str, figure: str) -> str:
    reference = part.find(other, series.point)
    return show(series.ratios(reference, figure), ratio) if reference is not None else NONE


def _failures(series: Series) -> str:
    return ", ".join(f"{count} × {what}" for what, count in series.failures.items())


def _rows(part: Part, columns: Callable[[Series], Sequence[str]], where: Where = EVERYWHERE) -> Iterator[list[str]]:
    for series in part.select(where=where):
        failures = _failures(series)
        yield [label(series.way) + (f" (failed: {failures})" if failures else ""), *columns(series)]


def bars(results: Results) -> str:
    """Each bar with its figure."""
    rows = []
    for bar in BARS:
        figure = bar.measure(results)
        met = NONE if figure is None else "yes" if bar.is_met(figure) else "**no**"
        shown = show(figure, lambda value: f"{value:.{0 if abs(value) >= 10 else 2}f}".replace("-", MINUS))
        rows.append((bar.title, bar.wanted, shown + (bar.unit if figure else ""), met))
    return table(("what", "asked", "measured", "met"), rows)


def machine(results: Results) -> str:
    """The machine and the versions."""
    return table(("", ""), results.machine.items()).replace("---:", "---")


def runs(results: Results) -> str:
    """When each part was measured, on what, and how quiet the machine was."""
    head = ("part", "measured", "commit", "rounds", "seconds each", "took", "busy before", "taken by the host")
    rows = (
        (
            part.name,
            part.measured,
            part.commit or NONE,
            str(part.rounds),
            f"{part.seconds:g}",
            f"{part.took_s:.0f} s",
            f"{part.busy:.0%}",
            f"{part.stolen:.1%}",
        )
        for part in results.parts.values()
    )
    return table(head, rows)


def left_out(results: Results) -> str | None:
    """What is missing, and why; None where nothing is."""
    lines = [f"- {part.name}, {key}: {why}" for part in results.parts.values() for key, why in part.left_out.items()]
    return "\n".join(lines) or None


def bulk(part: Part) -> str:
    """A table for each kind of link, and number of flows."""
    found = []
    for offloads in part.points("offloads"):
        for mtu in part.points("mtu", {"offloads": offloads}):
            for flows in part.points("flows", {"offloads": offloads, "mtu": mtu}):
                where = {"offloads": offloads, "mtu": mtu, "flows": flows}
                count = "one flow" if flows == 1 else f"{flows} flows at once"
                found.append(f"### Offloads {offloads}, MTU {mtu}, {count}\n\n{_bulk_table(part, where)}")
    return "\n\n".join(found)


def _bulk_table(part: Part, where: Where) -> str:
    head = ("way", "Gbit/s", "share of the kernel's", "own ms a Gbit", "machine's ms a Gbit")
    rows = []
    for direction in part.points("direction", where):
        for row in _rows(
            part,
            lambda series: (
                show(series.spread("gbit_per_s")),
                _against(part, series, KERNEL, "gbit_per_s"),
                show(series.spread("daemon_us"), scale=1e-3),
                show(series.spread("machine_us"), scale=1e-3),
            ),
            {**where, "direction": direction},
        ):
            rows.append([f"{direction}: {row[0]}", *row[1:]])
    return table(head, rows)


def openings(part: Part) -> str:
    """A table for each number of connections at once."""
    found = []
    for at_once in part.points("at once"):
        head = (
            "way",
            "a second",
            "share of the kernel's",
            "share of HAProxy's",
            "median µs",
            "times the kernel's",
            "99 % within µs",
            "own µs each",
            "machine's µs each",
        )
        rows = _rows(
            part,
            lambda series: (
                show(series.spread("per_second")),
                _against(part, series, KERNEL, "per_second"),
                _against(part, series, "haproxy", "per_second"),
                show(series.spread("median_us")),
                _against(part, series, KERNEL, "median_us"),
                show(series.spread("p99_us")),
                show(series.spread("daemon_us")),
                show(series.spread("machine_us")),
            ),
            {"at once": at_once},
        )
        title = "One at a time" if at_once == 1 else f"{at_once} at once"
        found.append(f"### {title}\n\n{table(head, rows)}")
    return "\n\n".join(found)


def round_trips(part: Part) -> str:
    """One table."""
    kernel = part.find(KERNEL)
    head = ("way", "median µs", "added to the kernel's", "99 % within µs", "own µs each", "machine's µs each")
    rows = _rows(
        part,
        lambda series: (
            show(series.spread("median_us")),
            show(series.differences(kernel, "median_us")) if kernel is not None else NONE,
            show(series.spread("p99_us")),
            show(series.spread("daemon_us")),
            show(series.spread("machine_us")),
        ),
    )
    return table(head, rows)


def memory(part: Part) -> str:
    """One table; the kernel's memory is what there is more than with forwarding, where only the two ends have sockets."""
    kernel = part.find(KERNEL)
    head = ("way", "bytes of its processes", "bytes more of the kernel's", "sockets in the router")
    rows = _rows(
        part,
        lambda series: (
            show(series.spread("daemon_bytes")) if series.way != KERNEL else NONE,
            show(series.differences(kernel, "kernel_bytes")) if kernel is not None and series.way != KERNEL else NONE,
            show(series.spread("router_sockets")),
        ),
    )
    return table(head, rows)


def flows(part: Part) -> str:
    """One table, with ratios to the first row."""
    first = next(part.select(), None)
    head = (
        "idle connections",
        "packet, own µs",
        "ratio",
        "new a second",
        "ratio",
        "there and back, µs",
        "ratio",
        "bytes of the process for each",
    )
    rows = []
    for series in part.select():
        columns = []
        for figure in ("packet_us", "open_per_second", "ping_median_us"):
            columns += [show(series.spread(figure)), show(series.ratios(first, figure) if first is not None else None, ratio)]
        rows.append(
            [
                f"{series.point['flows']:,}{' (failed: ' + _failures(series) + ')' if series.failures else ''}",
                *columns,
                _bytes_each(first, series),
            ]
        )
    return table(head, rows)


def _bytes_each(first: Series | None, series: Series) -> str:
    more = int(series.point["flows"]) - (int(first.point["flows"]) if first is not None else 0)
    if first is None or more < 1000:  # what a process has grown by otherwise is more than that
        return NONE
    return show(series.differences(first, "daemon_bytes"), scale=1 / more)


def growth(part: Part) -> str:
    """One table of the engine's own."""
    head = ("connections", "bytes for each", "packet of any, µs", "packet of always the same, µs")
    rows = (
        (
            f"{series.point['flows']:,}",
            show(series.spread("bytes_per_flow")) if int(series.point["flows"]) >= 1000 else NONE,
            show(series.spread("us_any_flow")),
            show(series.spread("us_one_flow")),
        )
        for series in part.select()
    )
    return table(head, rows)


def names(part: Part) -> str:
    """Two tables: the look-up, and a connection."""
    sizes = part.points("names")
    head = ("", *(f"{size:,}" for size in sizes))
    rows = []
    for kind in KINDS:
        found = {series.point["names"]: series for series in part.select(ENGINE, {"kind": kind})}
        rows.append([f"{kind} names", *(show(found[size].spread("lookup_us")) if size in found else NONE for size in sizes)])
    lookups = table(("look-up alone, µs", *head[1:]), rows)
    rows = []
    for kind in KINDS:
        for way in part.ways({"kind": kind}):
            found = {series.point["names"]: series for series in part.select(way, {"kind": kind})}
            if way != ENGINE:
                cells = [show(found[size].spread("median_us")) if size in found else NONE for size in sizes]
                rows.append([f"{label(way)}, {kind}", *cells])
    return f"{lookups}\n\n{table(('set-up of a connection, median µs', *head[1:]), rows)}"


def engine(part: Part) -> str:
    """One table of the engine's paths."""
    head = ("path", "µs a packet", "a second")
    rows = (
        (str(series.point["path"]), show(series.spread("us")), show(series.spread("per_second"))) for series in part.select()
    )
    return table(head, rows)


TABLES: Final[dict[str, Callable[[Part], str]]] = {
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
