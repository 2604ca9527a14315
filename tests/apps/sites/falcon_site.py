"""A Falcon site with the routes of tests/apps/everyday.py."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import falcon
from falcon import Request, Response


class Index:
    """The page; HEAD is a method of its own here."""

    def on_get(self, request: Request, response: Response) -> None:
        response.content_type = falcon.MEDIA_HTML
        response.text = "<title>Falcon site</title>"

    on_head = on_get


class Greet:
    """A form."""

    def on_post(self, request: Request, response: Response) -> None:
        response.text = f"Hello, {request.get_media()['name']}!"


class Upload:
    """A file in a form."""

    def on_post(self, request: Request, response: Response) -> None:
        for part in request.get_media():
            content = part.stream.read()
            response.media = {
                "name": part.filename, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(),
            }  # fmt: skip


class Digest:
    """A body as it is."""

    def on_put(self, request: Request, response: Response) -> None:
        content = request.bounded_stream.read()
        response.media = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


class Stream:
    """One line, then the one that is written into the FIFO."""

    def on_get(self, request: Request, response: Response) -> None:
        path = Path(request.get_param("fifo", required=True))

        def lines() -> Iterator[bytes]:
            yield b"first\n"
            with path.open("rb") as fifo:
                yield fifo.readline()

        response.content_type = falcon.MEDIA_TEXT
        response.stream = lines()


class Old:
    """A redirect."""

    def on_get(self, request: Request, response: Response) -> None:
        raise falcon.HTTPFound("/")


class Peer:
    """The client's port."""

    def on_get(self, request: Request, response: Response) -> None:
        response.text = request.env["REMOTE_PORT"]


class Fail:
    """A fault."""

    def on_get(self, request: Request, response: Response) -> None:
        raise RuntimeError("the Falcon view failed")


app = falcon.App()
for path, resource in {
    "/": Index(), "/greet": Greet(), "/upload": Upload(), "/digest": Digest(), "/stream": Stream(), "/old": Old(),
    "/peer": Peer(), "/raise": Fail(),
}.items():  # fmt: skip
    app.add_route(path, resource)
