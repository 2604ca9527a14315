"""The apps with habits, and what each needs of who puts them through their lives."""

from dataclasses import dataclass, field
from pathlib import Path

_CUT_OFF = "grace is over; what the app has begun is cut off"


@dataclass(frozen=True)
class Habit:
    """What the life of one app has that others' have not."""

    paths: tuple[str, ...] = ("/",)  # that do what the habit is
    fails: str = ""  # a path that is answered with 500
    dies: str = ""  # a path that ends the worker, and is not answered
    env: dict[str, str] = field(default_factory=dict)
    expect: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1, 3)
    outlives: bool = False  # it has processes that are meant to live on until they find the file `end`
    never_ends: bool = False  # no end of a worker is a peaceful one
    needs: str = ""  # a module


SPECIAL = {
    "background_process_pool": Habit(("/",)),
    "background_threads": Habit(("/thread?0.1", "/executor?0.1", "/timer?0.1", "/asyncio?0.1")),
    "cancelled": Habit(fails="/fail", expect=("app raised",)),
    "daemon_of_its_own": Habit(("/run",), outlives=True),
    "exit_at_once": Habit(dies="/gone", expect=("worker exited",)),
    "exit_handler_hangs": Habit(never_ends=True),
    "exit_in_view": Habit(fails="/fail", expect=("app raised",)),
    "fork_at_import": Habit(env={"HELPER": "daemon"}),
    "fork_that_comes_back": Habit(("/exit", "/return")),
    "patch_eventlet": Habit(needs="eventlet", threads=(1,)),
    "patch_gevent": Habit(needs="gevent", threads=(1,)),
    "patch_thread_start": Habit(threads=(1,)),
    "program_left_running": Habit(("/run",), outlives=True),
    "program_of_its_own": Habit(("/run",), outlives=True),
    "program_signals": Habit(("/os_system", "/popen", "/subprocess", "/interrupt")),
    "program_spawned": Habit(("/spawn", "/forkserver")),
    "recursion_endless": Habit(fails="/fail", expect=("app raised",)),
    "signal_asyncio": Habit(("/run",), threads=(1,)),  # only the main thread can set handlers
    "signal_loop_left_open": Habit(("/run",), threads=(1,)),
    "thread_for_ever": Habit(never_ends=True, expect=(_CUT_OFF,)),
}
NAMES = sorted(path.stem for path in (Path(__file__).parent / "habits").glob("*.py") if path.stem != "__init__")
