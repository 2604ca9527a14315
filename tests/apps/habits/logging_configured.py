"""The habit: dictConfig that disables whatever loggers there are, with handlers to standard error and a file."""

import logging
import logging.config
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": True,
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": "app.log"},
            "console": {"class": "logging.StreamHandler"},
        },
        "root": {"level": "DEBUG", "handlers": ["file", "console"]},
    }
)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    logging.info("asked for %s", environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
