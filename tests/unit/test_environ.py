"""forkserve/wsgi/environ.py: the templates of the environ."""

from forkserve.wsgi.environ import connection_template, listener_template

LISTENER = listener_template("example.org", "8000", generation=3, slot=1, extend_deadline=lambda seconds: None)


def test_a_listener_decides_the_server_and_what_wsgi_can_do() -> None:
    assert (LISTENER["SERVER_NAME"], LISTENER["SERVER_PORT"]) == ("example.org", "8000")
    assert (LISTENER["forkserve.generation"], LISTENER["forkserve.slot"]) == (3, 1)
    assert LISTENER["wsgi.version"] == (1, 0)
    flags = {key: value for key, value in LISTENER.items() if isinstance(value, bool)}
    assert flags == {
        "wsgi.multithread": False, "wsgi.multiprocess": True, "wsgi.run_once": False, "wsgi.input_terminated": True,
    }  # fmt: skip


def test_every_cgi_variable_is_a_str() -> None:
    assert all(type(value) is str for key, value in LISTENER.items() if key.isupper())


def test_a_tcp_peer_has_address_and_port() -> None:
    template = connection_template(LISTENER, ("192.0.2.1", 1234))
    assert (template["REMOTE_ADDR"], template["REMOTE_PORT"]) == ("192.0.2.1", "1234")
    assert connection_template(LISTENER, ("2001:db8::1", 1, 0, 0))["REMOTE_ADDR"] == "2001:db8::1"
    assert LISTENER["REMOTE_ADDR"] == ""


def test_a_unix_peer_has_no_address() -> None:
    template = connection_template(LISTENER, "")
    assert template["REMOTE_ADDR"] == ""
    assert "REMOTE_PORT" not in template
