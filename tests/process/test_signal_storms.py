"""Promise 9 on real processes: random orders of signals with gaps of 0 to 25 ms converge on what a model allows.

The mind alone meets 10,000 of them in tests/unit/test_supervisor_signals.py. A failure names its seed;
FORKSERVE_STORM=SEED repeats it.
"""

import os
import random
import signal
import time
from dataclasses import dataclass

import pytest

from tests.harness import Server, wait_until
from tests.process.probes import status
from tests.process.tools import answers

# FORKSERVE_FULL=1 asks for the long form, as `make promises` does.
STORMS = 100 if os.environ.get("FORKSERVE_FULL") else 6
SEEDS = [int(os.environ["FORKSERVE_STORM"])] if "FORKSERVE_STORM" in os.environ else range(STORMS)
HARMLESS = ("HUP", "HUP", "HUP", "USR1", "TTIN", "TTOU", "CHLD", "CONT", "USR2")
ENDINGS = ("TERM", "INT", "QUIT")


@dataclass
class Model:
    """What the signals that were sent allow; those that come together count once."""

    hups: int = 0
    upgrades: int = 0  # each of them that is not refused ends with a reload
    more: int = 0
    less: int = 0
    reopen: bool = False

    def meet(self, name: str) -> None:
        self.hups += name == "HUP"
        self.upgrades += name == "USR2"
        self.more += name == "TTIN"
        self.less += name == "TTOU"
        self.reopen = self.reopen or name == "USR1"


def _storm(rng: random.Random, *, ends: bool) -> list[tuple[str, float]]:
    """Signals, each with the seconds that pass after it."""
    names = [rng.choice(HARMLESS) for _ in range(rng.randint(5, 25))]
    if ends:
        names.append(rng.choice(ENDINGS))
    return [(name, rng.uniform(0, 0.025)) for name in names]


@pytest.mark.parametrize("seed", SEEDS)
def test_promise_09_random_signals_to_real_processes_converge(seed: int) -> None:
    ends = seed % 2 == 1
    storm = _storm(random.Random(seed), ends=ends)
    print(f"seed {seed}:", " ".join(f"{name} {1000 * gap_s:.0f}ms" for name, gap_s in storm))  # shown when it fails
    model = Model()
    # A first storm begins before anybody is ready; a worker that leaves at that moment is no fault.
    s = Server(app="fresh_app:app", workers=2, reload_settle=0, await_ready=seed % 3 > 0, expect=["upgrade refused"])
    s.write_app(answers("code-0"))
    with s:
        s.wait_line("listening")  # the handlers stand
        for name, gap_s in storm:
            if name == "HUP":
                s.write_app(answers(f"code-{model.hups + 1}"))
            s.signal(signal.Signals[f"SIG{name}"])
            model.meet(name)
            time.sleep(gap_s)  # the stimulus, not a wait
        if ends:  # whatever comes now matters no more, up to the last moment of the process
            rng = random.Random(seed)
            while not s.exited:
                s.signal(signal.Signals[f"SIG{rng.choice(HARMLESS + ENDINGS)}"])
                time.sleep(rng.uniform(0, 0.005))
            assert s.exit_code == 0
            return
        _check_what_came_of_it(s, model)
        _check_nothing_is_deaf(s)


def _check_what_came_of_it(s: Server, model: Model) -> None:
    """m HUPs make between 1 and m generations, the last code wins, and the pool is whole."""
    s.wait_ready()
    wait_until(lambda: _is_calm(s, model.hups), f"calm; {model}")
    found = status(s)
    most = model.hups + model.upgrades
    assert (1 if model.hups else 0) <= found["generation"] - 1 <= most
    assert len(s.lines("reload began")) <= most
    assert max(1, 2 - model.less) <= found["size"] <= 2 + model.more
    assert bool(s.lines("log files reopened")) == model.reopen
    assert {s.get().text.split()[0] for _ in range(10)} == {f"code-{model.hups}"}
    assert found["last_error"] == ""


def _is_calm(s: Server, code: int) -> bool:
    found = status(s)
    return (
        not found["reloading"]
        and not found["upgrading"]
        and found["ready"] == found["size"] == len(found["workers"])
        and s.get().text.startswith(f"code-{code} ")
    )


def _check_nothing_is_deaf(s: Server) -> None:
    """A clean HUP, TTIN and USR1 work as if nothing had been."""
    before = status(s)
    reopened = len(s.lines("log files reopened"))
    s.write_app(answers("clean"))
    s.signal(signal.SIGHUP)
    s.wait_line(f"reload done gen={before['generation'] + 1}")
    assert s.get().text.startswith("clean ")
    s.signal(signal.SIGTTIN)
    wait_until(lambda: status(s)["ready"] == before["size"] + 1, "one worker more")
    s.signal(signal.SIGUSR1)
    s.wait_line("log files reopened", count=reopened + 1)
