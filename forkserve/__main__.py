"""The process's entry: `forkserve` and `python -m forkserve`.

Importing it does nothing: multiprocessing imports it again, as `__mp_main__`, in each process that an app spawns.
"""

import gc
from typing import NoReturn


def main() -> NoReturn:
    """Run the command. Nothing that is made while the house is imported ever becomes garbage, so the collector waits
    until that is done: 7 ms of a start of 70. The verbs switch it on again."""
    gc.disable()
    from forkserve.cli import main as run  # lazy: the collector first

    run()


if __name__ == "__main__":
    main()
