"""Who brings about what clients must not notice: the operator, origins that die and come back, wires that lose and reorder."""

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from scene import DEVICE, Scene

from kracauer.lab import configuration
from kracauer.lab.namespaces import python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, PREFIX, SERVICE, SERVICE_2
from kracauer.lab.wire import Impairment

DEVICE_LOST: Final = 6
ALREADY_RUNNING: Final = 7
OUTAGE_S: Final = (0.0, 2.5)
RESTORED_WITHIN_S: Final = 5.0


class Operator:
    """Reloads, stops, kills, starts, and does to routes and device what operators do by mistake."""

    def __init__(self, scene: Scene, only: set[str]) -> None:
        self.actor = "operator"
        self.done: dict[str, int] = {}
        self._scene = scene
        self._random = scene.choices(self.actor)
        groups: dict[str, list[Callable[[], None]]] = {
            "reload": [self.reload, self.reload, self.reload_mistaken, self.reload_by_signals],
            "restart": [self.restart, self.kill, self.kill, self.kill_while_it_starts, self.kill_while_it_reloads],
            "host": [self.start_second, self.remove_route, self.take_link_down, self.delete_device],
        }
        self._actions = [action for group, actions in groups.items() if group in only for action in actions]

    def run(self) -> None:
        """Act until it is over."""
        while self._scene.pause(self._random):
            action = self._random.choice(self._actions)
            self._scene.timeline.note(self.actor, action.__name__)
            self.done[action.__name__] = self.done.get(action.__name__, 0) + 1
            try:
                with self._scene.operating:
                    action()
            except Exception as error:
                self._scene.timeline.violate(self.actor, f"{action.__name__} failed", error=repr(error))
                if not self._scene.daemon.is_running:
                    self._scene.start_daemon()

    def reload(self) -> None:
        """Have another configuration put in force."""
        scene, variant = self._scene, self._scene.variant
        kind = self._random.choice(("second", "moving", "unproven"))
        if kind == "second":
            wanted = replace(variant, has_second=not variant.has_second)
        elif kind == "moving":
            wanted = replace(variant, moving_to=ORIGIN_2 if variant.moving_to == ORIGIN_1 else ORIGIN_1)
        else:
            wanted = replace(variant, unproven=self._random.choice((8192, 16384)))
        if variant.has_second and not wanted.has_second:
            self._without_second(wanted)
        else:
            self._put_in_force(lambda: setattr(scene, "variant", wanted))

    def _without_second(self, wanted: object) -> None:
        scene = self._scene
        with scene.troubles.of("second"):
            self._put_in_force(lambda: setattr(scene, "variant", wanted))

    def _put_in_force(self, change: Callable[[], None]) -> None:
        before, self_variant = self._scene.config(), self._scene.variant
        change()
        after, wanted = self._scene.config(), self._scene.variant
        is_added = wanted.has_second and not self_variant.has_second
        if is_added:
            self._scene.variant = replace(wanted, has_second=False)  # nobody is to come before it is there
        self._scene.config_path.write_text(after, encoding="utf-8")
        result = self._scene.command("reload")
        if result.returncode != 0:
            self._scene.config_path.write_text(before, encoding="utf-8")
            raise RuntimeError(f"reload: {result.returncode} {result.stderr.decode()}")
        self._scene.variant = wanted

    def reload_mistaken(self) -> None:
        """Have a configuration refused that cannot be, or not without a restart."""
        scene = self._scene
        good = scene.config()
        mistake = self._random.choice(
            (
                "[",
                good.replace(PREFIX, "2001:db8:47::/96"),
                good.replace("[hosts]", "[hoosts]"),
                configuration.render({"www.example.com": ORIGIN_1}, network={"device": "other0"}),
            )
        )
        scene.config_path.write_text(mistake, encoding="utf-8")
        # The device is said, as the file says nothing or another one.
        args = python_module("kracauer", "reload", "--device", DEVICE)
        result = scene.lab.router.run(args, env={"RUNTIME_DIRECTORY": str(scene.run_directory)})
        scene.config_path.write_text(good, encoding="utf-8")
        if result.returncode != 1:
            raise RuntimeError(f"a mistake was not refused: {result.returncode} {result.stderr.decode()}")

    def reload_by_signals(self) -> None:
        """Send a burst of SIGHUP."""
        for _ in range(self._random.randrange(1, 20)):
            self._scene.daemon.send_signal(signal.SIGHUP)

    def restart(self) -> None:
        """Stop as an operator does, and start again."""
        with self._scene.troubles.of("daemon"):
            result = self._scene.command("stop")
            if result.returncode != 0:
                raise RuntimeError(f"stop: {result.returncode} {result.stderr.decode()}")
            self._scene.daemon.wait(20)
            time.sleep(self._random.uniform(*OUTAGE_S))
            self._scene.start_daemon()

    def kill(self) -> None:
        """Kill it, and start again."""
        with self._scene.troubles.of("daemon"):
            self._scene.daemon.kill()
            time.sleep(self._random.uniform(*OUTAGE_S))
            self._scene.start_daemon()

    def kill_while_it_starts(self) -> None:
        """Kill it, and its successor before that is ready, perhaps more than once."""
        scene = self._scene
        with scene.troubles.of("daemon"):
            scene.daemon.kill()
            for _ in range(self._random.randrange(1, 3)):
                args = python_module("kracauer", "run", "-c", scene.config_path)
                begun = scene.lab.start("kracauer", scene.lab.router, args, {"RUNTIME_DIRECTORY": str(scene.run_directory)})
                time.sleep(self._random.uniform(0.1, 1.2))
                begun.kill()
            scene.start_daemon()

    def kill_while_it_reloads(self) -> None:
        """Kill it in the midst of a reload."""
        with self._scene.troubles.of("daemon"):
            self._scene.daemon.send_signal(signal.SIGHUP)
            time.sleep(self._random.uniform(0, 0.1))
            self._scene.daemon.kill()
            self._scene.start_daemon()

    def start_second(self) -> None:
        """Start another one beside it, which has to see that."""
        args = python_module("kracauer", "run", "-c", self._scene.config_path)
        result = self._scene.lab.router.run(args, env={"RUNTIME_DIRECTORY": str(self._scene.run_directory)})
        if result.returncode != ALREADY_RUNNING:
            raise RuntimeError(f"a second one ended with {result.returncode}: {result.stderr.decode()[-500:]}")

    def remove_route(self) -> None:
        """Remove one of the daemon's routes; it has to come back."""
        scene = self._scene
        address = self._random.choice((SERVICE, PREFIX, *([SERVICE_2] if scene.variant.has_second else [])))
        family = "-6" if ":" in address else "-4"
        with scene.troubles.of("routes"):
            scene.ip(family, "route", "del", address, "dev", DEVICE)
            self._await_routes(family, address)

    def take_link_down(self) -> None:
        """Take the device down for a moment."""
        scene = self._scene
        with scene.troubles.of("routes"):
            scene.ip("link", "set", DEVICE, "down")
            time.sleep(self._random.uniform(0, 2))
            scene.ip("link", "set", DEVICE, "up")
            self._await_routes("-4", SERVICE)
            self._await_routes("-6", PREFIX)

    def _await_routes(self, family: str, address: str) -> None:
        scene = self._scene
        if not scene.wait_until(lambda: address in scene.ip(family, "route", "show", "dev", DEVICE), RESTORED_WITHIN_S):
            raise RuntimeError(f"the route to {address} has not come back")

    def delete_device(self) -> None:
        """Delete the device: the daemon has to end, and a successor makes another one."""
        scene = self._scene
        with scene.troubles.of("routes"), scene.troubles.of("daemon"):
            scene.ip("link", "del", DEVICE)
            if (status := scene.daemon.wait(20)) != DEVICE_LOST:
                raise RuntimeError(f"without its device the daemon ended with {status}")
            time.sleep(self._random.uniform(0, 1))
            scene.start_daemon()


