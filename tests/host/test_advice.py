"""What the operator is told about forwarding."""

from kracauer.host import Facts, advise


def test_a_host_that_forwards_needs_no_advice() -> None:
    assert advise(Facts()) == ()


def test_missing_forwarding_is_told_with_the_command_that_mends_it() -> None:
    remedies = [advice.remedy for advice in advise(Facts(is_forwarding_ipv4=False, is_forwarding_ipv6=False))]

    assert remedies == ["sysctl -w net.ipv4.ip_forward=1", "sysctl -w net.ipv6.conf.all.forwarding=1"]


def test_a_host_that_lives_on_router_advertisements_is_not_told_to_lose_its_route() -> None:
    (advice,) = advise(Facts(is_forwarding_ipv6=False, advertised_interfaces=("eth0",)))

    assert advice.remedy == "sysctl -w net/ipv6/conf/eth0/accept_ra=2 net.ipv6.conf.all.forwarding=1"
    assert "router advertisements" in advice.cause
