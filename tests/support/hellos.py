"""First messages of clients, as small or as large as a test wants them."""


def _vector(length_size: int, content: bytes) -> bytes:
    return len(content).to_bytes(length_size, "big") + content


def client_hello(hostname: str | None, size: int = 0) -> bytes:
    """A TLS ClientHello in one record, padded to `size` bytes where that is more; the name comes after the padding."""
    extensions = b""
    if hostname is not None:
        extensions = b"\0\0" + _vector(2, _vector(2, b"\0" + _vector(2, hostname.encode())))
    fixed = b"\x03\x03" + bytes(32) + b"\0" + _vector(2, b"\x13\x01") + _vector(1, b"\0")
    padding = size - 5 - 4 - len(fixed) - 2 - len(extensions) - 4
    if padding >= 0:
        extensions = b"\0\x15" + _vector(2, bytes(padding)) + extensions
    body = fixed + _vector(2, extensions)
    return b"\x16\x03\x01" + _vector(2, b"\x01" + _vector(3, body))


def http_request(hostname: str, method: str = "GET") -> bytes:
    return f"{method} / HTTP/1.1\r\nHost: {hostname}\r\n\r\n".encode()


def bulk(size: int, first: int = 0) -> bytes:
    """`size` bytes of a stream in which no two places look alike for long; they begin at its byte `first`."""
    start = first // 4
    words = b"".join((number * 2654435761 % 2**32).to_bytes(4, "big") for number in range(start, (first + size) // 4 + 1))
    return words[first - 4 * start :][:size]
