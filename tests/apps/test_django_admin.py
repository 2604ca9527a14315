"""Django's admin, served by two workers: logging in, changing data, and its static files by the server itself."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.apps.clients import TIMEOUT_S, new_session
from tests.harness import ROOT, Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("admin")
    env = {
        "DJANGO_SETTINGS_MODULE": "tests.apps.sites.admin_site.settings",
        "ADMIN_DATABASE": str(folder / "database"),
        "ADMIN_STATIC": str(folder / "static"),
        "DJANGO_SUPERUSER_PASSWORD": "secret",
        "PYTHONPATH": str(ROOT),
    }
    for command in (
        ["migrate", "--verbosity", "0"],
        ["collectstatic", "--no-input", "--verbosity", "0"],
        ["createsuperuser", "--no-input", "--username", "ada", "--email", "ada@example.org", "--verbosity", "0"],
    ):
        subprocess.run([sys.executable, "-m", "django", *command], env={**os.environ, **env}, check=True, timeout=60)
    env.pop("PYTHONPATH")
    with Server(
        app="tests.apps.sites.admin_site.wsgi:application", workers=2, static=f"/static={folder / 'static'}", env=env
    ) as serving:
        yield serving


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session() as fresh:
        yield fresh


def fields_of(page: str) -> dict[str, str]:
    """The hidden fields of a page's form."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))


def log_in(server: Server, session: requests.Session, password: str) -> requests.Response:
    page = session.get(server.url + "/admin/", timeout=TIMEOUT_S)
    assert [step.status_code for step in page.history] == [302]
    data = {**fields_of(page.text), "username": "ada", "password": password}
    return session.post(page.url, data=data, timeout=TIMEOUT_S)


def test_right_password_leads_to_the_admin_and_a_wrong_one_does_not(server: Server, session: requests.Session) -> None:
    refused = log_in(server, session, "guessed")
    assert refused.status_code == 200
    assert "Please enter the correct username and password" in refused.text
    welcome = log_in(server, session, "secret")
    assert [step.status_code for step in welcome.history] == [302]
    assert "Site administration" in welcome.text
    for _ in range(6):  # whichever worker answers
        assert "Site administration" in session.get(server.url + "/admin/", timeout=TIMEOUT_S).text


def test_record_is_added_and_found(server: Server, session: requests.Session) -> None:
    log_in(server, session, "secret")
    address = server.url + "/admin/auth/group/add/"
    page = session.get(address, timeout=TIMEOUT_S)
    added = session.post(address, data={**fields_of(page.text), "name": "Größen & more"}, timeout=TIMEOUT_S)
    assert added.status_code == 200
    assert "was added successfully" in added.text
    found = session.get(server.url + "/admin/auth/group/", params={"q": "Größen"}, timeout=TIMEOUT_S)
    assert "Größen &amp; more" in found.text


def test_form_without_its_token_is_403(server: Server, session: requests.Session) -> None:
    log_in(server, session, "secret")
    answer = session.post(server.url + "/admin/auth/group/add/", data={"name": "forged"}, timeout=TIMEOUT_S)
    assert answer.status_code == 403


def test_static_files_of_the_page_are_there(server: Server, session: requests.Session) -> None:
    page = log_in(server, session, "secret").text
    addresses = re.findall(r'(?:href|src)="(/static/[^"]+\.(?:css|js))"', page)
    assert len(addresses) > 3
    for address in addresses:
        file = session.get(server.url + address, timeout=TIMEOUT_S)
        assert file.status_code == 200
        kind = "css" if address.endswith(".css") else "javascript"
        assert kind in file.headers["Content-Type"]
        again = session.get(server.url + address, headers={"If-None-Match": file.headers["ETag"]}, timeout=TIMEOUT_S)
        assert again.status_code == 304
    assert Path(server.env["ADMIN_STATIC"], "admin/css/base.css").is_file()
    outside = requests.Request("GET", server.url + "/static/../database").prepare()
    outside.url = server.url + "/static/../database"  # requests would tidy it
    assert session.send(outside, timeout=TIMEOUT_S).status_code in (400, 404)
