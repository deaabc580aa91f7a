"""Backends that are known by their names: who waits for an address, and which addresses are ever dialled."""

from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network

import pytest
from hellos import client_hello, http_request
from hypothesis import given, settings
from hypothesis import strategies as st
from openings import PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED
from packets import Packet, parse
from script import CONFIG, Conversation, backend_side, client_side, config

from kracauer.config import Config
from kracauer.engine.resolving import MAX_ADDRESSES, MAX_ASKING, MAX_ON_DEMAND
from kracauer.events import Event, FlowRefused, NameRefused, NameResolved, NameWanted

GUARD = 'backend_networks = ["2001:db8:1::/64"]\n'
NAMED = GUARD + CONFIG.replace('"www.example.com" = "2001:db8:1::2"', '"www.example.com" = "web1.example.net"')
ANY = NAMED + "[dns]\nserve_any = true\n"
ASKING = PLAIN_HANDSHAKE + "0.02  C> PA c+1  ack=s+1 data=hello\n"
SYN = "B< S c win=65535 mss=1440 sackOK ws=7\n"
INTERNAL_ERROR = bytes((21, 3, 3, 0, 2, 2, 80))
UNRECOGNIZED_NAME = bytes((21, 3, 3, 0, 2, 2, 112))
OTHER = client_hello("other.example.org")


def named(text: str = NAMED) -> Config:
    return config(base=text)


def wanted(talk: Conversation) -> list[str]:
    return [event.name for event in talk.events if isinstance(event, NameWanted)]


def told(talk: Conversation, kind: type[Event]) -> list[dict[str, object]]:
    return [event.fields() for event in talk.events if isinstance(event, kind)]


@pytest.fixture
def waiting() -> Conversation:
    """A client whose backend is a name of which nothing is known."""
    return Conversation(named()).play(ASKING + "?? flows=1 state=resolving")


def test_a_client_waits_for_the_address_and_is_dialled_for_when_it_is_there(waiting: Conversation) -> None:
    assert wanted(waiting) == ["web1.example.net"]
    waiting.note_addresses("web1.example.net", "2001:db8:1::2")
    waiting.play(f"""
        0.02  {SYN}
        0.04  B> SA b     ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1   ack=b+1 data=hello
              !! flow_spliced hostname=www.example.com pattern=www.example.com backend=[2001:db8:1::2]:443
              ?? flows=1 state=established
    """)


def test_a_name_that_is_known_lets_nobody_wait() -> None:
    talk = Conversation(named())
    talk.note_addresses("web1.example.net", "2001:db8:1::2")
    talk.play(PLAIN_SPLICED)
    assert wanted(talk) == []


def test_it_is_asked_for_once_however_many_wait() -> None:
    talk = Conversation(named(), sides={"C2": client_side(port=40001), "B3": backend_side(client_port=40001)})
    talk.play(ASKING).play("""
        0.03  C2> S  c    win=64240 mss=1460 sackOK ws=7
              C2< SA t    ack=c+1 win=65535 mss=1440 sackOK ws=7
        0.04  C2> PA c+1  ack=t+1 data=hello
              ?? flows=2 state=resolving,resolving
    """)
    assert wanted(talk) == ["web1.example.net"]
    talk.note_addresses("web1.example.net", "2001:db8:1::2")
    talk.play("""
        0.04  B<  S c  win=65535 mss=1440 sackOK ws=7
              B3< S c  win=65535 mss=1440 sackOK ws=7
    """)


def test_a_client_that_waits_may_give_up(waiting: Conversation) -> None:
    waiting.play("0.10  C> R c+1+H\n!! flow_closed reason=client_aborted state=resolving\n?? flows=0")
    waiting.note_addresses("web1.example.net", "2001:db8:1::2")
    waiting.play("0.20 ?? flows=0")


def test_a_client_that_waits_and_repeats_itself_is_heard_in_silence(waiting: Conversation) -> None:
    waiting.play("0.30  C> PA c+1  ack=s+1 data=hello\n?? flows=1 state=resolving")


