"""Another configuration for an engine at work: what is joined stays as it is, what begins goes by the new one."""

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any, Final

import pytest
from endpoints import LINK_S, USUAL, Close, End, Fate, Network, Stack
from engines import make_engine
from hellos import bulk, client_hello
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lives import KINDS, STATES, Step, life_of, steps
from openings import PLAIN_BACKEND, PLAIN_HANDSHAKE, PLAIN_HELLO, PLAIN_SPLICED
from packets import parse
from raw_packets import cut_v4, cut_v6, datagram, icmp
from script import CONFIG, EPOCH, SECRET, Conversation, backend_side, client_side, config
from successors import comparable, fire, take_events

from kracauer.config import Config, parse_config

SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))
LISTENERS: Final = {
    "one": '[[listen]]\naddress = "198.51.100.1"\nport = 443\nprotocol = "tls"\n',
    "web": '[[listen]]\naddress = "198.51.100.1"\nport = 80\nprotocol = "http"\n',
    "other": '[[listen]]\naddress = "198.51.100.2"\nport = 443\nprotocol = "tls"\n',
}
HERE: Final = '"www.example.com" = "2001:db8:1::2"\n'
THERE: Final = '"www.example.com" = "2001:db8:1::3"\n'


def configured(listeners: str = "one web", hosts: str = HERE, extra: str = "") -> Config:
    chosen = "".join(LISTENERS[name] for name in listeners.split())
    return parse_config(f'prefix = "2001:db8:46::/96"\nprobes.enabled = false\n{chosen}[hosts]\n{hosts}{extra}')


CONFIGS: Final = {
    "the same": config(),
    "another backend": configured(hosts=THERE),
    "another name": configured(hosts='"www.example.net" = "2001:db8:1::2"\n'),
    "another port": configured(hosts='"www.example.com" = "[2001:db8:1::2]:8443"\n'),
    "no such listener": configured("web"),
    "no such address": configured("other"),
    "another protocol": parse_config(CONFIG.replace('protocol = "tls"', 'protocol = "http"')),
    "few flows": config("[limits]\nflows = 1\nunproven = 1\n"),
    "wide clients": config("[limits]\nclient_prefix_length = 8\n"),
    "nobody may come": config('[access]\ndeny = ["0.0.0.0/0"]\n'),
    "slow times": config("[timeouts]\npeek_s = 300\ndial_s = 300\n"),
    "another offer": config("[backend_profile]\nmss = 1220\nwindow_scale = false\nsack = false\ntimestamps = false\n"),
    "router sources": config('[network]\nrouter_sources = ["203.0.113.1"]\n'),
}


def reconfigure(talk: Conversation, settings: Config) -> None:
    """Give the engine other settings; it must say nothing to that."""
    talk.engine.reconfigure(settings, talk.now)
    assert talk.engine.next_event() is None
    assert not talk.engine.handle_timer(0.0)


def go_on(talk: Conversation, step: Step) -> tuple[list[Any], list[Any]]:
    if isinstance(step, float):
        return fire(talk, talk.now + step), take_events(talk)
    return [comparable(data) for vnet, packet in step for data in talk.exchange(packet, vnet)], take_events(talk)


# What is joined.

# Errors of our own towards backends come from the first service address, whichever that is.
SAME_ADDRESS = sorted(CONFIGS.keys() - {"no such address"})


@settings(SLOW, max_examples=150)
@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)), state=st.sampled_from(sorted(STATES)))
def test_a_spliced_flow_goes_on_bit_for_bit(data: st.DataObject, kind: str, state: str) -> None:
    """Whatever comes, and whatever the settings become meanwhile: as if they had stayed."""
    life, other = life_of(kind, state).talk, life_of(kind, state).talk
    for step in data.draw(steps(life).map(without_syns)):
        if data.draw(st.booleans()):
            reconfigure(other, CONFIGS[data.draw(st.sampled_from(SAME_ADDRESS))])
        if len(life.engine.flows):
            assert go_on(life, step) == go_on(other, step)
        assert [flow.state for flow in life.engine.flows] == [flow.state for flow in other.engine.flows]
    assert go_on(life, 30_000.0) == go_on(other, 30_000.0)
    assert len(other.engine.flows) == 0


