"""Work that may block, done beside the event loop, and given up when it takes too long."""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def in_background(work: Callable[[], Result], timeout_s: float) -> Result:
    """Return or raise what `work` does in a thread of its own; TimeoutError when it is not done by then, or OSError (EAGAIN).

    EAGAIN is for a thread that there is no room for. One that is late is left to itself: neither the loop nor the process waits
    for it, as asyncio would for one of its own.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Result] = loop.create_future()

    def tell(value: Result | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # None only where `work` returns it

    def run() -> None:
        value: Result | None = None
        failure: BaseException | None = None
        try:
            value = work()
        except BaseException as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, value, failure)

    try:
        threading.Thread(target=run, name="background", daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    async with asyncio.timeout(timeout_s):
        return await result
