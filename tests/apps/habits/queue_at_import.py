"""The habit: a multiprocessing.Queue whose feeder thread and consumer live as long as the module."""

import multiprocessing
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

context = multiprocessing.get_context("fork")
jobs: Any = context.Queue()
done: Any = context.Queue()


def consume() -> None:
    while (job := jobs.get()) is not None:
        done.put(job * 2)


consumer = context.Process(target=consume, daemon=True)
consumer.start()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    jobs.put(21)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(done.get()).encode()]
