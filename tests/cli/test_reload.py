"""`kracauer reload`: what an operator is told, and what changes on the host."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from running import CONFIG, DEVICE, Running, command

from kracauer.cli.exit_codes import ExitCode

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]
Start = Callable[..., Running]
MORE = CONFIG.replace("[hosts]", '[[listen]]\naddress = "198.51.100.2"\nport = 80\n\n[hosts]')


def reload(directory: Path, config: str) -> tuple[int, str, str]:
    (directory / "kracauer-config.toml").write_text(config, encoding="utf-8")
    return command(directory, "reload")


def test_a_new_configuration_is_put_in_force_with_routes_for_its_new_address(ip: Ip, start: Start, tmp_path: Path) -> None:
    ip("address add 192.0.2.7/32 dev lo")
    running = start()
    running.wait_for("ready")

    status, said, _ = reload(tmp_path, MORE)

    assert (status, said) == (
        ExitCode.OK,
        "reloaded: 2 names, listening on 198.51.100.1:443 (tls), 198.51.100.1:80 (http), 198.51.100.2:80 (auto)\n",
    )
    running.wait_for("reloaded")
    with socket.socket() as client:
        client.bind(("192.0.2.7", 0))
        client.settimeout(10)
        client.connect(("198.51.100.2", 80))


def test_with_problems_nothing_changes_and_all_are_told(ip: Ip, start: Start, tmp_path: Path) -> None:
    running = start()
    running.wait_for("ready")
    before = ip("-4 route show")

    status, said, problems = reload(tmp_path, MORE.replace("/96", "/95").replace("80\n", "80000\n"))

    assert (status, said) == (ExitCode.CONFIG_PROBLEMS, "")
    assert len(problems.splitlines()) == 4
    assert problems.splitlines()[-1] == "not reloaded: 3 problems; the configuration in force stays"
    assert len(running.wait_for("reload_refused")["problems"]) == 3
    assert ip("-4 route show") == before


def test_a_configuration_that_is_gone_is_a_problem(start: Start, tmp_path: Path) -> None:
    start().wait_for("ready")
    (tmp_path / "kracauer-config.toml").unlink()

    status, _, problems = command(tmp_path, "reload")

    assert status == ExitCode.CONFIG_PROBLEMS
    assert "there is no such file" in problems


def test_an_address_that_the_host_does_not_allow_refuses_the_reload(ip: Ip, start: Start, tmp_path: Path) -> None:
    start().wait_for("ready")
    ip("address add 198.51.100.2/32 dev lo")

    status, _, problems = reload(tmp_path, MORE)

    assert status == ExitCode.CONFIG_PROBLEMS
    assert "198.51.100.2 is configured on lo" in problems
    assert "ip addr del" in problems
    assert "198.51.100.2" not in ip("-4 route show")


def test_the_route_of_an_address_goes_when_nobody_needs_it(ip: Ip, start: Start, tmp_path: Path) -> None:
    running = start(config=MORE)
    running.wait_for("ready")
    assert "198.51.100.2" in ip("-4 route show")

    assert reload(tmp_path, CONFIG)[0] == ExitCode.OK

    assert running.wait_for("route_retired", 30)["address"] == "198.51.100.2"
    assert "198.51.100.2" not in ip("-4 route show")
    assert reload(tmp_path, MORE)[0] == ExitCode.OK
    assert f"198.51.100.2 dev {DEVICE}" in ip("-4 route show")


def test_where_no_service_runs_it_says_so(tmp_path: Path) -> None:
    status, _, said = command(tmp_path, "reload", "--device", "other0")

    assert status == ExitCode.NOT_RUNNING
    assert "no service runs with the device other0" in said