def test_a_wait_ends_after_the_time_for_dialling(waiting: Conversation) -> None:
    waiting.play("9.9 ?? flows=1 state=resolving")
    waiting.play(
        """
        10.02 C< PAF s+1 ack=c+1+H win=* data=alert
              !! flow_refused reason=unresolved detail=web1.example.net
    """.replace("alert", repr(INTERNAL_ERROR))
    )
    waiting.note_addresses("web1.example.net", "2001:db8:1::2")
    waiting.play("10.03 ?? flows=1 state=refusing")


@pytest.mark.parametrize(("known", "reason"), [((), "no_address"), ((None,), "unresolved"), (("2001:db8:2::2",), "no_address")])
def test_who_waits_for_nothing_is_told_so_at_once(waiting: Conversation, known: tuple[str | None, ...], reason: str) -> None:
    waiting.note_addresses("web1.example.net", *known)
    waiting.play(f"""
        0.02  C< PAF s+1 ack=c+1+H win=* data={INTERNAL_ERROR!r}
              !! flow_refused reason={reason}
    """)


def test_a_name_of_which_nothing_is_known_any_more_is_asked_for_again() -> None:
    talk = Conversation(named())
    talk.note_addresses("web1.example.net", "2001:db8:1::2")
    talk.note_addresses("web1.example.net", None)
    talk.play(ASKING)
    assert wanted(talk) == ["web1.example.net"]


def test_an_http_client_is_told_that_its_site_is_not_there_now() -> None:
    request = http_request("www.example.com")
    talk = Conversation(named(), request=request, R=len(request)).play("""
        0.00  H> S  c    win=64240 mss=1460
              H< SA s    ack=c+1 win=65535 mss=1440
        0.01  H> PA c+1  ack=s+1 data=request
    """)
    talk.note_addresses("web1.example.net")
    [answer] = talk.take_sent()
    assert answer.payload.startswith(b"HTTP/1.1 503 ")


def test_the_addresses_of_a_name_are_tried_by_value_whatever_order_they_come_in() -> None:
    talk = Conversation(named(NAMED))
    talk.note_addresses("web1.example.net", "2001:db8:1::3", "2001:db8:1::2", "2001:db8:1::3")
    talk.play(PLAIN_HANDSHAKE + PLAIN_HELLO).play("""
        0.03  B> RA 0     ack=c+1
              B2< S c     win=65535 mss=1440 sackOK ws=7
              !! backend_failed backend=[2001:db8:1::2]:443
    """)
    assert told(talk, NameResolved) == [{"name": "web1.example.net", "addresses": ("2001:db8:1::2", "2001:db8:1::3")}]


def test_a_name_takes_its_place_in_the_list_and_its_port() -> None:
    text = NAMED.replace('"web1.example.net"', '["2001:db8:1::2", "web1.example.net:8443"]')
    talk = Conversation(named(text), sides={"N": backend_side("2001:db8:1::9", 8443)})
    talk.note_addresses("web1.example.net", "2001:db8:1::9")
    talk.play(PLAIN_HANDSHAKE + PLAIN_HELLO).play("""
        0.03  B> RA 0    ack=c+1
              N< S c     win=65535 mss=1440 sackOK ws=7
    """)


def test_an_unknown_name_costs_half_a_second_where_there_is_another_backend() -> None:
    text = NAMED.replace('"web1.example.net"', '["web1.example.net", "2001:db8:1::2"]')
    Conversation(named(text)).play(ASKING).play(f"0.40 ?? state=resolving\n0.52 {SYN}")


def test_with_two_unknown_names_the_second_waits_for_the_first_but_not_for_long() -> None:
    text = NAMED.replace('"web1.example.net"', '["web1.example.net", "web2.example.net"]')
    talk = Conversation(named(text)).play(ASKING)
    assert wanted(talk) == ["web1.example.net", "web2.example.net"]
    talk.play("0.10 ?? state=resolving")
    talk.note_addresses("web2.example.net", "2001:db8:1::2")
    talk.play(f"0.50 ?? state=resolving\n0.60 {SYN}")


