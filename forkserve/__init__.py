"""forkserve: a pre-forking master/worker process manager and WSGI server."""

__version__ = "0.1.0"
