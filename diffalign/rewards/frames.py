"""Messages over a socket between two processes of one machine: each stands behind its length."""

from __future__ import annotations

import socket
import time

from diffalign.exceptions import DataError

_LONGEST = 2**34  # bytes: what claims to be longer is no message


def send(channel: socket.socket, message: bytes, seconds: float | None = None) -> None:
    """Send one message.

    Raises:
        TimeoutError: it was not taken in so many seconds.
        ConnectionError: nobody is there to take it.
    """
    channel.settimeout(seconds)
    channel.sendall(len(message).to_bytes(8, "little"))
    channel.sendall(message)


def receive(channel: socket.socket, seconds: float | None = None) -> bytes:
    """The next message.

    Raises:
        TimeoutError: it was not there in so many seconds.
        EOFError: the other side has hung up.
        DataError: what came is no message.
    """
    end = None if seconds is None else time.monotonic() + seconds
    length = int.from_bytes(_exactly(channel, 8, end), "little")
    if length > _LONGEST:
        raise DataError(f"a message claims to have {length} bytes")
    return bytes(_exactly(channel, length, end))


def _exactly(channel: socket.socket, count: int, end: float | None) -> bytearray:
    found = bytearray(count)
    view, done = memoryview(found), 0
    while done < count:
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        channel.settimeout(left)
        more = channel.recv_into(view[done:])
        if not more:
            raise EOFError
        done += more
    return found