def test_with_both_names_known_the_first_is_dialled() -> None:
    text = NAMED.replace('"web1.example.net"', '["web1.example.net", "web2.example.net"]')
    talk = Conversation(named(text)).play(ASKING)
    talk.note_addresses("web2.example.net", "2001:db8:1::3")
    talk.note_addresses("web1.example.net", "2001:db8:1::2")
    talk.play(f"0.02 {SYN}")


def test_a_connection_keeps_its_backend_when_the_name_moves() -> None:
    talk = Conversation(named())
    talk.note_addresses("web1.example.net", "2001:db8:1::2")
    talk.play(PLAIN_SPLICED)
    talk.note_addresses("web1.example.net", "2001:db8:1::3")
    talk.note_addresses("web1.example.net")
    talk.play("""
        0.10  C> PA c+1+H  ack=s+1 data=bulk(10)
              B< PA c+1+H  ack=b+1 data=bulk(10)
        0.11  B> PA b+1    ack=c+11+H data=bulk(10)
              C< PA s+1    ack=c+11+H data=bulk(10)
    """)


def test_a_connection_that_is_being_dialled_keeps_its_backend_too() -> None:
    talk = Conversation(named())
    talk.note_addresses("web1.example.net", "2001:db8:1::2")
    talk.play(PLAIN_HANDSHAKE + PLAIN_HELLO)
    talk.note_addresses("web1.example.net", "2001:db8:1::3")
    talk.play("""
        0.04  B> SA b     ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1   ack=b+1 data=hello
              ?? state=established
    """)


def test_a_backend_that_was_a_names_and_keeps_a_lost_connection_is_reset() -> None:
    talk = Conversation(named())
    talk.note_addresses("web1.example.net", "2001:db8:1::2")
    talk.note_addresses("web1.example.net", "2001:db8:1::3")
    talk.play("0.10  B> A b ack=7\nB< R 7 ack=0\n!! drop no_flow")


def test_only_what_changes_is_told() -> None:
    talk = Conversation(named())
    for addresses in (("2001:db8:1::2", "2001:db8:2::2"), ("2001:db8:2::2", "2001:db8:1::2"), ("2001:db8:1::2",), ()):
        talk.note_addresses("web1.example.net", *addresses)
    assert told(talk, NameResolved) == [
        {"name": "web1.example.net", "addresses": ("2001:db8:1::2",)},
        {"name": "web1.example.net", "addresses": ()},
    ]
    assert told(talk, NameRefused) == [{"name": "web1.example.net", "addresses": ("2001:db8:2::2",)}]


@pytest.mark.parametrize("address", ["2001:db8:46::c000:207", "2001:db8:2::2", "::1", "ff02::1", "fe80::1", "::ffff:192.0.2.7"])
def test_an_address_where_no_backend_may_be_is_refused(waiting: Conversation, address: str) -> None:
    waiting.note_addresses("web1.example.net", address, "2001:db8:1::2")
    waiting.play(f"0.02 {SYN}")
    [event] = [event for event in waiting.events if isinstance(event, NameRefused)]
    assert event.addresses == (str(IPv6Address(address)),)


@pytest.mark.parametrize(("name", "limit"), [("web1.example.net", MAX_ADDRESSES), ("other.example.org", MAX_ON_DEMAND)])
def test_of_thousands_of_addresses_a_few_are_used(name: str, limit: int) -> None:
    talk = Conversation(named(ANY))
    base = int(IPv6Address("2001:db8:1::"))
    addresses = [IPv6Address(base + number) for number in range(5000, 0, -1)]
    talk.engine.note_addresses(name, addresses, talk.now)
    event = talk.engine.next_event()
    assert isinstance(event, NameResolved)
    assert len(event.addresses) == limit


def test_what_nobody_wants_is_not_kept() -> None:
    talk = Conversation(named())
    talk.note_addresses("web9.example.net", "2001:db8:1::9")
    assert talk.events == []


def test_offers_follow_the_backends_of_names() -> None:
    """The MSS that the profile of one address allows is offered as long as a name has that address."""
    talk = Conversation(named(NAMED + '[backend_profile."2001:db8:1::9"]\nmss = 1300\n'))
    syn = "C> S c win=64240 mss=1460\nC< SA * ack=c+1 win=65535 mss="
    talk.play(f"0.00 {syn}1440")
    talk.note_addresses("web1.example.net", "2001:db8:1::9")
    talk.play(f"0.10 {syn}1300")
    talk.note_addresses("web1.example.net", "2001:db8:1::8")
    talk.play(f"0.20 {syn}1440")
    talk.note_addresses("web1.example.net", "2001:db8:1::9")
    talk.note_addresses("web1.example.net", None)
    talk.play(f"0.30 {syn}1440")


