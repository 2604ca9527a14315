"""The process's entry: `forkserve` and `python -m forkserve`.

Nothing that is made while the house is imported ever becomes garbage, so the collector waits until that is done:
7 ms of a start of 70. The verbs switch it on again.
"""

import gc

gc.disable()

from forkserve.cli import main  # noqa: E402  # the collector first

if __name__ == "__main__":
    main()
