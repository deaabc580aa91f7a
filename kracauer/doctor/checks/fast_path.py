"""Whether the kernel carries connections, or would."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from kracauer.daemon.descriptor_store import MOST
from kracauer.doctor.checks.remedies import from_text
from kracauer.doctor.facts import Facts, ServiceState
from kracauer.doctor.finding import Finding, Remedy, Topic, advise, run_here

FAST_PATH: Final = Topic("fast-path", "What the kernel carries does not wait for the process, and goes on while there is none.")

BPF: Final = frozenset({"cap_bpf", "cap_sys_admin"})  # either will do
_OFF: Final = 'network.offload = "off": every packet passes the process'
_MOUNT: Final = run_here("mount -t bpf bpf /sys/fs/bpf")
_STORE: Final = advise(
    f"or have systemd hold it: FileDescriptorStoreMax={MOST}, which `kracauer install-service` writes", "the unit"
)


def examine_fast_path(facts: Facts) -> Iterator[Finding]:
    """What the service says of it, or what came of trying."""
    match facts.service.state:
        case ServiceState.RUNNING:
            yield _told(facts.service.status.get("offload"))
        case ServiceState.HIDDEN:
            yield FAST_PATH.skipped("only the service that runs here can say, and this user may not ask it")
        case ServiceState.MUTE:
            yield FAST_PATH.skipped("only the service that runs here can say, and it does not answer")
        case ServiceState.ABSENT:
            yield _tried(facts)


def _told(offload: Mapping[str, Any] | None) -> Finding:
    if offload is None:
        return FAST_PATH.skipped("the service that runs is of a version that does not say")
    cause, remedies = offload["cause"], from_text(offload["remedy"]) if offload["remedy"] else ()
    if offload["hook"] is None:
        if offload["wanted"] == "off":
            return FAST_PATH.ok(_OFF)
        return FAST_PATH.warning(f"every packet passes the process: {cause}", *remedies)
    found = f"the kernel carries {offload['flows']} connections, by {offload['hook']}"
    if offload["survives"]:
        keeper = offload.get("kept_by")  # which an older service does not say
        return FAST_PATH.ok(f"{found}, also while no process runs{f', kept by the {keeper}' if keeper else ''}")
    return FAST_PATH.warning(f"{found}, but only while the process runs: {cause}", *remedies)


def _tried(facts: Facts) -> Finding:
    config, offload = facts.config, facts.offload
    if config is None:
        return FAST_PATH.skipped("there is no valid configuration")
    wanted = config.network.offload
    if wanted == "off":
        return FAST_PATH.ok(_OFF)
    if offload is None:
        return FAST_PATH.skipped(facts.missing.get("offload", "no device could be opened to try it with"))
    if offload.error and wanted == "require":
        relaxed = advise('or set network.offload = "auto", which goes on without', "the configuration")
        return FAST_PATH.failure(f'network.offload = "require", and {offload.error}', *_remedies(offload.remedy), relaxed)
    if offload.error:
        return FAST_PATH.warning(f"every packet will pass the process: {offload.error}", *_remedies(offload.remedy))
    found = f"the kernel takes the program, by {offload.hook}"
    if not offload.has_bpffs:
        missing = "there is no bpffs at /sys/fs/bpf for it to outlive the process, unless systemd holds it"
        return FAST_PATH.warning(f"{found}, but {missing}", _MOUNT, _STORE)
    return FAST_PATH.ok(f"{found}, and has a bpffs for it to outlive the process")


def _remedies(text: str) -> tuple[Remedy, ...]:
    return from_text(text) if text else ()
