"""The SVG writer and what compare.py draws with it: well-formed, to scale, every name and value on the page."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from benchmarks import plots
from benchmarks.cases import Case, Kind
from benchmarks.charts import charts
from benchmarks.measure import Figure
from benchmarks.plots import Curve, Panel
from benchmarks.report import Results
from benchmarks.servers import SERVERS

_SVG = "{http://www.w3.org/2000/svg}"
_COLOURS = plots.colours_of(["a", "b<c"])


def _texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{_SVG}text")]


def _numbers(svg: str, tag: str, *names: str) -> list[tuple[float, ...]]:
    """Attributes of all elements of a kind, without the background, whose width is in per cent."""
    found = [element.attrib for element in ElementTree.fromstring(svg).iter(f"{_SVG}{tag}")]
    return [tuple(float(it[name]) for name in names) for it in found if "%" not in it.get("width", "")]


def test_bars_are_to_scale_with_their_names_and_values() -> None:
    svg = plots.panels("Cost", [Panel("Small & large", (("a", 10.0), ("b<c", 40.0)))], _COLOURS)
    (short,), (long,) = _numbers(svg, "rect", "width")
    assert long / short == pytest.approx(4, rel=0.01)
    assert {"Cost", "Small & large", "a", "b<c", "10.0", "40.0"} <= set(_texts(svg))


def test_panel_of_zeros_can_be_drawn() -> None:
    svg = plots.panels("Idle", [Panel("Nothing", (("a", 0.0),))], _COLOURS)
    assert "0" in _texts(svg)


def test_equal_factors_are_equal_distances_on_a_curve() -> None:
    svg = plots.curves("Growth", "workers", "MiB", [Curve("a", ((1, 10.0), (2, 100.0), (3, 1000.0)))], _COLOURS)
    (x1, y1), (x2, y2), (x3, y3) = _numbers(svg, "circle", "cx", "cy")
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y1 > y2


def test_names_of_curves_that_end_together_do_not_lie_on_each_other() -> None:
    lines = [Curve("a", ((1, 10.0), (2, 20.0))), Curve("b<c", ((1, 10.0), (2, 20.1)))]
    root = ElementTree.fromstring(plots.curves("Growth", "workers", "MiB", lines, _COLOURS))
    places = [float(element.attrib["y"]) for element in root.iter(f"{_SVG}text") if element.text in ("a", "b<c")]
    assert abs(places[0] - places[1]) >= 12


def test_range_has_a_mark_for_each_of_its_values_in_order() -> None:
    svg = plots.ranges("Latency", "milliseconds", [("a", (0.1, 1.0, 12.0, 200.0))], ("p50", "p90", "p99", "max"))
    marks = _numbers(svg, "circle", "cx", "cy")[4:]  # after the legend's
    assert [x for x, _ in marks] == sorted(x for x, _ in marks)
    assert {"p50", "max", "a", "milliseconds"} <= set(_texts(svg))


def test_run_gives_the_plots_that_it_has_figures_for() -> None:
    few, many = Case("varied", "Small page", Kind.CPU), Case("headers-32", "32 headers", Kind.CPU)
    figures = (Figure("varied", "forkserve", 1, 10.0), Figure("headers-32", "forkserve", 1, 20.0))
    results = Results(("A machine.",), 1, (few, many), {SERVERS[0]: "1.0"}, figures)
    assert set(charts(results)) == {"cost", "by-headers"}
    assert "forkserve" in _texts(charts(results)["by-headers"][1])
    assert charts(replace(results, figures=())) == {}
