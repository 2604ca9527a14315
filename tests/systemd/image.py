"""The root folder of a box, as one archive per Debian suite, and the wheels that go into it.

Made once from the package sources that this machine is set up with, and kept in `.box/` of the project; `make clean`
removes them. No registry and no mirror is named here. Needs root, as the makers of root folders do.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zlib
from pathlib import Path

from tests.harness import ROOT

CACHE = ROOT / ".box"
# The systemd and the CPython of each suite.
SUITES = {"bookworm": (252, "3.11"), "trixie": (257, "3.13")}
_PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,procps,logrotate,curl"
# Programs that a small Debian may lack, and the packages that have them.
_PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
_PATIENCE_S = 180  # a bound for what needs the network
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28", "manylinux_2_34")


class NoBoxError(Exception):
    """This machine cannot run a systemd of its own in a box; says why."""


def check_machine() -> None:
    """Raise NoBoxError unless this machine can make a box and run it."""
    if os.geteuid() != 0:
        raise NoBoxError("needs root")
    if sources := _missing():
        raise NoBoxError(f"needs the programs of the Debian packages {', '.join(sources)}")
    if not _codename() or not Path("/etc/debian_version").exists():
        raise NoBoxError("needs a Debian, whose package sources it takes")
    tried = subprocess.run(["unshare", "--mount", "--propagation", "private", "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        raise NoBoxError(f"needs a mount namespace of its own: {tried.stderr.strip()}")
    if "cgroup2" not in Path("/proc/filesystems").read_text():
        raise NoBoxError("needs a kernel with cgroup v2")


def archive(suite: str) -> Path:
    """The suite's root folder as a tar archive; NoBoxError if it cannot be made."""
    made = CACHE / f"{suite}-{_fingerprint(_PACKAGES)}.tar"
    if made.exists():
        return made
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=CACHE) as folder:
        sources = Path(folder) / "box.list"
        sources.write_text("".join(f"{line}\n" for line in _sources(suite)))
        new = Path(folder) / "root.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=tar", f"--include={_PACKAGES}"]
        command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        # A machine may stand behind an archive of yesterday.
        command += ["--aptopt=Acquire::Check-Valid-Until false", suite, str(new), str(sources)]
        _run(command)
        new.rename(made)
    return made


def dependencies(suite: str) -> Path:
    """A folder with the wheels of what forkserve needs, for the suite's Python; NoBoxError if they cannot be had."""
    version = SUITES[suite][1]
    folder = CACHE / f"wheels-{version}-{_fingerprint(*_requirements())}"
    if folder.exists():
        return folder
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=CACHE) as new:
        command = [*_pip("download"), "--only-binary=:all:", "--implementation=cp", f"--python-version={version}"]
        command += [f"--platform={platform}_{os.uname().machine}" for platform in _PLATFORMS]
        _run([*command, f"--dest={new}", *_requirements()])
        Path(new).rename(folder)
        Path(new).mkdir()  # for who removes it
    folder.chmod(0o755)
    return folder


def build_wheel(into: Path) -> Path:
    """Build the wheel of this very tree, from a copy, so that nothing of the build is left in it."""
    with tempfile.TemporaryDirectory(prefix="forkserve-build-") as copied:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copied)
        shutil.copytree(ROOT / "forkserve", Path(copied) / "forkserve", ignore=shutil.ignore_patterns("__pycache__"))
        _run([*_pip("wheel"), "--no-deps", f"--wheel-dir={into}", copied])
    [wheel] = into.glob("forkserve-*.whl")
    return wheel


def _fingerprint(*texts: str) -> str:
    """What a cached thing was made from, in its name: made from something else, it is made anew."""
    return f"{zlib.crc32(' '.join(texts).encode()):08x}"


def _missing() -> list[str]:
    return sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})


def _codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME=")), "")


def _sources(suite: str) -> list[str]:
    """This machine's own package sources, asked of apt, for another suite."""
    fields = "$(REPO_URI) $(CODENAME) $(COMPONENT)"
    asked = ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"]
    ran = subprocess.run(asked, capture_output=True, text=True)
    ours = _codename()
    found: dict[tuple[str, str], list[str]] = {}
    for line in ran.stdout.splitlines():
        uri, codename, component = line.split()
        if codename == ours or codename.startswith(ours + "-"):
            found.setdefault((uri, suite + codename.removeprefix(ours)), []).append(component)
    if not found:
        raise NoBoxError("apt has no package sources for this machine's own suite")
    return [f"deb {uri} {name} {' '.join(sorted(set(components)))}" for (uri, name), components in found.items()]


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(requirement) for requirement in project["dependencies"]]


def _pip(verb: str) -> list[str]:
    return [sys.executable, "-m", "pip", verb, "--quiet", "--disable-pip-version-check"]


def _run(command: list[str]) -> None:
    """Run to the end, not beyond our own and not for ever; NoBoxError when it fails."""
    bounded = ["setpriv", "--pdeathsig", "TERM", "timeout", str(_PATIENCE_S), *command]
    ran = subprocess.run(bounded, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if ran.returncode != 0:
        raise NoBoxError(f"{' '.join(command[:4])} ended with {ran.returncode}: {ran.stderr.strip()[-500:]}")