def without_syns(script: list[Step]) -> list[Step]:
    """Less the client's packets that begin a connection: those go by the new settings. Errors may name new routers."""
    return [step for step in script if isinstance(step, float) or not any(is_syn(packet) for _, packet in step)]


def is_syn(packet: bytes) -> bool:
    return packet[0] >> 4 == 4 and packet[9] == 6 and len(packet) >= 40 and bool(packet[33 + 4 * ((packet[0] & 15) - 5)] & 0x02)


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_a_flow_keeps_its_backend(settings: Config) -> None:
    talk = Conversation().play(PLAIN_SPLICED)
    reconfigure(talk, settings)
    talk.play("""
    1.00  C> PA c+1+H  ack=s+1   data=hello
          B< PA c+1+H  ack=b+1   data=hello
    1.01  B> PA b+1    ack=c+1+2*H data=bulk(400)
          C< PA s+1    ack=c+1+2*H data=bulk(400)
    2.00  C> FA c+1+2*H ack=s+401
          B< FA c+1+2*H ack=b+401
    2.01  B> FA b+401  ack=c+2+2*H
          C< FA s+401  ack=c+2+2*H
    2.02  C> A  c+2+2*H ack=s+402
          B< A  c+2+2*H ack=b+402
  242.10  !! flow_closed reason=finished backend=[2001:db8:1::2]:443 hostname=www.example.com
          ?? flows=0
    """)


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_an_idle_flow_is_asked_at_the_time_it_would_have_been(settings: Config) -> None:
    talk = Conversation().play(PLAIN_SPLICED)
    reconfigure(talk, settings)
    talk.play("""
 7440.05  B< A  c        ack=b+1
          C< A  s        ack=c+1
    """)


def test_bytes_that_are_owed_are_still_delivered() -> None:
    talk = Conversation().play(
        PLAIN_HANDSHAKE
        + """
    0.02  C> A  c+1  ack=s+1 data=hello[:50]
    0.03  C> A  c+1  ack=s+1 data=hello[:50]
          C< A  s+1  ack=c+51 win=639
          C> PA c+51 ack=s+1 data=hello[50:]
          B< S  c    win=65535 mss=1440 sackOK ws=7
    0.04  B> SA b    ack=c+1 win=65535 mss=1440 sackOK ws=7
          B< PA c+1  ack=b+1 data=hello
          !! flow_spliced
    """
    )
    reconfigure(talk, CONFIGS["another backend"])
    talk.play("1.04 B< PA c+1 ack=b+1 data=hello[:50] \n 1.10 B> A b+1 ack=c+1+H \n C< A s+1 ack=c+1+H")


# What is under way.


def test_a_route_that_is_new_counts_for_the_next_name() -> None:
    talk = Conversation().play(PLAIN_HANDSHAKE)
    reconfigure(talk, CONFIGS["another backend"])
    talk.play("""
    0.02  C> PA c+1  ack=s+1 data=hello
          B2< S c    win=65535 mss=1440 sackOK ws=7
    0.03  B2> SA b   ack=c+1 win=65535 mss=1440 sackOK ws=7
          B2< PA c+1 ack=b+1 data=hello
          !! flow_spliced backend=[2001:db8:1::3]:443
    """)


def test_a_route_that_is_new_counts_for_a_name_that_is_half_said() -> None:
    talk = Conversation().play(PLAIN_HANDSHAKE).play("0.02 C> A c+1 ack=s+1 data=hello[:70]")
    reconfigure(talk, CONFIGS["another backend"])
    talk.play("0.03 C> PA c+71 ack=s+1 data=hello[70:] \n B2< S c win=65535 mss=1440 sackOK ws=7")


