"""Serve an app with bjoern, which has no command of its own: `python on_bjoern.py PORT MODULE:ATTRIBUTE`.

Runs with the peers' interpreter, in the folder of the app.
"""

import sys
from importlib import import_module


def main() -> None:
    """Serve until a signal ends the process."""
    port, app = sys.argv[1:]
    module, _, attribute = app.partition(":")
    import_module("bjoern").run(getattr(import_module(module), attribute), "127.0.0.1", int(port))


if __name__ == "__main__":
    main()
