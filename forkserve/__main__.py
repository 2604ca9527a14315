"""The process's entry: `forkserve` and `python -m forkserve`.

Importing it does nothing: multiprocessing imports it again, as `__mp_main__`, in each process that an app spawns.
"""

import gc
import sys


def main() -> None:
    """Run the command. Nothing that is made while the house is imported ever becomes garbage, so the collector waits
    until that is done: 7 ms of a start of 70. The verbs switch it on again."""
    gc.disable()
    from forkserve.cli import main as run  # lazy: the collector first

    run()


if __name__ == "__main__":
    # `python -m` looks for modules in the folder that it was started in. What is there is the app's, and a master may
    # be root: only workers look there, when they are who they are to be.
    if not sys.flags.safe_path:
        del sys.path[0]
    main()
