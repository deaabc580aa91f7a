"""Lists of backends with weights and drains, how they are balanced, and how they are probed."""

from ipaddress import IPv6Address

import pytest

from kracauer.config import Config, Probes, parse_config
from kracauer.errors import ConfigError
from kracauer.routes import Backend, Balance

BASE = 'prefix = "2001:db8:46::/96"\n[[listen]]\naddress = "198.51.100.1"\nport = 443\n'
FIRST, SECOND = (Backend(IPv6Address(f"2001:db8:1::{number}")) for number in (3, 4))
ITEMS = '[{ address = "2001:db8:1::3", weight = 2 }, "2001:db8:1::4"]'


def read(text: str) -> Config:
    return parse_config(BASE + text)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return [str(problem) for problem in caught.value.problems]


def test_weights_and_balance_are_read() -> None:
    (route,) = read(f'[hosts."a.example"]\nbalance = "client"\nbackends = {ITEMS}\n').routes
    assert (route.backends, route.weights, route.balance) == ((FIRST, SECOND), (2, 1), Balance.CLIENT)


def test_without_a_weight_there_are_none_and_the_order_decides() -> None:
    (route,) = read('[hosts]\n"a.example" = ["2001:db8:1::3", "2001:db8:1::4"]\n').routes
    assert (route.weights, route.draining, route.balance) == ((), frozenset(), Balance.ORDER)


def test_a_backend_to_be_emptied_is_read_wherever_a_list_may_stand() -> None:
    (route,) = read('[hosts]\n"a.example" = [{ address = "2001:db8:1::3", drain = true }, "2001:db8:1::4"]\n').routes
    assert (route.backends, route.draining) == ((FIRST, SECOND), frozenset({FIRST}))


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (f'[hosts]\n"a.example" = {ITEMS}\n', 'hosts."a.example"[0].weight', 'write balance = "client"'),
        (f'[hosts."a.example"]\nbackends = {ITEMS}\n', 'hosts."a.example".backends[0].weight', 'write balance = "client"'),
        ('[hosts."a.example"]\nbalance = "clients"\nbackends = "2001:db8:1::3"\n', 'hosts."a.example".balance', "client"),
        ('[hosts]\n"a.example" = [{ weight = 2 }]\n', 'hosts."a.example"[0].address', "is missing"),
        ('[hosts]\n"a.example" = [{ address = "2001:db8:1::3", drian = true }]\n', 'hosts."a.example"[0].drian', "drain?"),
        ('[hosts]\n"a.example" = [{ address = "2001:db8:1::3", drain = true }]\n', 'hosts."a.example"', "spare one"),
        (
            '[hosts]\n"a.example" = ["2001:db8:1::3", { address = "2001:db8:1::3" }]\n',
            'hosts."a.example"[1]',
            'the same backend as hosts."a.example"[0]',
        ),
        (
            '[hosts."a.example"]\nbalance = "client"\nbackends = [{ address = "2001:db8:1::3", weight = 0 }]\n',
            'hosts."a.example".backends[0].weight',
            "from 1 to 1000",
        ),
        ('[hosts]\ndefault = "2001:db8:1::3"\n[probes]\ninterval_s = 0.1\n', "probes.interval_s", "from 0.5"),
        ('[hosts]\ndefault = "2001:db8:1::3"\n[probes]\ntimeout_s = 6\n', "probes.timeout_s", "at most interval_s, 5"),
        ('[hosts]\ndefault = "2001:db8:1::3"\n[probes]\ninterval_s = 0.5\n', "probes.interval_s", "at least timeout_s, 1"),
        ('[hosts]\ndefault = "2001:db8:1::3"\n[probes]\nfall = 0\n', "probes.fall", "from 1 to 100"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, path: str, message: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(f"{path}: ")
    assert message in found[0]


def test_probes_are_read() -> None:
    text = '[hosts]\ndefault = "2001:db8:1::3"\n[probes]\nenabled = false\ninterval_s = 10\ntimeout_s = 2\nrise = 1\nfall = 5\n'
    assert read(text).probes == Probes(enabled=False, interval_s=10.0, timeout_s=2.0, rise=1, fall=5)