def test_a_route_that_is_gone_is_gone_for_a_name_that_is_half_said() -> None:
    talk = Conversation(alert=bytes((21, 3, 3, 0, 2, 2, 112))).play(PLAIN_HANDSHAKE)
    talk.play("0.02 C> A c+1 ack=s+1 data=hello[:70]")
    reconfigure(talk, CONFIGS["another name"])
    talk.play(
        "0.03 C> PA c+71 ack=s+1 data=hello[70:] \n C< FPA s+1 ack=c+1+H win=512 data=alert \n !! flow_refused reason=no_route"
    )


@pytest.mark.parametrize("settings", CONFIGS.values(), ids=CONFIGS)
def test_a_dial_that_is_under_way_ends_where_it_was_going(settings: Config) -> None:
    talk = Conversation().play(PLAIN_HANDSHAKE + PLAIN_HELLO)
    reconfigure(talk, settings)
    talk.play(PLAIN_BACKEND)


def test_a_dial_that_is_under_way_goes_through_the_backends_it_began_with() -> None:
    hello = client_hello("two.example.com")
    talk = Conversation(hello=hello, H=len(hello)).play(PLAIN_HANDSHAKE + PLAIN_HELLO)
    reconfigure(talk, configured(hosts='"two.example.com" = "2001:db8:1::9"\n'))
    talk.play("0.10 B> RA 0 ack=c+1 \n !! backend_failed reason=refused \n B2< S c win=65535 mss=1440 sackOK ws=7")


# Listeners that come and go.


def test_a_listener_that_is_gone_is_a_closed_port() -> None:
    """Its address is still a service's, through another port of it."""
    talk = Conversation()
    reconfigure(talk, configured("web"))
    talk.play("0.00 C> S c win=64240 mss=1460 \n C< RA 0 ack=c+1 win=0 \n !! drop no_listener")
    talk.play("0.10 H> S c win=64240 mss=1460 \n H< SA z ack=c+1 win=65535 mss=1440")


def test_a_handshake_whose_listener_is_gone_is_told_so() -> None:
    talk = Conversation().play(PLAIN_HANDSHAKE.partition("0.01")[0])
    reconfigure(talk, configured("web"))
    talk.play("0.01 C> A c+1 ack=s+1 \n C< R s+1 \n !! drop no_listener \n ?? flows=0")


def test_the_flows_of_a_listener_that_is_gone_go_on_while_new_ones_are_refused() -> None:
    talk = Conversation(sides={"N": client_side(port=41000)}).play(PLAIN_SPLICED)
    reconfigure(talk, configured("web"))
    talk.play("""
    0.50  N> S  c        win=64240 mss=1460
          N< RA 0        ack=c+1
          !! drop no_listener
    0.51  C> PA c+1+H    ack=s+1 data=hello
          B< PA c+1+H    ack=b+1 data=hello
    """)


def test_a_new_connection_from_the_ports_of_a_flow_whose_listener_is_gone_is_refused() -> None:
    talk = Conversation(n=0x7000_0000).play(PLAIN_SPLICED)
    reconfigure(talk, configured("web"))
    talk.play("0.50 C> S n win=64240 mss=1460 \n C< RA 0 ack=n+1 \n !! drop no_listener")
    talk.play("0.51 C> PA c+1+H ack=s+1 data=hello \n B< PA c+1+H ack=b+1 data=hello")


def test_fragments_of_flows_whose_listener_is_gone_pass() -> None:
    talk = Conversation().play(PLAIN_SPLICED)
    reconfigure(talk, configured("other"))
    for line, cut, head in (
        ("C> PA c+1+H ack=s+1 data=hello", cut_v4, "B< PA c+77 ack=b+1"),
        ("B> PA b+1 ack=c+1+H data=hello", cut_v6, "C< PA s+1 ack=c+77"),
    ):
        first, second = cut(talk.bytes_of(line), 64)
        assert talk.exchange(first) == []
        (sent,) = talk.exchange(second)
        assert " ".join(talk.render(parse(sent)).split()).startswith(head)


def test_fragments_for_a_service_that_nobody_needs_any_more_are_not_kept() -> None:
    talk = Conversation()
    reconfigure(talk, configured("other"))
    first, _ = cut_v4(talk.bytes_of("C> PA c+1 ack=9 data=hello"), 64)
    assert talk.exchange(first) == []
    talk.play("!! drop no_listener")


