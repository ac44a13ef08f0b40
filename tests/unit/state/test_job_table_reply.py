"""The words that the job table says are the same in Python and in Lua, and each command says those that are named here."""

import re
from importlib.resources import files

import pytest

from app.state.job_table_reply import HeartbeatReply, TableAnswer, TableReply

SCRIPT = files("app.state").joinpath("job_table.lua").read_text()

#: Each command, and what it may say, for the methods of `JobTable` that send it.
ANSWERS = {
    "claim": "CLAIMED JOINED JOINED_OWN KEY_REUSED LOST SETTLING",
    "publish": "OK NOT_OWNER",
    "deliver": "OK AWAITED NOT_OWNER",
    "heartbeat": "OK",
    "poll": "DONE IN_FLIGHT ORPHANED LOST UNKNOWN",
    "take_over": "OK NOT_OWNER SETTLING",
    "unsubscribe": "OK",
    "abandon": "OK AWAITED NOT_OWNER",
    "lookup": "DONE IN_FLIGHT ORPHANED LOST UNKNOWN SETTLING",
    "cancel": "OK DONE SUBMITTED AWAITED LOST UNKNOWN SETTLING",
}


def words_of_the_script() -> dict[str, str]:
    """Return the words of job_table.lua by their names."""
    words: dict[str, str] = {}
    for names, texts in re.findall(r"^local ([A-Z_, ]+) = ('.*')$", SCRIPT, re.MULTILINE):
        words |= zip(names.split(", "), (text.strip("'") for text in texts.split(", ")), strict=True)
    return words


def functions_of_the_script() -> dict[str, str]:
    """Return the text of each function by its name, without comments."""
    code = re.sub(r"--.*", "", SCRIPT)
    parts = re.split(r"^(?:local )?function ([\w.]+)", code, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def answers_of(name: str) -> set[str]:
    """Return the names of the words that a function says, by itself or through those that it calls."""
    functions, words = functions_of_the_script(), words_of_the_script()
    answers, seen, left = set[str](), set[str](), [name]
    while left:
        seen.add(called := left.pop())
        answers |= words.keys() & set(re.findall(r"\w+", functions[called]))
        left += (functions.keys() & set(re.findall(r"([\w.]+)\(", functions[called]))) - seen
    return answers


def test_python_and_lua_have_the_same_words() -> None:
    assert words_of_the_script() == {each.name: each.value for each in TableAnswer if each is not TableAnswer.NO_REPLY}


def test_every_command_is_named_here() -> None:
    commands = {name for name in functions_of_the_script() if name.startswith("commands.")}
    assert commands == {f"commands.{name}" for name in ANSWERS}


@pytest.mark.parametrize("command", ANSWERS)
def test_a_command_says_what_is_named_here(command: str) -> None:
    assert answers_of(f"commands.{command}") == set(ANSWERS[command].split())


def test_a_reply_is_read_with_as_much_as_it_holds() -> None:
    assert TableReply.parse(None) == (TableAnswer.NO_REPLY, b"", 0)
    assert TableReply.parse([b"ok"]) == (TableAnswer.OK, b"", 0)
    assert TableReply.parse([b"joined", b"req_1"]) == (TableAnswer.JOINED, b"req_1", 0)
    assert TableReply.parse([b"done", b"{}", b"1500"]) == (TableAnswer.DONE, b"{}", 1500)
    with pytest.raises(ValueError, match="'finished'"):
        TableReply.parse([b"finished"])


def test_a_heartbeat_names_what_is_unknown_and_what_others_wait_for() -> None:
    assert HeartbeatReply.parse([b"ok", b"a", b"b", b"", b"c"]) == ({b"a", b"b"}, {b"c"})
    assert HeartbeatReply.parse([b"ok", b""]) == (set(), set())
