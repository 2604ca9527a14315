"""Views of the Django site."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from django import forms
from django.http import FileResponse, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import redirect
from django.template import engines
from django.views.decorators.csrf import csrf_exempt

_PAGE = """<!doctype html>
<title>Django site</title>
{% if name %}<p>Hello, {{ name }}!</p>{% endif %}
<form method="post">{% csrf_token %}{{ form }}</form>
"""


class Greeting(forms.Form):  # type: ignore[misc]
    name = forms.CharField(max_length=20)


def form(request: HttpRequest) -> HttpResponse:
    greeting = Greeting(request.POST or None)
    name = greeting.cleaned_data["name"] if greeting.is_valid() else None
    return HttpResponse(engines["django"].from_string(_PAGE).render({"form": greeting, "name": name}, request))


@csrf_exempt  # type: ignore[untyped-decorator]
def upload(request: HttpRequest) -> HttpResponse:
    told = []
    for field, files in request.FILES.lists():
        for file in files:
            sha256 = hashlib.sha256()
            for chunk in file.chunks():
                sha256.update(chunk)
            told.append([field, file.name, file.size, sha256.hexdigest(), type(file).__name__])
    return JsonResponse({"note": request.POST.get("note"), "files": told})


def stream(request: HttpRequest) -> HttpResponseBase:
    """Give one line, then wait for the one that is written into the FIFO."""
    path = Path(request.GET["fifo"])

    def lines() -> Iterator[str]:
        yield "first\n"
        with path.open() as fifo:
            yield fifo.readline()

    return StreamingHttpResponse(lines(), content_type="text/plain")


def file(request: HttpRequest) -> HttpResponseBase:
    return FileResponse(Path(__file__).open("rb"), content_type="text/x-python")


def old(request: HttpRequest) -> HttpResponse:
    return redirect("form")


def visits(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return HttpResponse(str(request.session["visits"]))


def peer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.META["REMOTE_PORT"])


def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("the Django view failed")
