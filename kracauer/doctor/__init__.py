"""What stands between a new user and a working service: facts are gathered, checks say what they mean and what mends it.

`checks` are functions of the facts and touch nothing; `gathering` looks at the host, and changes nothing that outlives it.
"""

from kracauer.doctor.checks import TOPICS, diagnose
from kracauer.doctor.examination import examine, gather_facts
from kracauer.doctor.facts import Facts, Source
from kracauer.doctor.finding import Finding, Remedy, Severity, Topic

__all__ = [
    "TOPICS",
    "Facts",
    "Finding",
    "Remedy",
    "Severity",
    "Source",
    "Topic",
    "diagnose",
    "examine",
    "gather_facts",
]
