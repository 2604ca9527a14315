"""The log files of a worker, opened anew (USR1, logrotate), and what it says of the app's signal handlers."""

from forkserve.accesslog import AccessLog
from forkserve.log import log


def reopen(access: AccessLog | None) -> None:
    """Open the error log and the access log again; what cannot be opened leaves the old file in use, and is said."""
    files = [log.file]
    if access is not None:
        access.flush()
        files.append(access.file)
    for file in files:
        try:
            file.reopen()
        except OSError as error:
            log.error("log could not be reopened; the old file stays in use", path=file.path, cause=error.strerror)


def tell_raised(error: BaseException) -> None:
    """Tell what a signal handler of the app raised where no request runs; SystemExit is usual there."""
    cause = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        log.info("a signal handler of the app raised between requests", cause=cause)
    else:
        log.warning("a signal handler of the app raised between requests", cause=cause)
