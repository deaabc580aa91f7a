from dataclasses import FrozenInstanceError, fields

import pytest

from kracauer import events
from kracauer.errors import DropReason
from kracauer.events import (
    BackendDown,
    BackendFailed,
    BackendUp,
    CloseReason,
    Endpoint4,
    Endpoint6,
    Event,
    FailureReason,
    FlowClosed,
    FlowRedirected,
    FlowRefused,
    FlowSpliced,
    NameFailed,
    NameRefused,
    NameResolved,
    NameWanted,
    PacketDropped,
    ProfileLearnt,
    RefusalReason,
)
from kracauer.profile import BackendProfile

CLIENT, SERVICE = Endpoint4(bytes((192, 0, 2, 7)), 49152), Endpoint4(bytes((198, 51, 100, 1)), 443)
BACKEND = Endpoint6(bytes.fromhex("20010db8000100000000000000000002"), 8443)

EVENTS: list[Event] = [
    FlowSpliced(CLIENT, SERVICE, BACKEND, "www.example.com", "*.example.com", 0.025),
    FlowRefused(CLIENT, SERVICE, RefusalReason.NO_ROUTE, "unrecognized_name", "www.example.net"),
    FlowRedirected(CLIENT, SERVICE, "www.example.com"),
    FlowClosed(CLIENT, SERVICE, CloseReason.FINISHED, "both_fin", 1.5, "www.example.com", BACKEND, 1, 2, 3, 4),
    BackendFailed(CLIENT, BACKEND, FailureReason.SILENT),
    BackendDown(BACKEND, FailureReason.SILENT),
    BackendUp(BACKEND, 7.5),
    NameWanted("web1.example.net"),
    NameResolved("web1.example.net", ("2001:db8:1::2", "2001:db8:1::3")),
    NameRefused("web1.example.net", ("2001:db8:2::2",)),
    NameFailed("web1.example.net", "timeout", keeps=True),
    ProfileLearnt(BACKEND, BackendProfile()),
    PacketDropped(DropReason.BAD_CHECKSUM),
]


def test_endpoints_are_shown_as_one_types_them() -> None:
    assert str(CLIENT) == "192.0.2.7:49152"
    assert str(BACKEND) == "[2001:db8:1::2]:8443"


def test_every_event_has_a_sample_here() -> None:
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event}
    assert {type(event) for event in EVENTS} == kinds


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_fields_are_plain_values(event: Event) -> None:
    shown = event.fields()
    single = [part for value in shown.values() for part in (value if isinstance(value, tuple) else (value,))]
    assert all(value is None or type(value) in (str, int, float, bool) for value in single)
    assert not {"event", "level"} & set(shown)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_an_event_has_a_name_of_its_own_and_a_level_of_the_log(event: Event) -> None:
    assert [other.event for other in EVENTS].count(event.event) == 1
    assert event.event != Event.event
    assert event.level in ("debug", "info", "warning")


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_an_event_does_not_change(event: Event) -> None:
    with pytest.raises((FrozenInstanceError, TypeError)):
        setattr(event, fields(event)[0].name, None)


def test_a_spliced_flow_is_told_in_full() -> None:
    assert EVENTS[0].fields() == {
        "client": "192.0.2.7:49152",
        "service": "198.51.100.1:443",
        "backend": "[2001:db8:1::2]:8443",
        "hostname": "www.example.com",
        "pattern": "*.example.com",
        "setup_s": 0.025,
    }


def test_what_is_absent_is_left_out() -> None:
    assert BackendFailed(CLIENT, BACKEND, FailureReason.SILENT).fields() == {
        "client": "192.0.2.7:49152",
        "backend": "[2001:db8:1::2]:8443",
        "reason": "silent",
    }


def test_zero_is_not_absent() -> None:
    shown = FlowClosed(CLIENT, SERVICE, CloseReason.IDLE, "established", 0.0).fields()
    assert (shown["duration_s"], shown["bytes_to_client"]) == (0.0, 0)


def test_a_drop_says_its_reason_and_the_detail_it_has() -> None:
    assert PacketDropped(DropReason.NOT_TCP, "protocol 17").fields() == {"reason": "not_tcp", "detail": "protocol 17"}
    assert PacketDropped(DropReason.NOT_TCP).fields() == {"reason": "not_tcp"}


def test_a_learnt_profile_is_told_field_by_field() -> None:
    profile = BackendProfile(mss=1380, window_scale=None, sack=True, timestamps=False, ecn=False, window=64_800)
    assert ProfileLearnt(BACKEND, profile).fields() == {
        "backend": "[2001:db8:1::2]:8443",
        "mss": 1380,
        "window_scale": None,
        "sack": True,
        "timestamps": False,
        "ecn": False,
        "window": 64_800,
    }
