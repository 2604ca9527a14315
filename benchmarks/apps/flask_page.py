"""A page of a real framework: a Flask view with a rule, a query argument and a template."""

from flask import Flask, render_template_string, request

app = Flask(__name__)

_PAGE = """<!doctype html><title>{{ name }}</title>
<h1>Hello, {{ name }}</h1>
<ul>{% for item in items %}<li>{{ item }}</li>{% endfor %}</ul>
"""


@app.get("/hello/<name>")
def hello(name: str) -> str:
    """Greet."""
    return render_template_string(_PAGE, name=name, items=range(int(request.args.get("n", "10"))))
