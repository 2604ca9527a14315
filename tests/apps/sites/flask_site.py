"""A Flask site with one route for each thing that a server can get wrong."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, jsonify, redirect, render_template_string, request, send_file, session, url_for
from werkzeug.wrappers import Response as AnyResponse

app = Flask(__name__)
app.secret_key = "a test needs no secret"

_FORM = """<!doctype html>
<title>{{ title }}</title>
<form method="post" action="{{ url_for('greet') }}"><input name="name"></form>
"""


@app.get("/")
def index() -> str:
    return render_template_string(_FORM, title="Flask <site>")


@app.post("/greet")
def greet() -> str:
    return render_template_string("<p>Hello, {{ name }}!</p>", name=request.form["name"])


@app.post("/upload")
def upload() -> Response:
    told = []
    for field, file in request.files.items(multi=True):
        content = file.read()
        told.append([field, file.filename, len(content), hashlib.sha256(content).hexdigest()])
    return jsonify(note=request.form.get("note"), files=told)


@app.put("/digest")
def digest() -> Response:
    content = request.get_data()
    return jsonify(size=len(content), sha256=hashlib.sha256(content).hexdigest())


@app.get("/stream")
def stream() -> Response:
    """Give one line, then wait for the one that is written into the FIFO."""
    path = Path(request.args["fifo"])

    def lines() -> Iterator[str]:
        yield "first\n"
        with path.open() as fifo:
            yield fifo.readline()

    return Response(lines(), mimetype="text/plain")


@app.get("/file")
def file() -> AnyResponse:
    return send_file(__file__, mimetype="text/x-python")


@app.get("/old")
def old() -> AnyResponse:
    return redirect(url_for("index"))


@app.get("/visits")
def visits() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


@app.get("/peer")
def peer() -> str:
    return str(request.environ["REMOTE_PORT"])


@app.get("/raise")
def fail() -> str:
    raise RuntimeError("the Flask view failed")