def test_a_listener_that_comes_back_finds_its_flows_and_its_handshakes() -> None:
    talk = Conversation().play(PLAIN_SPLICED)
    second = Conversation(engine=talk.engine, sides={"C": client_side(port=41000), "B": backend_side(client_port=41000)}).play(
        PLAIN_HANDSHAKE.partition("0.01")[0]
    )
    reconfigure(talk, configured("other"))
    reconfigure(talk, config())
    second.play(PLAIN_HANDSHAKE.partition("0.01")[2].join(("0.01", "")) + PLAIN_HELLO + PLAIN_BACKEND)
    talk.play("1.00 C> PA c+1+H ack=s+1 data=hello \n B< PA c+1+H ack=b+1 data=hello")


def test_a_listener_that_is_new_is_there_at_once() -> None:
    other = {"C": client_side("198.51.100.2")}
    talk = Conversation(sides=other).play("0.00 C> S c win=64240 mss=1460 sackOK ws=7 \n !! drop no_listener")
    reconfigure(talk, configured("one web other"))
    talk.play(PLAIN_SPLICED)


def test_a_listener_may_change_its_protocol() -> None:
    talk = Conversation(request=b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n")
    reconfigure(talk, CONFIGS["another protocol"])
    talk.play(PLAIN_HANDSHAKE + "0.02 C> PA c+1 ack=s+1 data=request \n B< S c win=65535 mss=1440 sackOK ws=7")


def test_a_service_address_answers_pings_as_long_as_something_needs_it() -> None:
    ping = datagram(client_side(), 1, icmp(8, 0, 7, b"hello"))
    talk = Conversation().play(PLAIN_SPLICED)
    reconfigure(talk, configured("other"))
    assert len(talk.exchange(ping)) == 1
    fire(talk, EPOCH + 30_000)
    take_events(talk)
    reconfigure(talk, configured("other"))
    assert talk.exchange(ping) == []


# Handshakes across a change.


@pytest.mark.parametrize("settings", [CONFIGS[name] for name in ("another offer", "the same", "slow times", "wide clients")])
def test_a_cookie_outlives_the_settings_that_it_was_baked_by(settings: Config) -> None:
    """What was offered holds, though nobody would offer it any more."""
    talk = Conversation().play(PLAIN_HANDSHAKE.partition("0.01")[0])
    reconfigure(talk, settings)
    talk.play("100.01 C> A c+1 ack=s+1")
    talk.play(PLAIN_HELLO.replace("0.02", "100.02") + PLAIN_BACKEND.replace("0.03", "100.03"))


def test_a_cookie_of_a_lean_offer_is_read_as_one_after_a_rich_one() -> None:
    """No scale was offered, so none was agreed, whatever is offered now."""
    talk = Conversation(CONFIGS["another offer"])
    talk.play("200.00 C> S c win=64240 mss=1460 sackOK ws=7 \n C< SA s ack=c+1 win=65535 mss=1220")
    reconfigure(talk, config())
    talk.play("200.02 C> PA c+1 ack=s+1 data=hello \n B< S c win=1000 mss=1440")


def test_a_cookie_outlives_many_offers() -> None:
    """The cookie knows no more of an offer than its window scale, of which there are sixteen."""
    talk = Conversation()
    talk.run_until(180)
    talk.play("180.00 C> S c win=64240 mss=1460 sackOK ws=7 \n C< SA s ack=c+1 win=65535 mss=1440 sackOK ws=7")
    for scale in range(15):
        reconfigure(talk, config(f"[backend_profile]\nwindow_scale = {scale}\n"))
    reconfigure(talk, CONFIGS["another offer"])
    talk.play("240.00 C> PA c+1 ack=s+1 data=hello \n B< S c win=65535 mss=1440 sackOK ws=7")


def test_the_new_offer_is_made_at_once() -> None:
    talk = Conversation()
    reconfigure(talk, CONFIGS["another offer"])
    talk.play("0.00 C> S c win=64240 mss=1460 sackOK ts=1:0 ws=7 \n C< SA s ack=c+1 win=65535 mss=1220")


NO_SCALE: Final = """
    0.03  B> SA b    ack=c+1 win=65535 mss=1400 sackOK
          B< PA c+1  ack=b+1 win=* data=hello
          !! profile_learnt
"""
LEARNT: Final = "C< SA z ack=c+1 win=65535 mss=1400 sackOK"
ASSUMED: Final = "C< SA z ack=c+1 win=65535 mss=1440 sackOK ws=7"


@pytest.mark.parametrize(
    ("between", "answer"),
    [((), LEARNT), (("the same",), LEARNT), (("few flows", "the same"), LEARNT), (("another backend", "the same"), ASSUMED)],
    ids=["no change", "the same", "other limits", "away and back"],
)
def test_what_was_learnt_of_a_backend_is_kept_as_long_as_it_is_one(between: tuple[str, ...], answer: str) -> None:
    talk = Conversation().play(PLAIN_HANDSHAKE + PLAIN_HELLO + NO_SCALE)
    for name in between:
        reconfigure(talk, CONFIGS[name])
    other = Conversation(engine=talk.engine, sides={"C": client_side(port=41000)})
    other.play(f"1.00 C> S c win=64240 mss=1460 sackOK ws=7 \n {answer}")


def test_what_was_learnt_is_forgotten_an_hour_later_all_the_same() -> None:
    talk = Conversation().play(PLAIN_HANDSHAKE + PLAIN_HELLO + NO_SCALE)
    talk.run_until(1800)
    reconfigure(talk, CONFIGS["the same"])
    other = Conversation(engine=talk.engine, sides={"C": client_side(port=41000)})
    other.play(f"3601.00 C> S c win=64240 mss=1460 sackOK ws=7 \n {ASSUMED}")


# Limits.


def test_a_lower_limit_takes_nobodys_flow_and_lets_nobody_in() -> None:
    talk = Conversation()
    clients = [{"C": client_side(port=port), "B": backend_side(client_port=port)} for port in range(40000, 40010)]
    talks = [Conversation(engine=talk.engine, sides=sides).play(PLAIN_SPLICED) for sides in clients]
    reconfigure(talk, config("[limits]\nflows = 3\n"))
    for other in talks:
        other.play("1.00 C> PA c+1+H ack=s+1 data=hello \n B< PA c+1+H ack=b+1 data=hello")
    newcomer = Conversation(engine=talk.engine, sides={"C": client_side(port=9, address="192.0.2.9")})
    newcomer.play(PLAIN_HANDSHAKE + "!! drop table_full \n ?? flows=10")
    for other in talks:
        other.play("2.00 C> FA c+1+2*H ack=s+1 \n B< FA c+1+2*H ack=b+1")
        other.play("2.01 B> FA b+1 ack=c+2+2*H \n C< FA s+1 ack=c+2+2*H")
    # Those that have ended make room.
    newcomer.play("3.00 C> A c+1 ack=s+1 \n !! flow_closed reason=superseded \n ?? flows=10")


def test_a_higher_limit_lets_in_who_waited() -> None:
    talk = Conversation("[limits]\nflows = 1\n").play(PLAIN_SPLICED)
    newcomer = Conversation(engine=talk.engine, sides={"C": client_side(port=9)}).play(PLAIN_HANDSHAKE + "!! drop table_full")
    reconfigure(talk, config())
    newcomer.play("1.00 C> A c+1 ack=s+1 \n ?? flows=2")


@pytest.mark.parametrize("settings", [CONFIGS["wide clients"], CONFIGS["few flows"]], ids=["counted anew", "counted on"])
def test_what_is_counted_of_clients_is_right_after_a_change(settings: Config) -> None:
    """With every client at work when it changes: once they are gone, everything is free again."""
    talk = Conversation()
    for port, script in ((40001, PLAIN_HANDSHAKE), (40002, PLAIN_HANDSHAKE + PLAIN_HELLO), (40003, PLAIN_SPLICED)):
        sides = {"C": client_side(port=port), "B": backend_side(client_port=port)}
        Conversation(engine=talk.engine, sides=sides).play(script)
    reconfigure(talk, settings)
    fire(talk, EPOCH + 30_000)
    take_events(talk)
    assert len(talk.engine.flows) == 0
    reconfigure(talk, config("[limits]\nflows = 2\nunproven = 1\nunproven_per_client = 1\nheld_bytes = 65536\n"))
    Conversation(engine=talk.engine, now=EPOCH + 30_000).play(PLAIN_SPLICED)


# Growth and interleavings.


def test_a_thousand_changes_leave_nothing_behind() -> None:
    """Not a byte for each, with a flow in every phase all the while, and backends that are never the same."""
    engine = make_engine(config(), secret=SECRET, now=EPOCH)
    for port, script in ((40001, PLAIN_HANDSHAKE), (40002, PLAIN_HANDSHAKE + PLAIN_HELLO), (40003, PLAIN_SPLICED)):
        sides = {"C": client_side(port=port), "B": backend_side(client_port=port)}
        Conversation(engine=engine, sides=sides).play(script)
    cycle = list(CONFIGS.values())
    moving = [configured(hosts=f'"www.example.com" = "2001:db8:2::{number:x}"\n') for number in range(1, 1001)]

    def change(times: int, start: float) -> int:
        for number in range(times):
            engine.reconfigure(cycle[number % len(cycle)], EPOCH + start + number / 10)
            engine.reconfigure(moving[number], EPOCH + start + number / 10)
        engine.reconfigure(cycle[0], EPOCH + start + times / 10)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        change(60, 1)
        before = change(60, 10)
        after = change(1000, 20)
    finally:
        tracemalloc.stop()
    assert after - before < 1000
    assert len(engine.flows) == 3


HELLO = client_hello("www.example.com", 500)
REQUEST, RESPONSE = HELLO + bulk(3000), bulk(12_000)
# Under any of these the name leads to the same backend, and the client may come.
HARMLESS: Final = ("the same", "another offer", "slow times", "wide clients", "router sources")
faults = st.lists(st.sampled_from((USUAL, USUAL, USUAL, (), (LINK_S, LINK_S), (LINK_S, 0.7), (0.35,))), max_size=20)
changes = st.lists(
    st.tuples(st.integers(0, 40).map(lambda step: step * 0.005) | st.floats(0, 2), st.sampled_from(HARMLESS)), max_size=12
)


@settings(SLOW, max_examples=100)
@given(fates=faults, changes=changes, stacks=st.permutations((Stack(), Stack(timestamps=False), Stack(window_scale=None))))
def test_no_connection_is_lost_however_often_the_settings_change(
    fates: list[Fate], changes: list[tuple[float, str]], stacks: list[Stack]
) -> None:
    """Three clients at once, with changes at any moments of their handshakes, on a network that loses and repeats."""
    ends = list(pairs(stacks))
    network = Network(make_engine(config(), secret=SECRET, now=EPOCH), [end for pair in ends for end in pair], fates, EPOCH)
    for after_s, name in changes:
        network.run(after_s)
        network.engine.reconfigure(CONFIGS[name], network.now)
    network.run(200)
    said = "\n".join(network.log)
    for client, backend in ends:
        assert not any((client.complaints, backend.complaints, client.is_reset, backend.is_reset, network.strangers)), said
        assert (bytes(backend.received), bytes(client.received)) == (REQUEST, RESPONSE), said
        assert (client.is_done, backend.is_done, backend.connections) == (True, True, 1), said
    network.drain_timers()
    assert len(network.engine.flows) == 0, said


def pairs(stacks: list[Stack]) -> Iterator[tuple[End, End]]:
    for number, stack in enumerate(stacks):
        up, down = client_side(port=40000 + number), backend_side(client_port=40000 + number)
        client = End(up, 0xFFFF_FA00 + number, REQUEST, Stack(burst=3), Close.AFTER_PEER, is_client=True)
        yield client, End(down, 0x7000_0000 + number, RESPONSE, stack, Close.AT_ONCE, is_client=False, awaits=len(HELLO))