def test_a_reload_keeps_the_addresses_of_names_that_stay_and_forgets_the_others() -> None:
    talk = Conversation(named())
    talk.note_addresses("web1.example.net", "2001:db8:1::2")
    talk.engine.reconfigure(named(NAMED + "[timeouts]\npeek_s = 5\n"), talk.now)
    talk.play(PLAIN_SPLICED)
    talk.engine.reconfigure(config(), talk.now)
    talk.engine.reconfigure(named(), talk.now)
    talk.sides["C"] = client_side(port=40002)
    talk.symbols.pop("s")
    talk.play(ASKING.replace("0.0", "1.0") + "?? flows=2")
    assert wanted(talk) == ["web1.example.net"]


def test_a_reload_that_narrows_the_networks_takes_addresses_away_and_one_that_widens_them_gives_them() -> None:
    talk = Conversation(named())
    talk.note_addresses("web1.example.net", "2001:db8:2::2", "2001:db8:1::2")
    wide = NAMED.replace('"2001:db8:1::/64"', '"2001:db8:1::/64", "2001:db8:2::/64"')
    for text in (wide, NAMED):
        talk.engine.reconfigure(named(text), talk.now)
    while (event := talk.engine.next_event()) is not None:
        talk.events.append(event)
    assert [fields["addresses"] for fields in told(talk, NameResolved)] == [
        ("2001:db8:1::2",),
        ("2001:db8:1::2", "2001:db8:2::2"),
        ("2001:db8:1::2",),
    ]


def test_a_route_of_before_the_reload_still_gets_the_answer_it_waits_for(waiting: Conversation) -> None:
    waiting.engine.reconfigure(named(NAMED.replace("web1.", "web2.")), waiting.now)
    waiting.note_addresses("web1.example.net", "2001:db8:1::2")
    waiting.play(f"0.02 {SYN}")


# Any name


@pytest.fixture
def other() -> Conversation:
    """A client that asks for a name which no route has, where any name is served."""
    return Conversation(named(ANY), hello=OTHER, H=len(OTHER)).play(ASKING + "?? flows=1 state=resolving")


def test_a_name_without_a_route_is_served_at_its_own_address(other: Conversation) -> None:
    assert wanted(other) == ["other.example.org"]
    other.note_addresses("other.example.org", "2001:db8:1::2")
    other.play(f"0.02 {SYN}").play("""
        0.04  B> SA b     ack=c+1 win=65535 mss=1440 sackOK ws=7
              B< PA c+1   ack=b+1 data=hello
              !! flow_spliced hostname=other.example.org pattern=dns.serve_any
    """)


@pytest.mark.parametrize("addresses", [(), ("2001:db8:2::2",)])
def test_a_name_that_is_not_ours_is_refused_as_any_name_that_is_not_served(
    other: Conversation, addresses: tuple[str, ...]
) -> None:
    other.note_addresses("other.example.org", *addresses)
    other.play(f"""
        0.02  C< PAF s+1 ack=c+1+H win=* data={UNRECOGNIZED_NAME!r}
              !! flow_refused reason=no_address
    """)


def test_a_name_with_a_route_goes_by_its_route() -> None:
    talk = Conversation(named(ANY)).play(ASKING)
    assert wanted(talk) == ["web1.example.net"]


@pytest.mark.parametrize("hostname", [None, "localhost", "192.0.2.1"])
def test_what_is_no_whole_name_is_not_looked_up(hostname: str | None) -> None:
    hello = client_hello(hostname)
    talk = Conversation(named(ANY))
    opened(talk, 1, hello)
    assert wanted(talk) == []
    assert len(told(talk, FlowRefused)) == 1


