"""The files in systemd/: what systemd itself says of them, and that the two services stay alike."""

import re
from pathlib import Path

from tests.harness import ROOT
from tests.systemd.service import Service

FOLDER = ROOT / "systemd"


def lines(path: Path) -> list[str]:
    """The file without comments and blank lines."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def test_instances_differ_from_the_service_in_nothing_but_names() -> None:
    expected = []
    for line in lines(FOLDER / "forkserve.service"):
        line = line.replace("/srv/forkserve", "/srv/%i").replace("/etc/forkserve/forkserve.", "/etc/forkserve/%i.")
        line = re.sub(r"(User|Directory)=forkserve$|(/run)/forkserve(?=/)", lambda found: f"{found[0]}-%i", line)
        expected.append(f"{line}: %i" if line.startswith("Description=") else line)
    assert lines(FOLDER / "forkserve@.service") == expected


def test_systemd_finds_nothing_wrong_with_the_units(service: Service) -> None:
    service.box.run("ln", "-sfn", "/srv/forkserve", "/srv/shop")
    for name in ("forkserve.service", "forkserve.socket", "forkserve@shop.service", "forkserve@shop.socket"):
        said = service.box.run("systemd-analyze", "verify", "--man=no", name)
        assert (said.stdout, said.stderr) == ("", ""), name


def test_services_are_hardened(service: Service) -> None:
    for name in ("forkserve.service", "forkserve@.service"):
        place = f"/etc/systemd/system/{name}"
        service.box.run("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=25", place)
