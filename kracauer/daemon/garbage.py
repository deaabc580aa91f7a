"""Python's collector of circular garbage, kept from looking at what lives long again and again.

A full collection looks at every object there is: with 60,000 flows that takes 11 to 33 ms, in which no packet is read. Flows
make no circles, and reference counts free them. So a collection looks at what is young; what has lived to see two is let be.
A circle that is given up later than that is never found; nothing that packets bring about makes any.
"""

import gc


def spare_the_old() -> None:
    """Clear up once, and have no collection look at what exists by now, or at anything that outlives a second one."""
    gc.collect()
    gc.freeze()
    if _freeze_survivors not in gc.callbacks:
        gc.callbacks.append(_freeze_survivors)


def _freeze_survivors(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] > 0:
        gc.freeze()
