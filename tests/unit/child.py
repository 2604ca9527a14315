"""A child in the model world: what is true of it, apart from what the supervisor believes, and how children behave."""

import math
from dataclasses import dataclass
from enum import Enum, auto

BOOT_S = 0.1
FRAIL_S = 0.3
NEVER = math.inf


class Mood(Enum):
    """How children behave when the world goes on by itself."""

    HEALTHY = auto()  # boot in a tenth of a second, obey at once
    FAILING = auto()  # every boot fails, who serves serves on and obeys
    FRAIL = auto()  # who boots becomes ready and dies a moment later, who serves serves on and obeys
    HANGING = auto()  # nothing happens but by Kill


@dataclass
class Child:
    id: int
    slot: int
    generation: int
    forked: bool = False
    since: float = 0.0
    ready_at: float = NEVER
    dies_at: float = NEVER
    serves: bool = False  # said READY, and nothing since that ends it
    leaves: bool = False  # said that it retires by itself
    tired: bool = False  # said that it wants to be replaced
    guilty: bool = False  # its request was reported overdue, or its memory as too much
    overdue: bool = False  # its request was
    spent: bool = False  # said that it leaves for that
    stopped: bool = False  # by a SIGSTOP
    resumes: bool = False  # an order of ours continued it, which the mind has not heard yet
    patience_until: float = NEVER  # how long it may serve and be stopped
    asked: bool = False  # Retire or Hurry
    dumped: bool = False
    killed_at: float | None = None
