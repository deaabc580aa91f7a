"""The service itself: whether it runs, as which version, and with which configuration."""

from collections.abc import Iterator
from typing import Final

from kracauer.doctor.facts import Facts, ServiceState
from kracauer.doctor.finding import Finding, Remedy, Topic, advise, run_here
from kracauer.host.steps import ALIAS

SERVICE: Final = Topic("service", "It is the service that answers clients.")
RELOAD: Final = Topic("reload", "What the file says holds only once the service has taken it over.")


def examine_service(facts: Facts) -> Iterator[Finding]:
    """Whether it runs and is well."""
    service = facts.service
    match service.state:
        case ServiceState.HIDDEN:
            yield SERVICE.skipped(service.error, remedies=(run_here(f"sudo kracauer doctor{facts.source.option}"),))
        case ServiceState.MUTE:
            remedies = (run_here("journalctl -u kracauer -n 50"), run_here("systemctl restart kracauer"))
            yield SERVICE.failure(service.error, *remedies)
        case ServiceState.ABSENT:
            yield _absent(facts)
        case ServiceState.RUNNING:
            yield _running(facts)


def _absent(facts: Facts) -> Finding:
    start = run_here(f"kracauer run{facts.source.option}")
    remedies = (start, Remedy(start.place, "systemctl start kracauer", "or, where `kracauer install-service` was run"))
    if facts.interface is not None and facts.interface.alias == ALIAS:
        found = "no service runs; one has left its device, and what is sent there is lost until the next one starts"
        return SERVICE.warning(
            found,
            *remedies,
            Remedy(start.place, f"kracauer stop --forget{facts.source.option}", "if there is to be no next one"),
        )
    return SERVICE.warning("no service runs with this device", *remedies)


def _running(facts: Facts) -> Finding:
    status, own = facts.service.status, facts.service.version
    uptime = int(status.get("uptime_s", 0))
    found = f"version {status.get('version')} runs as process {status.get('pid')} for {uptime} s"
    errors = status.get("counters", {}).get("internal_errors", 0)
    if errors:
        remedies = (run_here("journalctl -u kracauer -g internal_error"), advise("please report what it shows"))
        return SERVICE.warning(f"{found}, and has made {errors} mistakes", *remedies)
    if status.get("version") != own:
        return SERVICE.warning(f"{found}, and {own} is installed", run_here("systemctl restart kracauer"))
    return SERVICE.ok(found)


def examine_reload(facts: Facts) -> Iterator[Finding]:
    """Whether the last reload was refused, and whether the file has the prefix that the service has."""
    if not facts.is_running:
        yield RELOAD.skipped("no service answers")
        return
    status = facts.service.status
    last = status.get("last_reload")
    config = facts.config
    if config is not None and status.get("prefix") not in (None, str(config.prefix)):
        found = f"the service has the prefix {status['prefix']}, the configuration {config.prefix}"
        restart = Remedy(
            "this machine", "systemctl restart kracauer", "a restart, which keeps connections, if the file is right"
        )
        yield RELOAD.failure(found, restart)
    elif last is not None and last.get("problems"):
        found = f"the last reload, {last.get('at')}, was refused: {'; '.join(last['problems'])}"
        yield RELOAD.warning(found, run_here("kracauer reload"), advise("mend the problems first"))
    elif last is None:
        yield RELOAD.ok("none was asked for since the service started")
    else:
        yield RELOAD.ok(f"the last one, {last.get('at')}, was done")
