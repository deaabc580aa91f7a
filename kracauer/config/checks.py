"""Checks of single values: numbers, switches, words, names of devices."""

import re
from collections.abc import Sequence
from typing import Final

from kracauer.config.problems import nearest
from kracauer.config.reader import Check, MistakeError

_LONGEST_DEVICE_NAME: Final = 15
# Linux, dev_valid_name(): printable, no white space, "/" or ":"; "%" would be filled in by the kernel.
_DEVICE_NAME: Final = re.compile(r"[!-~]+", re.ASCII)
_KERNELS_TABLES: Final = {253: '"default"', 254: '"main"', 255: '"local"'}
_DEVICE_NAMES_TAKEN: Final = {"lo": "the loopback device", "all": "a word of sysctl", "default": "a word of sysctl"}


def text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise MistakeError("must be text in quotes")
    return value


def boolean(value: object) -> bool:
    """A switch; 0, 1 and "yes" are none."""
    if not isinstance(value, bool):
        raise MistakeError("must be true or false, without quotes")
    return value


def whole_number(lowest: int, highest: int) -> Check[int]:
    """A check for an integer in the range; true and false are no numbers here, although Python counts them as such."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise MistakeError(f"must be a whole number from {lowest} to {highest}")
        return value

    return check


def seconds(lowest: float, highest: float, because: str = "") -> Check[float]:
    """A check for a whole or fractional number of seconds in the range; `because` explains an unobvious limit."""

    def check(value: object) -> float:
        # nan compares false with everything, and inf is beyond every `highest`: neither passes.
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            raise MistakeError(f"must be a number of seconds from {lowest:g} to {highest:g}{because}")
        return float(value)

    return check


def number(lowest: float, highest: float) -> Check[float]:
    """A check for a whole or fractional number in the range."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            raise MistakeError(f"must be a number from {lowest:g} to {highest:.0f}")
        return float(value)

    return check


def window_scale(value: object) -> int | None:
    """A shift count from 0 to 14 (RFC 7323 §2.3), or false (None) for a stack without window scaling."""
    if value is False:
        return None
    try:
        return whole_number(0, 14)(value)
    except MistakeError as mistake:
        raise MistakeError(f"{mistake}, or false for none") from None


def one_of(words: Sequence[str]) -> Check[str]:
    """A check for one of `words`."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            meant = nearest(value, words) if isinstance(value, str) else None
            hint = f': did you mean "{meant}"?' if meant else ""
            raise MistakeError("must be one of " + ", ".join(f'"{word}"' for word in words) + hint)
        return value

    return check


_OFFLOAD: Final = ("auto", "off", "require")


def offload(value: object) -> str:
    """Whether the kernel carries packets; the key beside it, which is of other things, has a switch and no words."""
    if isinstance(value, bool):
        words = ", ".join(f'"{word}"' for word in _OFFLOAD)
        meant = "auto" if value else "off"
        raise MistakeError(f'must be one of {words}: did you mean "{meant}", or the key offloads?')
    return one_of(_OFFLOAD)(value)


def offloads(value: object) -> bool:
    """Whether the device has offloads; see `offload`."""
    if isinstance(value, str) and value in _OFFLOAD:
        raise MistakeError("must be true or false, without quotes: did you mean the key offload?")
    return boolean(value)


def redirect(value: object) -> bool:
    """Where to send clients that speak plain HTTP: "https" is all there is."""
    if value != "https":
        raise MistakeError('must be "https": plain HTTP is sent on to it, and nowhere else')
    return True


def routing_table(value: object) -> int:
    """The number of a routing table that is not one of the kernel's own."""
    number = whole_number(1, 0xFFFF_FFFF)(value)
    if number in _KERNELS_TABLES:
        raise MistakeError(f"is the table {_KERNELS_TABLES[number]}: must be a number that nobody else uses, as in 198")
    return number


def device_name(value: object) -> str:
    """A name that Linux accepts for a network device and takes literally."""
    name = text(value)
    if not 1 <= len(name.encode(errors="replace")) <= _LONGEST_DEVICE_NAME:
        raise MistakeError(f'must have 1 to {_LONGEST_DEVICE_NAME} characters, as in "kracauer0"')
    if not _DEVICE_NAME.fullmatch(name) or any(character in "/:%" for character in name) or name in {".", ".."}:
        raise MistakeError('must be printable ASCII without spaces, "/", ":" or "%", as in "kracauer0"')
    if name in _DEVICE_NAMES_TAKEN:
        raise MistakeError(f'is {_DEVICE_NAMES_TAKEN[name]}: choose another, as in "kracauer0"')
    return name
