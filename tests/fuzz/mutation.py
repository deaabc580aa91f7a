"""Inputs without coverage to guide them: seeds cut up, mixed and spoilt at random; and findings made small."""

import random
from collections.abc import Callable, Iterator, Sequence


def mutations(pool: Sequence[bytes], max_bytes: int, seed: int) -> Iterator[bytes]:
    """The inputs of `pool` themselves, then without end what comes of them; the same for the same `seed`."""
    yield from pool
    chance = random.Random(seed)
    while True:
        data = bytearray(chance.choice(pool))
        for _ in range(chance.choice((1, 1, 2, 4, 8, 16))):
            _spoil(data, pool, chance)
        yield bytes(data[:max_bytes])


def _spoil(data: bytearray, pool: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    end = min(at + chance.choice((1, 1, 2, 4, 8, 32, 128)), len(data))
    match chance.randrange(8):
        case 0 | 1 if at < len(data):
            data[at] = chance.randrange(256)
        case 2 if at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        case 3 if at < len(data):
            data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        case 4:
            del data[at:end]
        case 5:
            data[at:at] = data[at:end] or b"\0"
        case 6:
            other = chance.choice(pool)
            start = chance.randrange(len(other) + 1)
            data[at:end] = other[start : start + chance.choice((4, 16, 64, 256))]
        case _:
            data[at:end] = chance.randbytes(chance.choice((1, 2, 4, 16, 64)))


def shrink(data: bytes, is_finding: Callable[[bytes], bool], attempts: int = 2000) -> bytes:
    """The smallest input that was found by leaving pieces of `data` out."""
    size = len(data) // 2
    while size and attempts > 0:
        at, before = 0, len(data)
        while at < len(data) and attempts > 0:
            attempts -= 1
            smaller = data[:at] + data[at + size :]
            if is_finding(smaller):
                data = smaller
            else:
                at += size
        if size == 1 and len(data) == before:
            break
        size = max(size // 2, 1) if size > 1 or len(data) != before else 0
    return data
