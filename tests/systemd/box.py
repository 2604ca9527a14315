"""A box: a container whose PID 1 is a real systemd, with forkserve installed from a wheel.

Its root folder is unpacked into memory, in a mount namespace that nobody else sees; its network is a loopback of its
own. So nothing of it can be left behind: the end of its processes is the end of all of it, and they die with the test.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness import ROOT, wait_until
from tests.service_manager import NotifySocket
from tests.systemd.image import SUITES, NoBoxError, archive, build_wheel, check_machine, dependencies

HOME = "/srv/forkserve"  # where the shipped unit looks for venv and app
_SETTLED = ("running", "degraded")
_PATIENCE_S = 60.0

# Runs in a mount namespace of its own, and cleans up whoever ends it: the test, by TERM, or the test's own death.
# systemd-nspawn must see a pure cgroup v2 tree, below which its own part is made.
_BOOT = """
set -e
mount -t tmpfs -o mode=755 box "$FOLDER/root"
tar --extract --numeric-owner --file "$ARCHIVE" --directory "$FOLDER/root"
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$NAME"
(
    echo $BASHPID > "/sys/fs/cgroup/$NAME/cgroup.procs"
    export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
    exec systemd-nspawn --quiet --directory="$FOLDER/root" --machine="$NAME" \
        --register=no --keep-unit --link-journal=no --private-network --resolv-conf=off --timezone=off \
        --bind-ro="$WHEELS:/wheels" --bind-ro="$FOLDER/wheel:/wheel" --notify-ready=yes --boot
) &
box=$!
trap 'kill -TERM $box; (sleep 10; kill -KILL $box 2>/dev/null) & killer=$!' TERM
while kill -0 $box 2>/dev/null; do wait $box || true; done
kill $killer 2>/dev/null || true
for try in $(seq 50); do
    find "/sys/fs/cgroup/$NAME" -depth -type d -exec rmdir {} + 2>/dev/null || true
    if ! [ -d "/sys/fs/cgroup/$NAME" ]; then break; fi
    sleep 0.1
done
umount "$FOLDER/root"
rm -rf "$FOLDER"
"""


class Box:
    """``with Box("trixie") as box``: systemd runs, forkserve is installed, nothing of it is started.

    NoBoxError where that is impossible on this machine.
    """

    def __init__(self, suite: str) -> None:
        check_machine()
        self.suite = suite
        self.version = SUITES[suite][0]
        self.leader = 0
        self._archive, self._wheels = archive(suite), dependencies(suite)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="forkserve-box-"))
        try:
            for name in ("root", "wheel"):
                (self._folder / name).mkdir()
            build_wheel(self._folder / "wheel")
            self._boot()
            self.run("python3", "-m", "venv", f"{HOME}/venv")
            self.run(f"{HOME}/venv/bin/pip", "install", "--quiet", "--no-index", "--find-links=/wheels",
                     "--find-links=/wheel", "forkserve")  # fmt: skip
            for source in (ROOT / "systemd").glob("*.s[eo]*"):  # services and sockets
                shutil.copy(source, self.path("/etc/systemd/system"))
            self.run("systemctl", "enable", "--quiet", "forkserve.service")  # else systemd forgets it when it stops
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def _boot(self) -> None:
        notify = NotifySocket(self._folder / "notify")
        variables = {
            "NAME": f"box-{os.getpid()}",
            "FOLDER": self._folder,
            "ARCHIVE": self._archive,
            "WHEELS": self._wheels,
            "NOTIFY_SOCKET": notify.path,
        }
        environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
        command = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private"]
        try:
            with (self._folder / "console").open("w+") as console:
                process = self._process = subprocess.Popen(
                    [*command, "bash", "-c", _BOOT], env=environment,
                    stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                )  # fmt: skip
                wait_until(lambda: self._is_up(notify) or process.poll() is not None, "systemd in the box", _PATIENCE_S)
                if process.poll() is not None:
                    console.seek(0)
                    raise NoBoxError(f"systemd does not boot: {console.read()[-500:].strip()}")
        finally:
            notify.close()
        wait_until(lambda: self.run("systemctl", "is-system-running", check=False).stdout.strip() in _SETTLED)

    def _is_up(self, notify: NotifySocket) -> bool:
        """Whether systemd-nspawn has said that the container's PID 1 is ready, and which process that is."""
        for said in notify.heard():
            self.leader = int(said.get("X_NSPAWN_LEADER_PID", self.leader))
        return any("READY" in said for said in notify.heard())

    def _end(self) -> None:
        """Shut down as a machine does, or else kill, and wait until all of it has been taken away."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(_PATIENCE_S)
        shutil.rmtree(self._folder, ignore_errors=self._process is not None)

    # being root in the box

    def entered(self, *command: str) -> list[str]:
        """The command that runs ``command`` in the box, with an environment of its own."""
        environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root", "SYSTEMD_COLORS=0"]
        return ["nsenter", f"--target={self.leader}", "--all", "env", "-i", *environment, "SYSTEMD_PAGER=", *command]

    def beside(self, *command: str) -> list[str]:
        """The command that runs a program of this machine in the box's network."""
        return ["nsenter", f"--net=/proc/{self.leader}/ns/net", *command]

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command in the box to its end; AssertionError when it fails, unless not ``check``."""
        ran = subprocess.run(
            self.entered(*command), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_PATIENCE_S
        )
        assert not check or ran.returncode == 0, f"{' '.join(command)}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        return ran

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command in the box and return at once."""
        return subprocess.Popen(
            self.entered(*command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def path(self, inside: str) -> Path:
        """A path in the box, as this machine reaches it."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def write(self, inside: str, text: str) -> None:
        """Write or replace a file in the box."""
        place = self.path(inside)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
