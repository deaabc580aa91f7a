"""`kracauer doctor` in the lab's router, and the commands that it prints carried out where it says."""

import json
from pathlib import Path
from typing import Any

from kracauer.lab import configuration
from kracauer.lab.namespaces import python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import CLIENT, ORIGIN_1, ORIGIN_2, SERVICE, Lab
from kracauer.lab.visits import Visit, visit

HOSTS = {"www.example.com": ORIGIN_1, "shop.example.net": ORIGIN_2}
LISTENERS = ((SERVICE, 80, "http"),)
Report = dict[str, Any]


def render(hosts: dict[str, str]) -> str:
    """A configuration with probes so often that a service soon knows of a change."""
    return configuration.render(hosts, LISTENERS, probes={"interval_s": 1})


class Clinic:
    """A lab with two origins on port 80, a configuration for them, and the doctor."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.start_origin("origin1")
        lab.start_origin("origin2")
        # What a real router has besides.
        self.ip(lab.router, f"route add default via {CLIENT} dev client0")
        self.write(render(HOSTS))

    @property
    def path(self) -> Path:
        return self.lab.directory / "kracauer-config.toml"

    @property
    def environment(self) -> dict[str, str]:
        return {"RUNTIME_DIRECTORY": str(self.lab.directory / "run")}

    def write(self, config: str) -> None:
        self.config = config
        self.path.write_text(config, encoding="utf-8")

    def start(self) -> BackgroundProcess:
        return self.lab.start_daemon(self.config)

    def examine(self, *options: str) -> Report:
        ran = self.lab.router.run(
            python_module("kracauer", "doctor", "-c", self.path, "--json", *options), env=self.environment, timeout_s=30
        )
        assert ran.stderr == b"", ran.stderr.decode()
        report: Report = json.loads(ran.stdout)
        assert ran.returncode == (1 if report["verdict"] == "failure" else 0)
        return report

    def carry_out(self, finding: dict[str, Any]) -> None:
        """Run the first command of the remedy, on whichever machine it is for."""
        remedy = finding["remedies"][0]
        place = {
            "this machine": self.lab.router,
            f"the backend {ORIGIN_1}": self.lab.origin1,
            f"the backend {ORIGIN_2}": self.lab.origin2,
        }[remedy["place"]]
        ran = place.run(["sh", "-c", remedy["command"]])
        assert ran.returncode == 0, ran.stderr.decode()

    def visit(self, name: str = "www.example.com", timeout_s: float = 5) -> Visit:
        return visit(self.lab.client, "http", name, SERVICE, timeout_s=timeout_s)

    @staticmethod
    def ip(place: Any, words: str) -> str:
        ran = place.run(["ip", *words.split()])
        assert ran.returncode == 0, (words, ran.stderr.decode())
        output: str = ran.stdout.decode()
        return output

    def host(self) -> tuple[str, ...]:
        """The router's links, routes and rules, and what of its settings might have been changed."""
        shown = [
            self.ip(self.lab.router, words) for words in ("-o link", "route show table all", "-6 route show table all", "rule")
        ]
        shown += [self.lab.router.sysctl(key) for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")]
        return tuple(shown)


def failures(report: Report) -> list[str]:
    return [finding["name"] for finding in report["findings"] if finding["severity"] == "failure"]


def findings(report: Report, name: str) -> list[dict[str, Any]]:
    return [finding for finding in report["findings"] if finding["name"] == name]
