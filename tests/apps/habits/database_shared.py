"""The habit: one connection of sqlite3 at module level, used by every thread."""

import os
import sqlite3
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("create table visits (pid integer)")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    database.execute("insert into visits values (?)", (os.getpid(),))
    [(count,)] = database.execute("select count(*) from visits")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(count).encode()]
