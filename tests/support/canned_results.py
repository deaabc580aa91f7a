"""Results of a benchmark that nobody has run: every part with figures that are easy to reckon with."""

from collections import Counter

from results import Figures, Part, Point, Results, Series

WAYS = ("kernel", "kracauer", "haproxy", "kracauer-fast-path")
MACHINE = {"system": "Linux 6.1, x86_64", "Kracauer": "0.1.0", "HAProxy": "2.6.12-1"}


def series(point: Point, way: str, *rounds: Figures | None, **failures: int) -> Series:
    return Series(point, way, list(rounds), Counter(failures))


def calls(per_second: float, median_us: float) -> Figures:
    figures = {"per_second": per_second, "median_us": median_us, "p90_us": median_us * 2, "p99_us": median_us * 3}
    return figures | {"daemon_us": 10.0, "machine_us": 100.0}


def part(name: str, *found: Series, **left_out: str) -> Part:
    return Part(name, list(found), left_out, "2026-01-02", "0123456789", 1.5, 3, 12.3, 0.04, 0.001)


def openings(name: str, *at_once: int) -> Part:
    """The kernel answers in 100, 120 and 80 µs; Kracauer takes 1.5, 2 and 2.5 times as long in the same rounds."""
    found = []
    for number in at_once:
        point: Point = {"at once": number}
        found += [
            series(point, "kernel", calls(1000, 100), calls(900, 120), calls(1100, 80)),
            series(point, "kracauer", calls(400, 150), calls(500, 240), calls(600, 200)),
            series(point, "haproxy", calls(800, 120), calls(1000, 130), calls(1200, 110)),
            series(point, "kracauer-fast-path", calls(800, 110), calls(900, 132), calls(1000, 120)),
        ]
    return part(name, *found)


def bulk(name: str, offloads: str, mtu: int) -> Part:
    found = []
    for flows in (1, 8):
        for direction in ("download", "upload"):
            point: Point = {"offloads": offloads, "mtu": mtu, "flows": flows, "direction": direction}
            for way, rate in zip(WAYS, (10.0, 5.0, 4.0, 10.0), strict=True):
                figures = {"gbit_per_s": rate * flows, "machine_us": 1e6 / rate, "daemon_us": 5e5 / rate}
                found.append(series(point, way, figures))
    return part(name, *found, tayga="TAYGA is not installed: apt install tayga")


def all_parts() -> Results:
    trips = [series({}, way, calls(10_000, 20.0 + 30 * number)) for number, way in enumerate(WAYS)]
    memory = [
        series(
            {"connections": 100}, way, {"daemon_bytes": 500.0 * at, "kernel_bytes": 8000.0 + 9000 * at, "router_sockets": at}
        )
        for at, way in enumerate(WAYS)
    ]
    crowds = [
        series(
            {"flows": flows},
            "kracauer",
            {
                "packet_us": 10.0 + at,
                "open_per_second": 3000.0 - at,
                "ping_median_us": 40.0 + at,
                "daemon_bytes": 3e7 + 1000.0 * flows,
            },
        )
        for at, flows in enumerate((1, 1000, 100_000))
    ]
    growth = [
        series({"flows": flows}, "engine", {"bytes_per_flow": 900.0, "us_any_flow": any_us, "us_one_flow": one_us})
        for flows, any_us, one_us in ((1, 3.0, 2.0), (1000, 2.1, 2.0), (100_000, 3.2, 2.1))
    ]
    names = [
        series({"names": size, "kind": kind}, way, {figure: 100.0 + at})
        for kind in ("exact", "wildcard")
        for way, figure in (("engine", "lookup_us"), ("kracauer", "median_us"))
        for at, size in enumerate((1, 10_000))
    ]
    paths = [series({"path": path}, "engine", {"us": 2.0, "per_second": 5e5}) for path in ("a segment", "a SYN")]
    parts = (
        bulk("bulk", "on", 1500),
        bulk("bulk-links", "off", 1500),
        openings("connections", 1, 32),
        openings("tls", 1),
        part("round-trips", *trips),
        part("memory", *memory),
        part("flows", *crowds),
        part("growth", *growth),
        part("names", *names),
        part("engine", *paths),
    )
    return Results(dict(MACHINE), {each.name: each for each in parts})