class Outages:
    """Origins that are killed, halted or cut off, one at a time, and come back."""

    def __init__(self, scene: Scene) -> None:
        self.actor = "outages"
        self._scene = scene
        self._random = scene.choices(self.actor)

    def run(self) -> None:
        """Make trouble until it is over."""
        while self._scene.pause(self._random):
            name = self._random.choice(("origin1", "origin2"))
            action = self._random.choice((self.kill, self.halt, self.cut_off))
            duration_s = self._random.uniform(0.5, 4)
            self._scene.timeline.note(self.actor, action.__name__, origin=name, duration_s=round(duration_s, 1))
            try:
                action(name, duration_s)
            except Exception as error:
                self._scene.timeline.violate(self.actor, f"{action.__name__} failed", error=repr(error))
            # Both kinds of name have their time without any trouble of an origin's.
            if not self._scene.pause(self._random):
                return

    def kill(self, name: str, duration_s: float) -> None:
        """Have its connections die, and new ones refused."""
        with self._scene.troubles.of(name):
            self._scene.origin(name).kill()
            time.sleep(duration_s)
            self._scene.start_origin(name)

    def halt(self, name: str, duration_s: float) -> None:
        """Have it answer late; its kernel goes on."""
        process = self._scene.origin(name)
        process.send_signal(signal.SIGSTOP)
        time.sleep(duration_s)
        process.send_signal(signal.SIGCONT)

    def cut_off(self, name: str, duration_s: float) -> None:
        """Take its link down: new connections find no way, open ones wait."""
        with self._scene.troubles.of(f"link of {name}"):
            self._scene.ip("link", "set", name, "down")
            time.sleep(duration_s)
            self._scene.ip("link", "set", name, "up")


class Weather:
    """Phases in which the client's wire loses, doubles, delays and reorders, and calm ones between."""

    def __init__(self, scene: Scene) -> None:
        self.actor = "weather"
        self._scene = scene
        self._random = scene.choices(self.actor)

    def run(self) -> None:
        """Change until it is over; it ends calm."""
        choices = self._random
        while self._scene.pause(choices):
            impairment = Impairment(
                loss=choices.choice((0, 0.5, 1, 3)),
                dup=choices.choice((0, 1, 3)),
                reorder=choices.choice((0, 2, 10)),
                corrupt=choices.choice((0, 0, 0.5)),
                delay_ms=choices.choice((0, 5, 30)),
                seed=choices.randrange(1 << 30),
            )
            self._change(impairment)
            self._scene.pause(choices)
            self._change(Impairment())

    def _change(self, impairment: Impairment) -> None:
        self._scene.timeline.note(self.actor, "wire", impairment=impairment)
        self._scene.lab.change_wire("client", impairment)


def ended(process: BackgroundProcess, timeout_s: float) -> bool:
    """Whether a process has ended within that time; killed if not."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return False
    return True