def opened(talk: Conversation, number: int, hello: bytes, client: str = "192.0.2.7") -> list[Packet]:
    """Have one more client connection say `hello`; returns what that has brought about."""
    side = f"X{number}"
    talk.sides[side] = client_side(address=client, port=41000 + number)
    [syn_ack] = talk.exchange(talk.bytes_of(f"{side}> S c win=64240 mss=1460"))
    talk.symbols |= {"isn": parse(syn_ack).seq, "said": hello}
    return [parse(data) for data in talk.exchange(talk.bytes_of(f"{side}> PA c+1 ack=isn+1 data=said"))]


def test_one_client_cannot_have_everything_looked_up() -> None:
    talk = Conversation(named(ANY))
    for number in range(MAX_ASKING + 5):
        opened(talk, number, client_hello(f"n{number}.example.org"))
    assert len(wanted(talk)) == MAX_ASKING
    assert [event.reason for event in talk.events if isinstance(event, FlowRefused)] == ["unresolved"] * 5
    opened(talk, 100, client_hello("another.example.org"), client="192.0.2.8")
    assert wanted(talk)[-1] == "another.example.org"
    for number in range(MAX_ASKING):
        talk.note_addresses(f"n{number}.example.org")
    opened(talk, 101, client_hello("once-more.example.org"))
    assert wanted(talk)[-1] == "once-more.example.org"


def test_a_flood_of_names_leaves_nothing_behind() -> None:
    talk = Conversation(named(ANY))
    for number in range(300):
        opened(talk, number, client_hello(f"n{number}.example.org"), client=f"192.0.2.{number % 200 + 1}")
        talk.note_addresses(f"n{number}.example.org", f"2001:db8:1::{number:x}")
        talk.note_addresses(f"n{number}.example.org", None)
        talk.take_sent()
    talk.fire(20)
    talk.take_sent()
    context = talk.engine._context
    assert (len(context.waits), context.addresses, len(context.waits.asking)) == (0, {}, 0)
    assert set(context.backend_addresses) == {IPv6Address("2001:db8:1::2").packed, IPv6Address("2001:db8:1::3").packed}


# The guarantee

PROBING = ANY.replace("probes.enabled = false\n", "")
NETWORK = IPv6Network("2001:db8:1::/64")
NAMES = ("web1.example.net", "other.example.org", "www.example.com", "x.example.org")
inside = st.integers(0, 2**64 - 1).map(lambda number: NETWORK[number])
anywhere = st.integers(0, 2**128 - 1).map(IPv6Address)
in_prefix = st.integers(0, 2**32 - 1).map(lambda number: IPv6Network("2001:db8:46::/96")[number])
neighbours = st.sampled_from(["2001:db8:0:ffff:ffff:ffff:ffff:ffff", "2001:db8:1:1::", "::1", "ff02::1"]).map(IPv6Address)
answers = st.none() | st.lists(inside | anywhere | in_prefix | neighbours, max_size=4)
steps = st.one_of(
    st.tuples(st.just("note"), st.sampled_from(NAMES), answers),
    st.tuples(st.just("open"), st.sampled_from(NAMES), st.integers(0, 9)),
    st.tuples(st.just("reload"), st.sampled_from((NAMED, ANY, CONFIG, PROBING)), st.none()),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 30)),
)


@settings(deadline=None)
@given(st.lists(steps, max_size=25))
def test_no_packet_ever_leaves_for_where_no_backend_may_be(script: Sequence[tuple[str, str, object]]) -> None:
    talk = Conversation(named(PROBING))
    opened_so_far = 0
    for kind, name, value in script:
        sent: list[Packet] = []
        if kind == "note":
            known = [address for address in value if isinstance(address, IPv6Address)] if isinstance(value, list) else None
            talk._collect(talk.engine.note_addresses(name, known, talk.now))
        elif kind == "open":
            opened_so_far += 1
            sent = opened(talk, opened_so_far, client_hello(name))
        elif kind == "reload":
            talk.engine.reconfigure(config(base=name), talk.now)
        elif isinstance(value, int):
            talk.run_until(talk.now - talk.start + value)
        for packet in sent + talk.take_sent():
            if packet.version == 6:
                assert IPv6Address(packet.dst) in NETWORK
