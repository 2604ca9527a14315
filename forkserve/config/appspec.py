"""The app spec: ``module``, ``module:attr`` or ``module:factory('x', k=1)`` as a value. Pure.

It is read, never evaluated: arguments are literals (ast.literal_eval). Importing is the worker's part.
"""

import ast
import re

from forkserve.typed import Struct

_LONGEST_SHOWN = 60

# What importlib takes: "my-app" and "01_app" are no names of the language, yet they are modules.
_MODULE = re.compile(r"[\w-]+(?:\.[\w-]+)*")
_EXPECTED = "expected module:attr, module or module:factory('x', k=1)"
_UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)  # what ast raises about bad text


class AppSpec(Struct, frozen=True):
    """Where the WSGI callable is; an empty attribute stands for application, else app, else wsgi."""

    module: str
    attribute: str = ""  # may be dotted
    args: tuple[object, ...] = ()
    kwargs: tuple[tuple[str, object], ...] = ()
    is_factory: bool = False


def parse_app_spec(text: str) -> AppSpec:
    """Read an app spec; raise ValueError with a reason that says what was expected."""
    module, colon, target = text.strip().partition(":")
    module, target = module.strip(), target.strip()
    _check_module(module, colon + target)
    if not colon:
        return AppSpec(module)
    if not target:
        raise ValueError(f'nothing follows the colon; write "{module}" or name the attribute')
    tree = _parse(target)
    if not isinstance(tree, ast.Call):
        return AppSpec(module, _dotted(tree))
    args = tuple(_literal(node, target) for node in tree.args)
    kwargs: dict[str, object] = {}
    for given in tree.keywords:
        if given.arg is None:
            raise ValueError("** is not a literal argument; write each as name=value")
        if given.arg in kwargs:
            raise ValueError(f"the argument {given.arg} is given twice")
        kwargs[given.arg] = _literal(given.value, target)
    return AppSpec(module, _dotted(tree.func), args, tuple(kwargs.items()), is_factory=True)


def _check_module(module: str, rest: str) -> None:
    if not module:
        raise ValueError(f"the module is missing; {_EXPECTED}")
    if "/" in module or module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        hint = f'; did you mean "{dotted}{rest}"?' if _MODULE.fullmatch(dotted) else ""
        raise ValueError(f"a module is named with dots, not by its file{hint}")
    if not _MODULE.fullmatch(module):
        raise ValueError(f'"{module}" is not the name of a module; {_EXPECTED}')


def _parse(target: str) -> ast.expr:
    try:
        return ast.parse(target, mode="eval").body
    except _UNREADABLE:
        raise ValueError(f'"{_cut(target)}" is not an attribute or a call; {_EXPECTED}') from None


def _dotted(node: ast.expr) -> str:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise ValueError(f"only a name and a call with literal arguments may follow the colon; {_EXPECTED}")
    return ".".join([node.id, *reversed(names)])


def _literal(node: ast.expr, target: str) -> object:
    try:
        return ast.literal_eval(node)
    except _UNREADABLE:
        written = _cut(ast.get_source_segment(target, node) or "?")
    raise ValueError(f"the argument {written} is not a literal: a string, number, True, False, None or a list of such")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
