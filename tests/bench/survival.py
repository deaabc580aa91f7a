"""What clients see of a kill, a stop and a reload: the longest pause on each of many connections; and what adoption takes.

    python tests/bench/survival.py --connections 200 --flows 1000 10000 60000

Each connection downloads in small pieces all the time. Prints the distribution of the longest pause that each has seen, next to
that of the same load with nothing done, and then for each number of flows how long a daemon takes until it has adopted them
and until it serves.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Network
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from kracauer.config import parse_config
from kracauer.daemon.flow_file import open_flow_file
from kracauer.daemon.offloading import Offload
from kracauer.daemon.runtime import boot_id
from kracauer.engine import Engine
from kracauer.lab import configuration, endurance, privileges
from kracauer.lab.endurance import Outcome, Pace
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, PREFIX, SERVICE, Lab
from kracauer.logs import configure
from kracauer.offload import bpf
from kracauer.offload.layout import CARRIED
from kracauer.offload.pins import Pins
from kracauer.replies import Endpoints, build_segment
from kracauer.wire import tcp, vnet_hdr
from kracauer.wire.buffer import Frame
from kracauer.wire.tcp import TcpOptions

NAMES: Final = ("www.example.com", "shop.example.net")
HOSTS: Final = dict(zip(NAMES, (ORIGIN_1, ORIGIN_2), strict=True))
PACE: Final = Pace(length=20_000, rate=10_000, pieces=10)
CLIENTS: Final = 250
HELLO: Final = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
SYN_OPTIONS: Final = tcp.build_options(TcpOptions(mss=1460, window_scale=7, sack_permitted=True))
SETTLE_S: Final = 1.0


def render(*, is_offloaded: bool) -> str:
    """Return a configuration with the kernel's fast path or without."""
    network = {"offload": "require" if is_offloaded else "off"}
    return configuration.render(HOSTS, limits={"flows": 1_000_000}, network=network)


WAYS: Final = {"through the process": render(is_offloaded=False), "in the kernel": render(is_offloaded=True)}


def kill(lab: Lab, config: str) -> None:
    """Kill the daemon, and start the next one at once."""
    assert lab.daemon is not None
    lab.daemon.kill()
    lab.start_daemon(config)


def stop(lab: Lab, config: str) -> None:
    """Stop the daemon, and start the next one when it has ended."""
    assert lab.daemon is not None
    lab.daemon.stop()
    lab.start_daemon(config)


def reload(lab: Lab, _config: str) -> None:
    """Have the daemon read its configuration anew."""
    assert lab.daemon is not None
    lab.daemon.send_signal(signal.SIGHUP)
    lab.daemon.wait_for('"reloaded"')


def leave(_lab: Lab, _config: str) -> None:
    """Do nothing."""


ACTS: Final[Mapping[str, Callable[[Lab, str], None]]] = {
    "nothing": leave,
    "reload": reload,
    "SIGTERM, start": stop,
    "SIGKILL, start": kill,
}


def measure(lab: Lab, act: Callable[[Lab, str], None], config: str, connections: int) -> tuple[Outcome, float]:
    """Do it under load; returns what became of the connections, and how long it took."""
    process = endurance.launch(lab, NAMES, connections, pace=PACE)
    time.sleep(SETTLE_S)
    began = time.monotonic()
    act(lab, config)
    took_s = time.monotonic() - began
    time.sleep(SETTLE_S)
    return endurance.outcome(process), took_s


def render_pauses(rows: Sequence[tuple[str, Outcome, float]]) -> str:
    """Return the pauses as a table, in milliseconds."""
    lines = [f"{'done':<16}{'took':>8}{'median':>8}{'90 %':>8}{'99 %':>8}{'longest':>8}{'lost':>6}"]
    for name, outcome, took_s in rows:
        figures = (took_s, *(outcome.pause(share) for share in (0.5, 0.9, 0.99, 1)))
        lines.append(f"{name:<16}{''.join(f'{figure * 1e3:>8.0f}' for figure in figures)}{outcome.failures.total():>6}")
    return "\n".join(lines)


