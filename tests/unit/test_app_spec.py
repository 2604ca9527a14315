"""forkserve/config/appspec.py: what an app spec may say, and how it is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forkserve.config.appspec import AppSpec, parse_app_spec

SPECS = [
    ("shop", AppSpec("shop")),
    ("shop.web", AppSpec("shop.web")),
    ("my-shop:app", AppSpec("my-shop", "app")),
    ("shop:app", AppSpec("shop", "app")),
    (" shop : app ", AppSpec("shop", "app")),
    ("shop.web:site.app", AppSpec("shop.web", "site.app")),
    ("shop:make()", AppSpec("shop", "make", is_factory=True)),
    ("shop:site.make()", AppSpec("shop", "site.make", is_factory=True)),
    ("shop:make('x', -1, k=[1, {'a': None}])", AppSpec("shop", "make", ("x", -1), (("k", [1, {"a": None}]),), True)),
    ("shop:make('a:b')", AppSpec("shop", "make", ("a:b",), (), True)),
]

EXPECTED = "expected module:attr, module or module:factory('x', k=1)"
NO_LITERAL = "is not a literal: a string, number, True, False, None or a list of such"
NO_NAME = f"only a name and a call with literal arguments may follow the colon; {EXPECTED}"
REFUSALS = [
    ("", f"the module is missing; {EXPECTED}"),
    (":app", f"the module is missing; {EXPECTED}"),
    ("shop:", 'nothing follows the colon; write "shop" or name the attribute'),
    ("shop/main.py", 'a module is named with dots, not by its file; did you mean "shop.main"?'),
    ("./shop/main.py:app", 'a module is named with dots, not by its file; did you mean "shop.main:app"?'),
    ("shop/main:app", 'a module is named with dots, not by its file; did you mean "shop.main:app"?'),
    ("shop.py", 'a module is named with dots, not by its file; did you mean "shop"?'),
    ("/a b/c.py", "a module is named with dots, not by its file"),
    ("shop..web", f'"shop..web" is not the name of a module; {EXPECTED}'),
    (".shop", f'".shop" is not the name of a module; {EXPECTED}'),
    ("the shop:app", f'"the shop" is not the name of a module; {EXPECTED}'),
    ("shop:the app", f'"the app" is not an attribute or a call; {EXPECTED}'),
    ("shop:make(", f'"make(" is not an attribute or a call; {EXPECTED}'),
    ("shop:class", f'"class" is not an attribute or a call; {EXPECTED}'),
    ("shop:apps[0]", NO_NAME),
    ("shop:make()()", NO_NAME),
    ("shop:lambda: 0", NO_NAME),
    ("shop:1", NO_NAME),
    ("shop:make(x)", f"the argument x {NO_LITERAL}"),
    ("shop:make(k=open('/etc/passwd'))", f"the argument open('/etc/passwd') {NO_LITERAL}"),
    ("shop:make(*[1])", f"the argument *[1] {NO_LITERAL}"),
    ("shop:make({[]: 1})", f"the argument {{[]: 1}} {NO_LITERAL}"),
    ("shop:make(**{})", "** is not a literal argument; write each as name=value"),
    ("shop:make(k=1, k=2)", "the argument k is given twice"),
]


@pytest.mark.parametrize(("text", "spec"), SPECS)
def test_an_app_spec_is_read(text: str, spec: AppSpec) -> None:
    assert parse_app_spec(text) == spec


@pytest.mark.parametrize(("text", "reason"), REFUSALS)
def test_what_is_no_app_spec_is_refused_with_what_was_expected(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_app_spec(text)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    "target", ["(" * 3000, "f(" + "[" * 150 + "]" * 150 + ")", "f(" + "-" * 50000 + "1)", "x" * 300 + "!"]
)
def test_what_overwhelms_the_parser_is_read_or_refused_in_a_short_line(target: str) -> None:
    try:
        parse_app_spec("shop:" + target)
    except ValueError as refusal:
        assert type(refusal) is ValueError
        assert len(str(refusal)) < 200


literals = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(literals, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "c"]), literals))
def test_literal_arguments_arrive_as_they_were_written(args: list[object], kwargs: dict[str, object]) -> None:
    written = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
    spec = parse_app_spec(f"shop:make({written})")
    assert (list(spec.args), dict(spec.kwargs)) == (args, kwargs)
