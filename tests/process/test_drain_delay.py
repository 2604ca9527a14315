"""drain_delay: a graceful stop goes on accepting until a load balancer has noticed, then it drains."""

import signal
import time

import pytest

from tests.harness import Server, read_to_end
from tests.process.probes import status
from tests.process.tools import one_request

SITE = "tests.process.site:app"


def test_stop_with_a_delay_accepts_until_it_is_over_and_then_drains() -> None:
    with Server(app=SITE, workers=2, drain_delay="1s") as s:
        began = time.monotonic()
        s.signal(signal.SIGTERM)
        s.wait_status("draining")
        assert s.heard("STOPPING") == ["1"], "whoever balances load learns of it at once"
        asked = 0
        while time.monotonic() - began < 0.8:
            assert s.get("/pid").status == 200
            asked += 1
        assert asked > 5
        assert status(s)["phase"] == "draining"
        assert s.lines("retiring worker") == []
        with s.connect() as sock:
            sock.sendall(one_request("/sleep?0.5"))
            assert read_to_end(sock).startswith(b"HTTP/1.1 200"), "what began within the delay is finished"
        assert s.wait_exit() == 0
        assert 1.0 <= time.monotonic() - began < 4.0
        with pytest.raises(ConnectionRefusedError):
            s.connect()


def test_second_term_cuts_the_delay_short() -> None:
    with Server(app=SITE, workers=2, drain_delay="60s") as s:
        began = time.monotonic()
        s.signal(signal.SIGTERM)
        s.wait_line("draining")
        assert s.get("/pid").status == 200
        s.signal(signal.SIGTERM)
        assert s.wait_exit() == 0
        assert time.monotonic() - began < 4.0


def test_worker_that_dies_within_the_delay_is_replaced_or_its_siblings_serve() -> None:
    with Server(app=SITE, workers=2, drain_delay="60s", expect=["worker exited"]) as s:
        s.signal(signal.SIGTERM)
        s.wait_line("draining")
        s.kill(s.workers()[0])
        s.wait_line("worker exited")
        assert [s.get("/pid").status for _ in range(5)] == [200] * 5
        s.signal(signal.SIGTERM)
        assert s.wait_exit() == 0
