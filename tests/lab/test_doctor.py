"""The doctor names what keeps a request from succeeding, and the command that it prints mends it."""

import signal
import time
from collections.abc import Callable, Iterator

import pytest
from clinic import HOSTS, Clinic, failures, findings, render

from kracauer.lab.namespaces import python_module
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, PREFIX, SERVICE, Lab, Topology

pytestmark = pytest.mark.lab

LONGEST_S = 10.0


@pytest.fixture
def clinic(build_lab: Callable[[Topology], Lab]) -> Iterator[Clinic]:
    clinic = Clinic(build_lab(Topology()))
    yield clinic
    if clinic.lab.daemon is not None and clinic.lab.daemon.is_running:
        assert clinic.lab.daemon.stop() == 0, clinic.lab.daemon.log


def test_a_host_on_which_all_is_well_has_no_failure_before_the_start_and_after_it(clinic: Clinic) -> None:
    before = clinic.examine()
    clinic.start()
    after = clinic.examine()

    assert failures(before) == failures(after) == []
    assert [f["name"] for f in before["findings"] if f["severity"] == "warning"] == ["service"]
    assert after["verdict"] == "ok", after
    assert clinic.visit().status == 200


@pytest.mark.parametrize("is_running", [False, True])
def test_a_backend_without_a_route_back_is_named_and_the_command_mends_it(clinic: Clinic, is_running: bool) -> None:
    clinic.ip(clinic.lab.origin1, "-6 route del default")
    if is_running:
        clinic.start()
    began = time.monotonic()

    report = clinic.examine()

    assert time.monotonic() - began < LONGEST_S
    assert failures(report) == ["return-route"]
    (finding,) = [finding for finding in findings(report, "return-route") if finding["severity"] == "failure"]
    assert finding["subject"] == ORIGIN_1
    assert finding["remedies"][0]["command"] == f"ip -6 route replace {PREFIX} via 2001:db8:1::1"
    clinic.carry_out(finding)
    assert failures(clinic.examine()) == []
    if not is_running:
        clinic.start()
    assert clinic.visit().status == 200


@pytest.mark.parametrize("is_running", [False, True])
def test_backends_that_route_another_prefix_than_the_configured_one_are_named(clinic: Clinic, is_running: bool) -> None:
    for origin, router in ((clinic.lab.origin1, "2001:db8:1::1"), (clinic.lab.origin2, "2001:db8:2::1")):
        clinic.ip(origin, f"-6 route replace 2001:db8:64::/96 via {router}")
        clinic.ip(origin, "-6 route del default")
    if is_running:
        clinic.start()

    report = clinic.examine()

    assert failures(report) == ["return-route", "return-route"]
    for finding in findings(report, "return-route"):
        assert "is this the prefix that is routed here?" in finding["found"]
        clinic.carry_out(finding)
    assert failures(clinic.examine()) == []
    if not is_running:
        clinic.start()
    assert clinic.visit().status == 200
    assert clinic.visit("shop.example.net").status == 200


def test_a_prefix_inside_a_backend_s_own_link_is_named_and_the_command_mends_it(clinic: Clinic) -> None:
    prefix = "2001:db8:1::46:0:0/96"
    clinic.write(clinic.config.replace(PREFIX, prefix))

    report = clinic.examine()

    (overlap,) = findings(report, "prefix")
    assert (overlap["severity"], overlap["subject"]) == ("warning", prefix)
    assert overlap["remedies"][0]["place"] == "each backend on origin1"
    assert failures(report) == ["return-route"]
    clinic.carry_out(next(f for f in findings(report, "return-route") if f["severity"] == "failure"))
    assert failures(clinic.examine()) == []
    clinic.start()
    assert clinic.visit().status == 200


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize(
    ("key", "name"), [("net.ipv4.ip_forward", "forwarding-ipv4"), ("net.ipv6.conf.all.forwarding", "forwarding-ipv6")]
)
def test_forwarding_that_is_off_is_named_and_the_command_mends_it(
    clinic: Clinic, key: str, name: str, is_running: bool
) -> None:
    if is_running:
        clinic.start()
    clinic.lab.router.sysctl(key, 0)

    report = clinic.examine()

    assert failures(report) == [name]
    clinic.carry_out(findings(report, name)[0])
    assert failures(clinic.examine()) == []
    if not is_running:
        clinic.start()
    assert clinic.visit().status == 200


def test_a_firewall_that_drops_what_is_forwarded_is_named_and_the_commands_mend_it(
    clinic: Clinic, program: Callable[[str], str]
) -> None:
    rules = "table inet filter { chain forward { type filter hook forward priority 0; policy drop; ct state invalid drop\n}\n}"
    ran = clinic.lab.router.run([program("nft"), "-f", "-"], stdin=rules.encode())
    assert ran.returncode == 0, ran.stderr
    clinic.start()

    report = clinic.examine()

    assert failures(report) == ["firewall"]
    (finding,) = findings(report, "firewall")
    assert finding["subject"] == "inet filter forward"
    for remedy in finding["remedies"]:
        if remedy["command"]:
            assert clinic.lab.router.run(["sh", "-c", remedy["command"]]).returncode == 0
    assert failures(clinic.examine()) == []
    assert clinic.visit().status == 200


def test_a_backend_on_which_nothing_listens_is_told_from_one_that_is_down(clinic: Clinic) -> None:
    hosts = {**HOSTS, "dead.example.org": f"[{ORIGIN_1}]:9", "gone.example.org": "2001:db8:1::dead"}
    clinic.write(render(hosts))
    began = time.monotonic()

    report = clinic.examine()

    assert time.monotonic() - began < LONGEST_S
    lost = {f["subject"]: f["found"] for f in findings(report, "backend-answer") if f["severity"] == "failure"}
    assert set(lost) == {f"[{ORIGIN_1}]:9", "[2001:db8:1::dead]:80"}
    assert "nothing listens" in lost[f"[{ORIGIN_1}]:9"]
    assert "unreachable" in lost["[2001:db8:1::dead]:80"]
    assert failures(report) == ["backend-answer", "backend-answer"]


