"""`kracauer doctor`: what it prints, for people and for programs, and its exit status."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from running import CONFIG, Running, command

from kracauer.cli.doctor import MOST_ALIKE, render_lines, render_object
from kracauer.doctor import Finding, Remedy, Severity, Source, Topic

TOPIC = Topic("topic", "It matters.")
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
Ip = Callable[[str], str]


def lines(*findings: Finding, width: int = 0) -> list[str]:
    return list(render_lines(findings, width))


def test_what_is_well_takes_one_line_and_what_is_not_says_why_and_what_mends_it() -> None:
    remedy = Remedy("the backend 2001:db8:1::2", "ip -6 route replace X via Y", "first of all")
    assert lines(TOPIC.ok("well"), TOPIC.failure("broken", Remedy("this machine", "mend it"), remedy, subject="it")) == [
        "OK       topic: well",
        "FAILURE  topic it: broken",
        "         It matters.",
        "         → mend it",
        "         → on the backend 2001:db8:1::2, first of all:",
        "           ip -6 route replace X via Y",
        "1 ok, 1 failure",
    ]


def test_what_is_skipped_for_one_reason_takes_one_line() -> None:
    other = Topic("other", "It matters, too.")
    assert lines(TOPIC.skipped("no root"), other.ok("well"), other.skipped("no root")) == [
        "SKIPPED  topic, other: no root",
        "OK       other: well",
        "1 ok, 2 skipped",
    ]


def test_a_setting_is_said_to_be_for_the_configuration() -> None:
    assert lines(TOPIC.warning("small", Remedy("the configuration", advice="mtu = 9")))[2:3] == [
        "         → in the configuration, mtu = 9"
    ]


def test_prose_is_broken_to_the_terminal_and_commands_are_not() -> None:
    long = "ip " + "x" * 60 + " y"
    shown = lines(TOPIC.failure("a thing that is wrong in a way that takes many words", Remedy("this machine", long)), width=40)
    assert f"         → {long}" in shown
    assert all(len(line) <= 40 for line in shown if long not in line)


def test_of_a_thousand_alike_the_first_are_shown_and_the_others_counted() -> None:
    shown = lines(*(TOPIC.failure("down", Remedy("this machine", "look"), subject=str(number)) for number in range(1000)))
    assert sum(line.startswith("FAILURE") for line in shown) == MOST_ALIKE
    assert shown[-2:] == [f"and {1000 - MOST_ALIKE} more of the same kinds, which --json has", "1000 failure"]


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([TOPIC.ok("")], "ok"),
        ([TOPIC.ok(""), TOPIC.skipped("")], "ok"),
        ([TOPIC.warning("", Remedy("here", "x")), TOPIC.ok("")], "warning"),
        ([TOPIC.warning(""), TOPIC.failure("")], "failure"),
    ],
)
def test_the_verdict_is_the_worst_there_is(findings: list[Finding], verdict: str) -> None:
    assert render_object(Source(None, None), findings)["verdict"] == verdict


def test_the_object_has_the_keys_that_the_reference_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "doctor.md").read_text(encoding="utf-8")
    shown = render_object(Source(Path("c.toml"), None), [TOPIC.failure("broken", Remedy("this machine", "mend it"))])
    for keys in (shown, shown["findings"][0], shown["findings"][0]["remedies"][0]):
        assert all(f"| `{key}` |" in page for key in keys)
    assert shown["findings"][0] == {
        "name": "topic",
        "subject": None,
        "severity": "failure",
        "found": "broken",
        "why": "It matters.",
        "remedies": [{"place": "this machine", "command": "mend it", "advice": None}],
    }


def test_a_configuration_that_is_not_there_is_a_failure_like_others(tmp_path: Path) -> None:
    status, said, _ = command(tmp_path, "doctor", "-c", str(tmp_path / "none.toml"), "--json")
    report = json.loads(said)
    assert (status, report["verdict"]) == (1, "failure")
    assert report["findings"][0]["name"] == "configuration"


def test_every_problem_of_the_configuration_is_told(tmp_path: Path) -> None:
    (tmp_path / "kracauer-config.toml").write_text(CONFIG.replace("443", "70000").replace('"tls"', '"tsl"'), encoding="utf-8")
    status, said, _ = command(tmp_path, "doctor")
    assert status == 1
    assert said.count("FAILURE  configuration: ") == 2


@pytest.mark.lab
def test_without_privileges_much_is_skipped_and_nothing_breaks(ip: Ip, tmp_path: Path) -> None:
    assert ip("-json link show")
    (tmp_path / "kracauer-config.toml").write_text(CONFIG, encoding="utf-8")
    status, said, wrong = command(tmp_path, "doctor", "--json", wrapper=WITHOUT_CAPABILITIES)
    found = {finding["name"]: finding["severity"] for finding in json.loads(said)["findings"]}
    assert (status, wrong) == (1, "")
    assert found["privileges"] == "failure"
    assert found["tun"] == found["return-route"] == "skipped"


@pytest.mark.lab
def test_the_running_service_tells_of_itself(start: Callable[..., Running], tmp_path: Path) -> None:
    running = start()
    running.wait_for("ready")
    _, said, _ = command(tmp_path, "doctor", "--json")
    (service,) = [finding for finding in json.loads(said)["findings"] if finding["name"] == "service"]
    assert service["severity"] == Severity.OK
    assert f"process {running.process.pid} " in service["found"]
