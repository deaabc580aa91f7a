"""Which clients may come: the keys allow, deny, allow_file and deny_file, and the files that they name."""

import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias

from kracauer.access import AccessList
from kracauer.config import checks
from kracauer.config.problems import ABSENT, render
from kracauer.config.reader import MistakeError, Table, checked

ACCESS_KEYS: Final = ("allow", "deny", "allow_file", "deny_file")

ReadFile: TypeAlias = Callable[[str], str]  # raises OSError

_EXAMPLE: Final = '"192.0.2.0/24" or "192.0.2.7"'
_LENGTH: Final = re.compile(r"[0-9]{1,2}", re.ASCII)
_MOST_MISTAKES: Final = 20  # told of one file: a file of another kind has one in every line


class ClientNetworks:
    """Reads lists of client networks wherever they may stand.

    `read_file` gives the content of a file as text, and raises OSError; None where there is none to be had. `prefix` is the
    network in which backends see the clients, where it is known.
    """

    def __init__(self, read_file: ReadFile | None, prefix: IPv6Network | None) -> None:
        self._read_file = read_file
        self._prefix = prefix

    def read(self, table: Table) -> AccessList:
        """The list that the four keys of `table` make up; what is wrong with them becomes a problem."""
        before = len(table.problems)
        allow = self._read_key(table, "allow") + self._read_named_file(table, "allow_file")
        deny = self._read_key(table, "deny") + self._read_named_file(table, "deny_file")
        has_allow = "allow" in table.content or "allow_file" in table.content
        if has_allow and not allow and len(table.problems) == before:
            key = "allow" if "allow" in table.content else "allow_file"
            message = 'has no network, which locks everybody out: leave the key out to allow all, or write deny = ["0.0.0.0/0"]'
            table.problems.add(table.path_of(key), table.content[key], message)
        return AccessList(tuple(dict.fromkeys(allow)) if has_allow else None, tuple(dict.fromkeys(deny)))

    def _read_key(self, table: Table, key: str) -> list[IPv4Network]:
        value = table.get(key)
        if value is ABSENT:
            return []
        path = table.path_of(key)
        if not isinstance(value, list):
            table.problems.add(
                path, value, f"must be a list of networks or addresses of clients, as in [{_EXAMPLE.split()[0]}]"
            )
            return []
        found = (
            checked(table.problems, f"{path}[{index}]", element, self._network, None) for index, element in enumerate(value)
        )
        return [network for network in found if network is not None]

    def _read_named_file(self, table: Table, key: str) -> list[IPv4Network]:
        name = table.read(key, checks.text, None)
        if name is None:
            return []
        path = table.path_of(key)
        if self._read_file is None:
            table.problems.add(path, name, f"cannot be read from here: write the networks into {key.removesuffix('_file')}")
            return []
        try:
            content = self._read_file(name)
        except (OSError, ValueError) as error:
            table.problems.add(path, name, f"cannot be read: {_why_unreadable(error)}")
            return []
        found, mistakes = [], 0
        for number, written in _entries(content):
            try:
                found.append(self._network(written))
            except MistakeError as mistake:
                mistakes += 1
                if mistakes <= _MOST_MISTAKES:
                    table.problems.add(f"{path}: {render(name)}, line {number}", written, str(mistake))
        if mistakes > _MOST_MISTAKES:
            message = (
                f"has mistakes in {mistakes - _MOST_MISTAKES} more lines: write one network or address a line, as in {_EXAMPLE}"
            )
            table.problems.add(path, name, message)
        return found

    def _network(self, value: object) -> IPv4Network:
        """A check for one network or address of clients."""
        written = checks.text(value)
        address, slash, length = written.partition("/")
        try:
            inside = IPv4Address(address)
        except ValueError:
            raise MistakeError(self._why_no_network(written, address)) from None
        if not slash:
            return IPv4Network(inside)
        if not _LENGTH.fullmatch(length) or int(length) > 32:
            raise MistakeError(_why_no_length(inside, length))
        network = IPv4Network((inside, int(length)), strict=False)
        if network.network_address != inside:
            raise MistakeError(f'has bits set behind its first {network.prefixlen}: did you mean "{network}"?')
        return network

    def _why_no_network(self, written: str, address: str) -> str:
        try:
            inside = IPv6Address(address.strip("[]"))
        except ValueError:
            return f"must be an IPv4 network or address of clients, as in {_EXAMPLE}"
        if inside.ipv4_mapped is not None:
            return f'is an IPv4 address written as IPv6: did you mean "{inside.ipv4_mapped}"?'
        if self._prefix is not None and inside in self._prefix and "/" not in written:
            client = IPv4Address(inside.packed[12:])
            return f'is how backends see a client, and here clients stand as they dial: did you mean "{client}"?'
        return f"is IPv6, and clients are IPv4: must be as in {_EXAMPLE}"


def _entries(content: str) -> Iterator[tuple[int, str]]:
    """The lines of a file that say something, without comments, numbered from 1."""
    for number, line in enumerate(content.removeprefix("\ufeff").split("\n"), start=1):
        written = line.partition("#")[0].strip()
        if written:
            yield number, written


def _why_no_length(address: IPv4Address, length: str) -> str:
    try:
        network = IPv4Network(f"{address}/{length}", strict=False)
    except ValueError:
        return f"must have a whole number from 0 to 32 behind its slash, as in {_EXAMPLE}"
    # A mask, of the network or of the hosts in it.
    return f'must have the length of its prefix behind the slash: did you mean "{network}"?'


def _why_unreadable(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file (a relative path begins where the configuration stands)"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    reason = error.strerror if isinstance(error, OSError) else None
    return "".join(character if character.isprintable() else " " for character in reason or str(error))