def test_a_backend_to_which_there_is_no_route_is_named_and_the_command_mends_it(clinic: Clinic) -> None:
    clinic.ip(clinic.lab.origin2, "-6 address add 2001:db8:22::2/128 dev lo nodad")
    clinic.write(render({"www.example.com": "2001:db8:22::2"}))

    report = clinic.examine()

    assert failures(report) == ["backend-route"]
    (finding,) = findings(report, "backend-route")
    clinic.ip(clinic.lab.router, finding["remedies"][0]["command"].removeprefix("ip ").replace("NEXT_HOP", ORIGIN_2))
    assert failures(clinic.examine()) == []
    clinic.start()
    assert clinic.visit().status == 200


def test_a_route_that_is_in_the_way_is_named_and_the_command_mends_it(clinic: Clinic) -> None:
    clinic.ip(clinic.lab.router, f"route add {SERVICE}/32 dev origin1")

    report = clinic.examine()

    assert failures(report) == ["service-address"]
    clinic.carry_out(findings(report, "service-address")[0])
    assert failures(clinic.examine()) == []
    clinic.start()
    assert clinic.visit().status == 200


def test_an_address_that_is_shared_with_the_host_is_found_and_looked_after(clinic: Clinic) -> None:
    shared = '[network]\nownership = "shared"\n\n[probes]'
    clinic.write(clinic.config.replace("[probes]", shared))
    report = clinic.examine()
    assert failures(report) == ["service-address"]
    (finding,) = findings(report, "service-address")
    clinic.ip(clinic.lab.router, finding["remedies"][0]["command"].removeprefix("ip ").replace("INTERFACE", "lo"))
    assert failures(clinic.examine()) == []

    clinic.start()

    assert clinic.examine()["verdict"] == "ok"
    assert clinic.visit().status == 200


def test_the_host_is_afterwards_as_it_was(clinic: Clinic) -> None:
    before = clinic.host()
    clinic.examine()
    assert clinic.host() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_host_is_as_it_was_when_the_doctor_is_interrupted(clinic: Clinic, number: signal.Signals) -> None:
    clinic.ip(clinic.lab.origin1, "-6 route del default")  # so that it has to wait for answers
    before = clinic.host()
    doctor = clinic.lab.start(
        "doctor", clinic.lab.router, python_module("kracauer", "doctor", "-c", clinic.path), clinic.environment
    )
    deadline = time.monotonic() + 10
    while "kdoctor" not in clinic.ip(clinic.lab.router, "-6 route") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "kdoctor" in clinic.ip(clinic.lab.router, "-6 route")

    doctor.send_signal(number)
    doctor.wait()

    deadline = time.monotonic() + 2  # the kernel takes a moment to clear up after a process that was killed
    while clinic.host() != before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert clinic.host() == before


def test_connections_that_a_stopped_service_has_left_outlive_an_examination(clinic: Clinic) -> None:
    clinic.start()
    with clinic.lab.client.open_socket() as client:
        client.settimeout(10)
        client.connect((SERVICE, 80))
        request = b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"
        client.sendall(request)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        assert clinic.lab.daemon is not None
        assert clinic.lab.daemon.stop() == 0

        assert failures(clinic.examine()) == []

        clinic.start()
        client.sendall(request)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_service_that_starts_during_an_examination_is_not_kept_from_it(clinic: Clinic) -> None:
    clinic.ip(clinic.lab.origin1, "-6 route del default")  # so that the doctor has to wait for answers
    doctor = clinic.lab.start(
        "doctor", clinic.lab.router, python_module("kracauer", "doctor", "-c", clinic.path), clinic.environment
    )
    deadline = time.monotonic() + 10
    while "kdoctor" not in clinic.ip(clinic.lab.router, "-6 route") and time.monotonic() < deadline:
        time.sleep(0.01)

    clinic.start()

    assert doctor.wait(30) == 1
    assert "kdoctor" not in clinic.ip(clinic.lab.router, "-6 route")
    assert clinic.visit("shop.example.net").status == 200


def test_the_fast_path_is_tried_before_the_start_and_told_of_after_it(clinic: Clinic) -> None:
    before = clinic.host()
    (tried,) = findings(clinic.examine(), "fast-path")
    assert clinic.host() == before
    clinic.start()
    (told,) = findings(clinic.examine(), "fast-path")

    attached = (
        [event for event in clinic.lab.daemon.events if event["event"] == "offload_attached"] if clinic.lab.daemon else []
    )
    if attached:
        assert f"takes the program, by {attached[0]['kind']}" in tried["found"]
        assert f"the kernel carries 0 connections, by {attached[0]['kind']}" in told["found"]
        assert (told["severity"] == "ok") is attached[0]["survives"]
    else:
        assert (tried["severity"], told["severity"]) == ("warning", "warning")
    assert clinic.visit().status == 200


def test_where_the_fast_path_is_off_that_is_all_there_is_to_say(clinic: Clinic) -> None:
    clinic.write(render(HOSTS) + '\n[network]\noffload = "off"\n')
    (tried,) = findings(clinic.examine(), "fast-path")
    clinic.start()
    (told,) = findings(clinic.examine(), "fast-path")

    assert {finding["severity"] for finding in (tried, told)} == {"ok"}
    assert all("every packet passes the process" in finding["found"] for finding in (tried, told))
