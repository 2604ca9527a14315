"""The laws of the house, read from the source: who may import whom, one door per library, what stays pure, how long.

Design: docs/design.md. A law that stands in the way of a good change is changed here, in the same commit.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "forkserve"

# What each module, or else each module of a folder, may import of ours: modules or whole folders. The package itself,
# which holds nothing but the version, is open to all.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "typed": (),
    "log": (),
    "accesslog": ("log", "errors"),
    "apps": ("apps",),
    # A program of its own, which web servers start.
    "cgi": ("cli", "wsgi", "protocol", "log", "errors"),
    "net": ("net", "errors", "typed"),
    "net.address": ("typed",),
    "config": ("config", "net.address", "net.trust", "errors", "typed"),
    "unix": ("unix", "errors", "typed"),
    "protocol": ("protocol", "errors"),
    "net.trust": (),
    "wsgi": ("wsgi", "protocol", "net.trust", "config.appspec", "config.settings", "unix.spool", "log", "errors"),
    # The seam: what the master hands to a child whose code it does not know.
    "birth": (
        "config.settings",
        "net.listener",
        "unix.bell",
        "unix.channel",
        "unix.orphan",
        "unix.relay",
        "unix.scoreboard",
        "typed",
    ),
    "worker": ("worker", "wsgi", "protocol", "unix", "net", "config.settings", "accesslog", "log", "birth", "errors"),
    "worker.fatigue": ("config.settings", "config.values", "unix.usage"),
    # The mind.
    "master": ("master", "errors", "typed"),
    # The hands. Neither knows a worker, an app or a protocol: cli gives them a callable that becomes the child.
    "master.handover": (
        "master.memory",
        "config.settings",
        "config.values",
        "unix.scoreboard",
        "errors",
        "typed",
    ),
    "master.target": ("master", "unix.signals", "errors", "typed"),
    "master.readings": ("master", "net", "unix.descriptors", "config", "accesslog", "log", "errors"),
    "master.folder": ("log", "errors"),
    "master.patience": ("unix.usage", "log", "errors"),
    "master.lookout": ("master", "unix", "config.settings", "log"),
    "master.fittings": ("master", "unix.pidfile", "config.settings", "log", "errors"),
    "master.stock": ("master", "net.inherit", "config.resolve"),
    "master.loop": ("master", "unix", "net", "config", "accesslog", "birth", "log", "errors", "typed"),
    "master.process": ("unix.signals", "log", "errors", "typed"),
    "master.children": ("master", "unix", "net.listener", "config.settings", "birth", "log", "errors", "typed"),
    "master.relief": ("unix.bell", "unix.scoreboard"),
    "master.closing": ("net.listener", "unix.relay", "log"),
    "master.doors": ("master.handover", "master.closing", "net", "unix.notify", "unix.relay", "errors", "log"),
    "master.access": ("master.process", "unix.identity", "errors", "typed"),
    "master.outfit": (
        "master.access",
        "net",
        "unix.descriptors",
        "unix.identity",
        "config.settings",
        "log",
        "errors",
        "typed",
    ),
    "master.control": ("master.handover", "net", "log", "errors", "typed"),
    "master.status": ("master", "net.listener", "unix.scoreboard", "config.settings"),
    "master.verbs": ("master",),
    "argv": ("config",),
    "flags": ("config", "errors"),
    "cli": (
        "argv",
        "flags",
        "config",
        "accesslog",
        "master.loop",
        "master.handover",
        "master.target",
        "master.outfit",
        "unix.surroundings",
        "unix.identity",
        "worker.main",
        "worker.ending",
        "wsgi.app",
        "wsgi.files",
        "errors",
    ),
    "__main__": ("cli",),
    # Programs of their own, which speak to a master.
    "ops": ("ops", "log", "errors", "typed"),
}

# Each library has one door; whoever needs it asks there.
DOORS = {
    "httptools": "protocol.http",
    "setproctitle": "unix.title",
    "psutil": "unix.usage",
    "toml": "config.sources",
    "click": "flags",
    "msgspec": "typed",
}

PURE = {
    "master.supervisor",
    "master.plan",
    "master.upgrading",
    "master.memory",
    "master.state",
    "master.orders",
    "master.records",
    "master.backoff",
    "master.events",
    "master.actions",
    "config.options",
    "config.pool",
    "config.settings",
    "config.values",
    "config.appspec",
    "net.address",
    "protocol.types",
    "protocol.gateway",
    "protocol.cgi",
    "protocol.uwsgi",
    "protocol.scgi",
    "protocol.fastcgi",
    "protocol.proxy",
    "wsgi.conditions",
    "net.trust",
    "wsgi.forwarded",
    "typed",
    "errors",
}
IMPURE_LIBRARIES = {"os", "socket", "_socket", "signal", "time", "select", "logging", "threading", "random"}

CHARTER_LINES = 12
FILE_LINES = 400


def name_of(path: Path) -> str:
    """The module's name below the package: master.loop."""
    return ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {name_of(path): path.read_text() for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}
