"""What a backend's TCP does: the options it answers a SYN with (RFC 9293 §3.7.1, RFC 7323 §2, RFC 2018 §2)."""

from dataclasses import dataclass
from typing import Final

DEFAULT_MSS_V6: Final = 1220  # of an IPv6 peer that sends no MSS option (RFC 9293 §3.7.1)


@dataclass(frozen=True, slots=True)
class BackendProfile:
    """A backend's TCP as configured or as its last SYN-ACK showed it; sizes in bytes, `window_scale` None for none.

    `window` is the receive window of the SYN-ACK itself, which is never scaled (RFC 7323 §2.2).
    """

    mss: int = 1440
    window_scale: int | None = 7
    sack: bool = True
    timestamps: bool = True
    ecn: bool = False
    window: int = 65535
