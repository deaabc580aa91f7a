"""The configuration: that there is one, and that it is valid."""

from collections.abc import Iterator
from typing import Final

from kracauer.doctor.facts import Facts
from kracauer.doctor.finding import HERE, Finding, Remedy, Topic

CONFIGURED: Final = Topic("configuration", "It says which names lead to which backends; without it there is nothing to serve.")


DEFAULT_PLACE: Final = "/etc/kracauer/kracauer-config.toml"


def examine_configuration(facts: Facts) -> Iterator[Finding]:
    """One failure for each problem."""
    source = facts.source
    config = source.config
    if config is not None:
        counts = ((len(config.service_addresses), "service address"), (len(config.routes), "name"))
        yield CONFIGURED.ok(f"{source.path}: valid, {', '.join(count(number, noun) for number, noun in counts)}")
        return
    for problem in source.problems:
        if source.path is None or not source.is_there:
            install = f"install -D -m 0644 kracauer-config.toml {source.path or DEFAULT_PLACE}"
            yield CONFIGURED.failure(problem, Remedy(HERE, install, "start from the one that comes with Kracauer"))
        else:
            command = f"${{EDITOR:-vi}} {source.path}"
            yield CONFIGURED.failure(problem, Remedy(HERE, command, "the problem says what would be right"))


def count(number: int, noun: str) -> str:
    """So many of them, in words: all our nouns have plain plurals, but addresses."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"
