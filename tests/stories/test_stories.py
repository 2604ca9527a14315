"""Stories: what the supervisor answers to each wish and fact, as text that is reviewed like code.

A story is a `.txt` file here. `# comment`, one line `policy size=4 …`, then per event a line `> +SECONDS Event …`
and indented below it every action, in order, and the moment of the next Ticked where it changed; `? ends ready` asks
for properties of the supervisor. The jitter is in its middle, so a back-off is exactly 0.5, 1, 2 … seconds.
`FORKSERVE_REWRITE=1 pytest tests/stories` writes the answers anew: read the diff, it is a change of policy.
`table_*` are the wishes and facts with what the plan does by itself, `sequence_*` a reload from end to end.
"""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import assert_never

import pytest

from forkserve.master import actions as do
from forkserve.master import events as ev
from forkserve.master.memory import Memory
from forkserve.master.supervisor import Supervisor
from forkserve.typed import from_msgpack, replaced, to_msgpack

WISHES: dict[str, ev.Wish] = {
    "Reload": ev.Reload(),
    "Upgrade": ev.Upgrade(),
    "Drain": ev.Drain(),
    "Stop": ev.Stop(),
    "ReopenLogs": ev.ReopenLogs(),
}
STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("story", STORIES, ids=lambda path: path.stem)
def test_story_is_told_as_written(story: Path) -> None:
    written = story.read_text()
    told = "".join(f"{line}\n" for line in tell(written.splitlines()))
    if os.environ.get("FORKSERVE_REWRITE"):
        story.write_text(told)
    assert told == story.read_text()


def test_there_are_stories_of_each_row_of_the_table_and_of_both_ends_of_a_reload() -> None:
    names = {re.sub(r"^(table_\d|sequence_[a-z]+).*", r"\1", path.stem) for path in STORIES}
    assert names >= {*(f"table_{row}" for row in range(1, 9)), "sequence_reload", "sequence_failed", "sequence_term"}


def tell(lines: list[str]) -> Iterator[str]:
    """Yield the story again with the answers that the supervisor gives today."""
    policy = ev.Policy(size=1)
    supervisor = Supervisor(policy, jitter=lambda: 0.5)
    now, wake = 0.0, None
    for line in lines:
        if line.startswith(" "):
            continue  # an answer as it was
        yield line
        if line.startswith("policy "):
            policy = changed(policy, line.split()[1:])
            supervisor = Supervisor(policy, jitter=lambda: 0.5)
        if line.startswith("? "):
            yield from (f"  {name}: {getattr(supervisor, name)}" for name in line.split()[1:])
        if not line.startswith("> "):
            continue
        step, name, *words = shlex.split(line[2:])
        now += float(step)
        if name == "Resumed":  # another program, and all that it knows is what was handed over
            memory = from_msgpack(to_msgpack(supervisor.remember()), Memory)
            assert memory is not None
            supervisor = Supervisor.resume(memory, policy, jitter=lambda: 0.5)
        for action in answers(supervisor, policy, name, words, now):
            yield from (f"  {text}" for text in written_out(action))
        if supervisor.next_deadline() != wake:
            wake = supervisor.next_deadline()
            yield f"  (next tick at {wake:g})" if wake is not None else "  (no tick needed)"


def changed(policy: ev.Policy, pairs: list[str]) -> ev.Policy:
    """Set fields of the policy from words such as `size=4`; whole numbers where the field is whole."""
    values = dict(pair.split("=") for pair in pairs)
    return replaced(policy, **{key: type(getattr(policy, key))(value) for key, value in values.items()})


def answers(supervisor: Supervisor, policy: ev.Policy, name: str, words: list[str], now: float) -> list[do.Action]:
    if name == "start":
        return supervisor.start(now)
    return [action for event in events(policy, name, words) for action in supervisor.handle(event, now)]


