"""A request begins work that goes on when it has been answered: by a thread, an executor, a timer, asyncio.

/HOW?SECONDS; HOW is what begins it. When the work is done, its name stands in `done`.
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

executor = concurrent.futures.ThreadPoolExecutor(2)


def work(name: str, seconds: float) -> None:
    time.sleep(seconds)
    with open("done", "a", encoding="ascii") as file:
        file.write(f"{name}\n")


def by_thread(name: str, seconds: float) -> None:
    threading.Thread(target=work, args=(name, seconds), name=f"background-{name}").start()


def by_executor(name: str, seconds: float) -> None:
    executor.submit(work, name, seconds)


def by_queue(name: str, seconds: float) -> None:
    """More jobs than threads: the last has not begun when the worker ends."""
    for part in range(4):
        executor.submit(work, f"{name}-{part}", seconds / 2)


def by_timer(name: str, seconds: float) -> None:
    threading.Timer(seconds, work, (name, 0)).start()


def by_asyncio(name: str, seconds: float) -> None:
    has_begun = threading.Event()

    def work_on() -> None:
        has_begun.set()
        work(name, seconds)

    threading.Thread(target=lambda: asyncio.run(asyncio.to_thread(work_on))).start()
    has_begun.wait()  # Python itself begins nothing in an executor any more once it ends


def by_daemon(name: str, seconds: float) -> None:
    """Python itself does not wait for these."""
    threading.Thread(target=work, args=(name, seconds), daemon=True).start()


BY: dict[str, Callable[[str, float], None]] = {
    "thread": by_thread,
    "executor": by_executor,
    "queue": by_queue,
    "timer": by_timer,
    "asyncio": by_asyncio,
    "daemon": by_daemon,
}


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    how = environ["PATH_INFO"].strip("/")
    if how:
        BY[how](how, float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"begun"]
