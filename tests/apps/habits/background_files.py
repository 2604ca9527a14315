"""Files that the module opens and nobody ever closes: lines, rows, compressed ones, an archive, a temporary one.

A request writes a little to each, and prints; /hang never ends.
"""

import atexit
import csv
import gzip
import logging
import logging.handlers
import os
import tempfile
import time
import zipfile
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

me = os.getpid()
audit = open(f"audit.{me}.log", "a", encoding="utf-8")
raw = open(f"raw.{me}", "wb")
rows = csv.writer(open(f"rows.{me}.csv", "w", encoding="utf-8", newline=""))
packed = gzip.open(f"packed.{me}.gz", "wt", encoding="utf-8")
archive = zipfile.ZipFile(f"archive.{me}.zip", "w")
temporary = tempfile.NamedTemporaryFile(dir=".", prefix="temporary.")

log = logging.getLogger("habits")
log.propagate = False
log.addHandler(logging.handlers.MemoryHandler(1000, target=logging.FileHandler(f"memory.{me}.log")))


@atexit.register
def say_goodbye() -> None:
    with open(f"atexit.{me}", "w", encoding="ascii") as file:
        file.write("goodbye\n")


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    audit.write("a line\n")
    raw.write(b"bytes\n")
    rows.writerow(["a", "row"])
    packed.write("packed\n")
    archive.writestr("member", "archived\n")
    log.warning("remembered")
    print(f"printed by {me}")
    if environ["PATH_INFO"] == "/hang":
        time.sleep(3600)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(me).encode()]