def events(policy: ev.Policy, name: str, words: list[str]) -> list[ev.Event]:
    """Translate one line of a story; some lines name several children, which is one event for each."""
    ids = [int(word) for word in words if word.isdigit()]
    texts = [word for word in words if not word.isdigit() and "=" not in word]
    values = dict(word.split("=", 1) for word in words if "=" in word)
    code, signal = int(values.get("code", 0)), int(values.get("signal", 0))
    match name:
        case "Forked":
            return [ev.Forked(id) for id in ids]
        case "ForkFailed":
            return [ev.ForkFailed(id, texts[0]) for id in ids]
        case "Ready":
            return [ev.WorkerReady(id) for id in ids]
        case "BootFailed":
            traceback = f"Traceback (most recent call last):\n{texts[0]}"
            return [ev.BootFailed(id, texts[0], traceback, code) for id in ids]
        case "Retiring":
            return [ev.WorkerRetiring(id, texts[0], told="told" in texts[1:]) for id in ids]
        case "Tired":
            return [ev.WorkerTired(id, texts[0]) for id in ids]
        case "TooBig":
            return [ev.WorkerTooBig(id, *(int(values[key]) << 20 for key in ("rss_mib", "limit_mib"))) for id in ids]
        case "Stopped":
            return [ev.WorkerStopped(id) for id in ids]
        case "Continued":
            return [ev.WorkerContinued(id) for id in ids]
        case "Exited":
            return [ev.WorkerExited(id, code, signal, "began" in texts, "served" in texts) for id in ids]
        case "Spent":
            return [ev.WorkerSpent(id) for id in ids]
        case "Tick":
            overdue = tuple(ev.Overdue(id, float(values["age"]), values["request"]) for id in ids)
            return [ev.Ticked(overdue, overslept="overslept" in texts, deaf_s=float(values.get("deaf", 0)))]
        case "Loaded":
            return [
                ev.ConfigLoaded(
                    changed(policy, [f"{key}={value}" for key, value in values.items()]), resize="resize" in texts
                )
            ]
        case "Rejected":
            return [ev.ConfigRejected(texts[0])]
        case "Accepted":
            return [ev.TargetAccepted()]
        case "Refused":
            return [ev.TargetRefused(texts[0], texts[0])]
        case "ExecFailed":
            return [ev.ExecFailed(texts[0])]
        case "Resumed":
            return [ev.Resumed()]
        case "Scale":
            return [ev.Scale(to=ids[0]) if ids else ev.Scale(by=int(words[0]))]
        case _:
            return [WISHES[name]]


def written_out(action: do.Action) -> list[str]:
    match action:
        case do.Say():
            assert action.id in (0, dict(action.fields).get("id"))
            return [f"{action.level}: {action.sentence}{_pairs(action.fields)}", *_indented(action.detail)]
        case do.Notify():
            flags = [flag for flag in ("ready", "reloading", "stopping") if getattr(action, flag)]
            return [" ".join(["Notify", *flags, f'"{action.status}"'])]
        case do.Spawn():
            return [f"Spawn {action.id} {action.kind.value} slot={action.slot} gen={action.generation}"]
        case do.Retire():
            return [f"Retire {action.id}{' drain' if action.drain else ''}"]
        case do.Hurry() | do.Dump() | do.Cancel() | do.Kill():
            return [f"{type(action).__name__} {action.id}"]
        case do.ReloadEnded():
            wishes, result = f"wishes={action.after + 1}..{action.upto}", (("error", action.error or "none"),)
            return [f"ReloadEnded {wishes} gen={action.generation}{_pairs(result)}", *_indented(action.traceback)]
        case do.Settle():
            return [f"Settle gen={action.generation}"]
        case do.Exit():
            return [f"Exit {action.code}"]
        case do.UpgradeEnded():
            return [f"UpgradeEnded{_pairs((('error', action.error),))}{' refused' if action.refused else ''}"]
        case do.LoadConfig() | do.ReopenLogFiles() | do.ShutDoors() | do.TryTarget() | do.DropTarget() | do.Exec():
            return [type(action).__name__]
        case _:
            assert_never(action)


def _pairs(fields: tuple[tuple[str, object], ...]) -> str:
    return "".join(f" {key}={_quoted(value)}" for key, value in fields)


def _indented(text: str) -> list[str]:
    return [f"  | {line}" for line in text.splitlines()]


def _quoted(value: object) -> str:
    text = str(value)
    return f'"{text}"' if " " in text else text