ALL = sorted(TREES)


def imports(name: str) -> Iterator[str]:
    """Everything that a module imports anywhere in it, lazily and for type checks too, as full dotted names."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(name: str) -> set[str]:
    """The modules of ours that a module imports."""
    found = set()
    for full in imports(name):
        if full == PACKAGE or full.startswith(PACKAGE + "."):
            below = full.removeprefix(PACKAGE).lstrip(".")
            while below and below not in TREES:  # from forkserve.errors import ExitCode
                below = below.rpartition(".")[0]
            found.add(below)
    return found - {""}


def theirs(name: str) -> set[str]:
    """The top-level names of the libraries that a module imports."""
    return {full.partition(".")[0] for full in imports(name)} - {PACKAGE}


def is_within(name: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of ``places`` or lies in one of these folders."""
    return any(name == place or name.startswith(place + ".") for place in places)


@pytest.mark.parametrize("name", ALL)
def test_module_imports_only_what_its_place_allows(name: str) -> None:
    law = MAY_IMPORT.get(name, MAY_IMPORT.get(name.partition(".")[0], ()))
    assert {found for found in ours(name) if not is_within(found, law)} == set()


def test_every_law_is_about_a_module_or_folder_that_exists() -> None:
    known = set(ALL) | {name.partition(".")[0] for name in ALL}
    assert set(MAY_IMPORT) | set(DOORS.values()) | PURE <= known


@pytest.mark.parametrize("name", ALL)
def test_library_is_imported_at_its_door_only(name: str) -> None:
    for library in theirs(name) - sys.stdlib_module_names:
        assert DOORS.get(library) == name, f"{library} in {name}"


def test_every_door_is_used() -> None:
    for library, name in DOORS.items():
        assert library in theirs(name)


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_module_knows_no_world(name: str) -> None:
    assert theirs(name) & IMPURE_LIBRARIES == set()
    assert ours(name) <= PURE


def test_master_is_complete_without_app_worker_and_parser() -> None:
    code = "import sys, forkserve.master.loop; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    strangers = ("forkserve.worker", "forkserve.wsgi", "forkserve.protocol", "httptools", "psutil")
    assert [module for module in ran.stdout.split() if is_within(module, strangers)] == []


@pytest.mark.parametrize("name", ALL)
def test_module_begins_with_a_charter_that_fits_on_a_card(name: str) -> None:
    charter = ast.get_docstring(TREES[name])
    if not SOURCES[name].strip():
        return  # an empty __init__.py
    assert charter, "no charter"
    assert len(charter.splitlines()) <= CHARTER_LINES


@pytest.mark.parametrize("name", ALL)
def test_file_is_short_enough_to_be_read_at_once(name: str) -> None:
    assert len(SOURCES[name].splitlines()) <= FILE_LINES


@pytest.mark.parametrize("name", ALL)
def test_everything_public_has_a_contract(name: str) -> None:
    assert [node.name for node in public(TREES[name]) if not ast.get_docstring(node) and not is_plain(node)] == []


def test_no_example_of_a_property_is_too_slow() -> None:
    assert hypothesis.settings.default is not None
    assert hypothesis.settings.default.deadline is None


def test_servers_under_test_import_no_tool_of_the_tests() -> None:
    code = "import sys, tests; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"hypothesis", "pytest"} & set(ran.stdout.split())


def public(parent: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The public functions, classes and methods."""
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def is_plain(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether it is a method of at most two simple statements, whose name and types say all that it does."""
    simple = (ast.Return, ast.Assign, ast.AugAssign, ast.Expr, ast.Delete)
    is_method = isinstance(node, ast.FunctionDef) and bool(node.args.args) and node.args.args[0].arg == "self"
    return is_method and len(node.body) <= 2 and all(isinstance(statement, simple) for statement in node.body)
