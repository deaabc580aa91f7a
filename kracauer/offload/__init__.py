"""The kernel fast path: plain packets of spliced flows, rewritten by an eBPF program on the device instead of by the engine."""
