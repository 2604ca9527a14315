"""One of the habits, which HABIT names, with a page that hangs: /hang."""

import importlib
import os
from collections.abc import Iterable
from time import sleep
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

habit = importlib.import_module(f"tests.apps.habits.{os.environ['HABIT']}")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    """Hang, or do what the habit does."""
    if environ["PATH_INFO"] == "/hang":
        sleep(3600)
    answer: Iterable[Any] = habit.app(environ, start_response)
    return answer
