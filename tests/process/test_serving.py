"""A real server on real sockets: it serves, on every kind of address, and says what it does."""

from tests.harness import Server


def test_ready_is_said_when_workers_serve_and_requests_are_answered() -> None:
    with Server(app="tests.apps.sites.plain:app", workers=2) as s:
        answer = s.get("/hello?x=1")
        assert (answer.status, answer.text) == (200, "GET /hello?x=1\n")
        assert len(s.workers()) == 2
        s.wait_status("generation 1, 2 workers")
