"""A Python that can be put anywhere: for users who may not read ours, and for tests of such users."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.harness import ROOT, Server, clean_environ

NOBODY = 65534
_DEPENDENCIES = ("httptools", "msgspec", "setproctitle", "click", "toml", "psutil")
_NOT_NEEDED = (
    "site-packages",
    "test",
    "idlelib",
    "ensurepip",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "config-*",
    "pydoc_data",
)


class RoamingPython:
    """An interpreter with its library and the packages that forkserve needs, below a folder of the test's."""

    def __init__(self, place: Path) -> None:
        """Make it: links where the file system allows, so it costs little."""
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        library = place / "lib" / name
        shutil.copytree(
            sysconfig.get_path("stdlib"), library, symlinks=False, copy_function=_link,
            ignore=shutil.ignore_patterns(*_NOT_NEEDED), ignore_dangling_symlinks=True,
        )  # fmt: skip
        packages = library / "site-packages"
        packages.mkdir()
        for found in Path(sysconfig.get_path("platlib")).iterdir():
            if found.name.split(".")[0] in _DEPENDENCIES:
                shutil.copytree(found, packages / found.name, copy_function=_link) if found.is_dir() else _link(
                    str(found), str(packages / found.name)
                )
        for shared in Path(sysconfig.get_config_var("LIBDIR")).glob("libpython*.so*"):
            _link(str(shared.resolve()), str(place / "lib" / shared.name))
        (place / "bin").mkdir()
        self.executable = str(place / "bin" / name)
        _link(os.path.realpath(sys.executable), self.executable)
        self.environ = {"LD_LIBRARY_PATH": str(place / "lib")}

    def take_over(self, server: Server) -> Server:
        """Have a server that was not started run with it."""
        server.command[server.command.index(sys.executable)] = self.executable
        server.env |= self.environ
        return server


def anybody_can_run(executable: str, environ: dict[str, str]) -> bool:
    """Whether a user without rights can run forkserve with this interpreter."""
    command = [executable, "-c", "import threading, tempfile, traceback, httptools, forkserve.worker.main"]
    try:
        ran = subprocess.run(
            command, env={**clean_environ(), "PYTHONPATH": str(ROOT), **environ}, cwd="/", capture_output=True,
            check=False, user=NOBODY, group=NOBODY, extra_groups=[],
        )  # fmt: skip
    except PermissionError:
        return False
    return ran.returncode == 0


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=True)
    except OSError:
        shutil.copy2(source, target)
