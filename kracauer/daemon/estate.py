"""What a service has on the host, and what becomes of it: kept for a successor, or all given back."""

from collections.abc import Callable, Mapping

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config
from kracauer.daemon.flow_file import FlowFile
from kracauer.daemon.flow_files import remove_flow_files
from kracauer.daemon.offloading import Offload, remove_offload
from kracauer.flows import FlowTable
from kracauer.host import HostSetup, destinations, forget
from kracauer.tcp.state import SPLICED
from kracauer.tun import TunDevice

HOW_TO_UNDO = "kracauer stop --forget"


class Estate:
    """Device, host set-up, fast path and flow file, as far as there are any yet. One of the three methods ends it.

    `count_kept` tells how many flows would outlive the process; those of workers have files of their own. `end_work` ends
    whoever is still at work with any of it.
    """

    def __init__(self, config: Config, log: FilteringBoundLogger) -> None:
        self.tun: TunDevice | None = None
        self.setup: HostSetup | None = None
        self.offload: Offload | None = None
        self.flow_file: FlowFile | None = None
        self.count_kept: Callable[[], int] = lambda: 0
        self.end_work: Callable[[], None] = lambda: None
        self._config = config
        self._log = log

    @property
    def flows_kept(self) -> int:
        """How many of the flows there are now would outlive the process."""
        return self.count_kept()

    def keep(self) -> Mapping[str, object]:
        """Let go of everything and leave it where it is; returns what is kept, for the log."""
        self.end_work()
        if self.offload is not None:
            self.offload.keep()
        kept = self.flows_kept
        self._close()
        return {"kept": True, "flows": kept, "undo": HOW_TO_UNDO}

    def forget(self, config: Config) -> Mapping[str, object]:
        """Give everything back, routes before the device they lead into; `config` is the one last in force."""
        self.end_work()
        failures: tuple[str, ...] = ()
        self._remove_offload()
        if self._config.network.manage:
            if self.setup is not None:
                failures = self.setup.undo()
            if self.tun is not None:
                self.tun.close()  # what is attached to somebody is left alone
            wanted = dict.fromkeys((*destinations(self._config), *destinations(config)))
            failures += forget(self._config.network.device, tuple(wanted))
        self._close()
        remove_flow_files(self._config.network.device)
        self._warn(failures)
        return {"kept": False, "failures": list(failures)} if failures else {"kept": False}

    def abandon(self) -> None:
        """Take back what this process has set up, after a start that failed, unless an earlier one's connections need it."""
        self.end_work()
        is_needed = (self.tun is not None and self.tun.is_found) or self.flows_kept
        if not is_needed:
            self._remove_offload()
        elif self.offload is not None:
            self.offload.keep()
        if self.setup is not None and not is_needed:
            self._warn(self.setup.undo())
        if self.tun is not None and self._config.network.manage and not is_needed:
            self.tun.remove()
        self._close()

    def _remove_offload(self) -> None:
        if self.offload is None:
            remove_offload(self._config.network.device)
        else:
            self.offload.remove()

    def _warn(self, failures: tuple[str, ...]) -> None:
        for failure in failures:
            self._log.warning("undo_incomplete", cause=failure)

    def _close(self) -> None:
        if self.tun is not None:
            self.tun.close()
        if self.flow_file is not None:
            self.flow_file.close()


def count_kept(flows: FlowTable, flow_file: FlowFile) -> int:
    """How many of the flows there are now would outlive the process."""
    if not flow_file.is_kept:
        return 0
    return max(sum(flow.state in SPLICED for flow in flows) - flow_file.records.unkept, 0)
