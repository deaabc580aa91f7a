"""Which changes of a configuration a running service cannot take over."""

from dataclasses import fields

import pytest

from kracauer.config import Config, Network, parse_config, restart_problems

MINIMAL = """
prefix = "2001:db8:46::/96"
[[listen]]
address = "198.51.100.1"
port = 443
[hosts]
"www.example.com" = "2001:db8:1::2"
"""
OTHER = {
    "manage": "false",
    "device": '"tun-web"',
    "ipv4_mtu": "1400",
    "ipv6_mtu": "1400",
    "lowest_ipv6_mtu": "1300",
    "router_sources": '["203.0.113.8"]',
    "offloads": "false",
    "ownership": "'shared'",
    "offload": "'off'",
    "table": "199",
    "workers": "2",
}


def config(extra: str = "", base: str = MINIMAL) -> Config:
    return parse_config(base + extra)


def test_the_same_configuration_takes_no_restart() -> None:
    assert restart_problems(config(), config()) == ()


@pytest.mark.parametrize(
    "extra",
    [
        '"api.example.com" = "2001:db8:1::3"\n',
        '[[listen]]\naddress = "198.51.100.2"\nport = 80\n',
        "[timeouts]\npeek_s = 5\n[limits]\nflows = 10\n[backend_profile]\nsack = false\n",
        '[log]\nlevel = "debug"\n',
        '[network]\nrouter_sources = ["203.0.113.8"]\n',
        '[access]\ndeny = ["192.0.2.7"]\n',
    ],
)
def test_what_a_reload_can_change_is_no_problem(extra: str) -> None:
    assert restart_problems(config(), config(extra)) == ()


@pytest.mark.parametrize("key", sorted({field.name for field in fields(Network)} - {"router_sources"}))
def test_each_other_key_of_the_network_is_a_problem(key: str) -> None:
    (problem,) = restart_problems(config(), config(f"[network]\n{key} = {OTHER[key]}\n"))
    assert problem.path == f"network.{key}"
    assert "takes a restart" in problem.message


def test_a_problem_tells_both_values_and_that_a_restart_keeps_connections() -> None:
    (problem,) = restart_problems(config(), config('[log]\nformat = "json"\n'))
    assert str(problem) == ('log.format: "json": is "auto" in the running service: takes a restart, which keeps connections')


def test_a_new_prefix_is_a_problem_that_does_not_promise_to_keep_connections() -> None:
    (problem,) = restart_problems(config(), config(base=MINIMAL.replace("2001:db8:46::", "2001:db8:47::")))
    assert str(problem).startswith('prefix: "2001:db8:47::/96": is "2001:db8:46::/96" in the running service: takes a restart')
    assert "keeps" not in problem.message


def test_every_change_has_a_problem_of_its_own() -> None:
    wanted = config('[network]\ndevice = "tun-web"\nipv4_mtu = 1400\n[log]\nformat = "json"\n')
    assert [problem.path for problem in restart_problems(config(), wanted)] == [
        "network.device",
        "network.ipv4_mtu",
        "log.format",
    ]
