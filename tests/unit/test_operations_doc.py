"""docs/operations.md keeps up with the code: every line of the log, when a setting takes effect, the log's rotation."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from forkserve.config.resolve import Change
from forkserve.config.settings import declared
from forkserve.master.records import Phase

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "forkserve"
PAGE = (ROOT / "docs" / "operations.md").read_text()

LEVELS = {
    "debug": {"debug"},
    "info": {"info"},
    "warning": {"warning"},
    "error": {"error"},
    "exception": {"error"},
}


class Line(NamedTuple):
    """One call that writes a line of the log."""

    where: str
    levels: set[str]
    sentences: set[str]
    keys: set[str]


def _texts(node: ast.AST) -> set[str]:
    """The texts that an expression can be; what varies within one stands as N. Empty: it takes more than reading."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=body, orelse=orelse):
            return _texts(body) | _texts(orelse)
        case ast.JoinedStr(values=values):
            return {"".join(next(iter(_texts(value)), "N") for value in values)}
    return set()


def _what_is_wrong_with_a_certificate() -> set[str]:
    tree = ast.parse((PACKAGE / "net" / "tls.py").read_text())
    (trouble,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "trouble")
    returned = (node.value for node in ast.walk(trouble) if isinstance(node, ast.Return) and node.value)
    return set().union(*map(_texts, returned)) - {""}


# Sentences that are a value: what it can be.
ELSEWHERE = {
    "master/outfit.py trouble": _what_is_wrong_with_a_certificate(),
    "master/plan.py phase.value": {Phase.DRAINING.value, Phase.STOPPING.value},
}


def _line(module: str, call: ast.Call) -> Line | None:
    """Read a call as one that logs: log.info(sentence, ...), or the mind's orders.say(level, sentence, ...)."""
    if not isinstance(call.func, ast.Attribute):
        return None
    receiver, method = ast.unparse(call.func.value), call.func.attr
    if receiver == "log" and method in LEVELS:
        levels, sentence = LEVELS[method], call.args[0]
    elif method == "say" and receiver != "log":
        levels, sentence = _texts(call.args[0]), call.args[1]
    else:
        return None
    keys = {keyword.arg for keyword in call.keywords if keyword.arg and keyword.arg != "detail"}
    where = f"{module}:{call.lineno}"
    value = f"{module} {ast.unparse(sentence)}"
    sentences = _texts(sentence) or ELSEWHERE.get(value, set())
    assert levels and sentences, f"{where}: which lines this writes is not known; add {value!r} to ELSEWHERE"
    return Line(where, levels, sentences, keys)


def _written() -> Iterator[Line]:
    for path in sorted(PACKAGE.rglob("*.py")):
        module = str(path.relative_to(PACKAGE))
        text = path.read_text()
        if module == "log.py":  # the one line that the log itself has to say
            for level, sentence, key in re.findall(r"\[(\w+)\] ([a-z ]+) (\w+)=\{", text):
                yield Line(module, {level}, {sentence}, {key})
        elif "log" in text or ".say(" in text:
            calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
            yield from filter(None, (_line(module, call) for call in calls))


def _section(title: str) -> str:
    return re.split(r"^##+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def _rows(title: str) -> list[list[str]]:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in _section(title).splitlines()
        if line[:1] == "|"
    ]
    return rows[2:]


def _told() -> dict[str, tuple[set[str], set[str]]]:
    """The sentences of the table -> its levels and keys."""
    told: dict[str, tuple[set[str], set[str]]] = {}
    for levels, sentences, keys, _ in _rows("The log"):
        for sentence in sentences.split(", "):
            assert sentence not in told, f"two rows have {sentence!r}"
            told[sentence] = (set(levels.split(", ")), set(keys.replace(",", "").split()))
    return told


def test_the_table_of_the_log_has_the_sentences_of_the_code_and_no_others() -> None:
    written = {sentence: line.where for line in _written() for sentence in line.sentences}
    told = _told()
    assert {sentence: where for sentence, where in written.items() if sentence not in told} == {}
    assert told.keys() - written.keys() == set()


def test_the_table_of_the_log_has_the_levels_and_keys_of_each_sentence() -> None:
    told = _told()
    used: dict[str, set[str]] = {}
    for line in _written():
        for sentence in line.sentences & told.keys():
            keys = told[sentence][1]
            assert line.keys <= keys, f"{line.where}: {sentence}: {line.keys - keys}"
            used.setdefault(sentence, set()).update(line.levels)
    assert {sentence: levels for sentence, levels in used.items() if levels != told[sentence][0]} == {}


def test_the_table_of_effects_has_every_setting_in_its_row() -> None:
    rows = {when: set(re.findall(r"`(\w+)`", named)) for when, named in _rows("When a changed setting takes effect")}
    by_effect: dict[str, set[str]] = {}
    for name, setting in declared().items():
        by_effect.setdefault(Change(name, "", "", setting.option.effect).applies_to, set()).add(name)
    of_all_logs = by_effect["the master at once, new workers"]
    assert rows == {
        "at once, in the master": by_effect["at once"] | of_all_logs,
        "with new workers": of_all_logs,  # and all others
        "at the next upgrade": by_effect["the next upgrade"],
        "for unix sockets bound from then on": by_effect["unix sockets bound from now on"],
    }


def test_the_rotation_is_that_of_the_shipped_file() -> None:
    shipped = (ROOT / "systemd" / "forkserve.logrotate").read_text()
    stanza = shipped[shipped.index("/var/log/forkserve/*.log") :]
    assert stanza in _section("Rotation")
