"""The fast path in the kernel, where it is wanted and to be had: taken over from the process before, left to the one behind."""

import time
from typing import Final

from structlog.typing import FilteringBoundLogger

from kracauer.config import Config
from kracauer.daemon.descriptor_store import DescriptorStore
from kracauer.fast_path import FastPath, NoFastPath, Standing
from kracauer.offload import layout
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.offload.pins import Former
from kracauer.tcp.record import Records

AUTO, OFF, REQUIRE = "auto", "off", "require"
# What is counted of them takes 144 bytes each, at once. Those beyond are carried as ever.
MAX_FLOWS: Final = 1 << 20


class Offload:
    """The fast path of one service, from before it takes up flows until it is left to a successor or taken away.

    In this order: `open`, the flows are adopted, `attach`, privileges are dropped, `check`; at the end `keep` or `remove`.
    Where the kernel does not take it, `path` is one that takes nothing, from `check` on at the latest.
    """

    def __init__(self, config: Config, device: str, log: FilteringBoundLogger) -> None:
        self.path: FastPath = NoFastPath()
        self._wanted = config.network.offload
        self._workers = config.network.workers
        self._capacity = -(-min(config.limits.flows, MAX_FLOWS) // self._workers)  # of each
        self._device = device
        self._log = log
        self._store = DescriptorStore(device)
        self._former: Former | None = None
        self._kernel: KernelPath | None = None

    @property
    def kernel(self) -> KernelPath | None:
        """The path, where it is the kernel's."""
        return self._kernel

    def hand_down(self) -> list[dict[str, int]]:
        """What an earlier process has left, for workers to collect from: descriptors by name, which are the caller's."""
        return [] if self._former is None else self._former.hand_down()

    def open(self, records: Records | None, *, is_recording: bool = False) -> None:
        """Have the records tell what an earlier process's program has carried, and make maps and program of our own.

        No records: they are workers', and so is that.
        Raises OffloadError where the configuration requires what cannot be. What is recorded has to pass here, so then there is
        no fast path, as with "off": an earlier one is taken away.
        """
        if is_recording and self._wanted == REQUIRE:
            cause = "packets that the kernel carries cannot be recorded"
            raise OffloadError(cause, 'set network.offload = "auto", or do not record')
        if self._store.problem:
            self._log.warning("descriptors_unusable", cause=self._store.problem)
        former = self._former = Former.find(self._device, store=self._store)
        if records is not None:
            former.collect(records)
        if self._wanted == OFF:
            self._remove_former('network.offload = "off"')
        elif is_recording:
            cause = "packets are recorded, so all of them have to pass the process"
            self._log.info("offload_unavailable", device=self._device, cause=cause)
            self.path = NoFastPath(Standing(cause=cause))
            self._remove_former(cause)
        else:
            try:
                self.path = self._kernel = KernelPath.open(self._capacity, former=former, workers=self._workers)
            except OffloadError as error:
                if self._wanted == REQUIRE:
                    raise
                self.path = NoFastPath(self._report(error))
                self._remove_former(error.cause)

    def attach(self, records: Records | None) -> None:
        """Put the program on the device, between two packets in the place of an earlier one's; raises as `open`."""
        kernel, former = self._kernel, self._former
        if kernel is None or former is None:
            return
        kernel.sweep(time.monotonic())  # else flows would wait until somebody serves
        try:
            kind = kernel.attach(self._device)
        except OffloadError as error:
            if self._wanted == REQUIRE:
                raise
            self._give_up(error)
            self._remove_former(error.cause)
            return
        if records is not None:
            kernel.note_moved(former.collect(records))  # what was carried while we took up the flows
        if former.flows:
            self._log.info("offload_taken_over", device=self._device, flows=former.flows)
        self._warn_unreadable(former)
        former.close()
        standing = kernel.standing
        why = {"kept_by": standing.kept_by} if standing.survives else {"cause": standing.cause, "remedy": standing.remedy}
        self._log.info(
            "offload_attached",
            device=self._device,
            kind=kind,
            flows=self._capacity * self._workers,
            survives=standing.survives,
            **why,
        )

    def check(self) -> None:
        """Try whether it works now that privileges were dropped; raises as `open`."""
        if self._kernel is None:
            return
        try:
            self._kernel.check()
        except OffloadError as error:
            if self._wanted == REQUIRE:
                raise
            self._give_up(error)

    def keep(self) -> None:
        """Have the records tell all, and leave flows in the kernel to the next process where that can be."""
        if self._kernel is not None:
            self._kernel.keep()
        if self._former is not None:
            self._former.close()

    def remove(self) -> None:
        """Take everything away, an earlier process's too."""
        self.path.close()
        if self._former is not None:
            self._former.close()
        Former.find(self._device, store=self._store).remove()

    def _give_up(self, error: OffloadError) -> None:
        assert self._kernel is not None
        self._kernel.close()
        self._kernel.standing = self._report(error)
        self._kernel = None

    def _report(self, error: OffloadError) -> Standing:
        self._log.info("offload_unavailable", device=self._device, cause=error.cause, remedy=error.remedy)
        return Standing(cause=error.cause, remedy=error.remedy)

    def _remove_former(self, cause: str) -> None:
        assert self._former is not None
        self._warn_unreadable(self._former)
        if self._former.remove():
            self._log.info("offload_removed", device=self._device, cause=cause)

    def _warn_unreadable(self, former: Former) -> None:
        if former.unreadable:
            self._log.warning(
                "offload_counts_lost",
                device=self._device,
                path=", ".join(former.unreadable_at),
                cause=f"an earlier process has left maps there that are not of layout {layout.VERSION}, or are damaged",
            )


def remove_offload(device: str) -> bool:
    """Take away what any process has left of the fast path on `device`; returns whether there was anything."""
    return Former.find(device, store=DescriptorStore(device)).remove()