def write_flows(path: Path, count: int, *, is_offloaded: bool) -> None:
    """Leave a flow file as a daemon does that had so many connections, and a program that has carried a packet of each."""
    path.unlink(missing_ok=True)
    log = configure("error", "json")
    file = open_flow_file(path, prefix=IPv6Network(PREFIX), boot_id=boot_id(), log=log)
    config = parse_config(render(is_offloaded=is_offloaded))
    offload = Offload(config, config.network.device, log)
    offload.open(file.records)
    engine = Engine(config, secret=bytes(16), now=time.monotonic(), records=file.records, fast_path=offload.path)
    offload.attach(file.records)
    frame = Frame()

    def send(packet: bytes) -> list[bytes]:
        frame.load(packet[vnet_hdr.LENGTH :], packet[: vnet_hdr.LENGTH])
        return [bytes(out) for out in engine.receive(frame, time.monotonic())]

    service = bytes(int(part) for part in SERVICE.split("."))
    backend, prefix = (bytes.fromhex(text) for text in ("20010db8000100000000000000000002", "20010db80046000000000000"))
    for number in range(count):
        port, client = divmod(number, CLIENTS)
        up = Endpoints(bytes((192, 0, 2, 2 + client)), service, 1024 + port, 80)
        down = Endpoints(backend, prefix + up.src, 80, up.src_port)
        (answer,) = send(build_segment(up, seq=999, ack=0, flags=tcp.SYN, window=64240, options=SYN_OPTIONS))
        ack = tcp.parse(answer, 30).seq + 1 & 0xFFFFFFFF
        send(build_segment(up, seq=1000, ack=ack, flags=tcp.ACK | tcp.PSH, window=502, payload=HELLO))
        send(build_segment(down, seq=number, ack=1000, flags=tcp.SYN | tcp.ACK, window=64800, options=SYN_OPTIONS))
        while engine.next_event() is not None:
            pass
    assert file.records.unkept == 0
    if is_offloaded:
        carry_one_packet_each(config.network.device, count)
    offload.keep()
    file.close()


def carry_one_packet_each(device: str, count: int) -> None:
    """Have the pinned maps say that a packet went either way in each of so many flows."""
    (pin,) = [name for name in Pins(device).names() if name.endswith("traffic")]
    traffic = bpf.Map.from_descriptor(bpf.open_pin(Pins(device).directory / pin)).map_memory()
    one = CARRIED.pack(1, 100, time.monotonic_ns(), 1, 0, 0, 0, 0)
    traffic[: len(one) * 2 * count] = one * 2 * count


def adopt(lab: Lab, count: int, *, is_offloaded: bool) -> str:
    """Start a daemon on so many flows, and return the row about it."""
    assert lab.daemon is not None
    lab.daemon.stop()
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import survival; from pathlib import Path; "
    path = lab.directory / "run" / "kracauer0.flows"
    script += f"survival.write_flows(Path({str(path)!r}), {count}, is_offloaded={is_offloaded})"
    result = lab.router.run([sys.executable, "-c", script], timeout_s=600)
    assert result.returncode == 0, result
    began = time.monotonic()
    lab.start_daemon(render(is_offloaded=is_offloaded), timeout_s=60)
    took_s = time.monotonic() - began
    (line,) = [event for event in lab.daemon.events if event["event"] == "flows_adopted"]
    assert (line["flows"], line["discarded"]) == (count, 0), line
    taken = sum(event["flows"] for event in lab.daemon.events if event["event"] == "offload_taken_over")
    assert taken == (count if is_offloaded else 0)
    figures = (line["duration_s"] * 1e3, line["duration_s"] / count * 1e6, took_s * 1e3)
    return f"{count:>8}{taken:>10}{figures[0]:>10.0f}{figures[1]:>10.1f}{figures[2]:>10.0f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--flows", type=int, nargs="*", default=[1000, 10_000, 60_000])
    options = parser.parse_args()
    privileges.prepare()
    with Lab() as lab:
        lab.start_origin("origin1")
        lab.start_origin("origin2")
        rows: dict[str, list[tuple[str, Outcome, float]]] = {way: [] for way in WAYS}
        for way, config in WAYS.items():
            lab.start_daemon(config)
            for name, act in ACTS.items() if options.connections else ():
                rows[way].append((name, *measure(lab, act, config, options.connections)))
            assert lab.daemon is not None
            lab.daemon.stop()
        adoptions = [adopt(lab, count, is_offloaded=way) for count in options.flows for way in (False, True)]
    print(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()};", end=" ")
    print(f"{options.connections} connections, {PACE.pieces} pieces a second on each; milliseconds")
    for way, measured in rows.items():
        print(f"\n{way}\n{render_pauses(measured)}")
    print(f"\n{'flows':>8}{'in kernel':>10}{'adopted':>10}{'µs each':>10}{'ready':>10}")
    print("\n".join(adoptions))


if __name__ == "__main__":
    main()
