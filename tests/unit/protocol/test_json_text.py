import codecs
import json
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.protocol.json_text import decode_text, parse_json, wide_encoding

FOX = "\U0001f98a"


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    body: bytes
    expected: object
    charset: str = ""


CASES = [
    Case("UTF-8", '{"a":"猫"}'.encode(), {"a": "猫"}),
    Case("a byte order mark", codecs.BOM_UTF8 + b'{"a":1}', {"a": 1}),
    Case("the high half of a pair", b'["a \\ud83d"]', ["a \ufffd"]),
    Case("the low half of a pair", b'["\\uDD8A a"]', ["\ufffd a"]),
    Case("the halves in the wrong order", b'["\\udd8a\\ud83e"]', ["\ufffd\ufffd"]),
    Case("a half beside a pair", b'["\\ud83e\\ud83e\\udd8a"]', ["\ufffd" + FOX]),
    Case("a half behind escaped backslashes", rb'["\\\\\ud83d"]', ["\\\\\ufffd"]),
    Case("what looks like a half is text", rb'["\\ud83d \ud83d"]', ["\\ud83d \ufffd"]),
    Case("what looks like a pair is text and a half", rb'["\\ud83e\udd8a"]', ["\\ud83e\ufffd"]),
    Case("a half emoji in bytes", b'["a \xf0\x9f\xa6"]', ["a \ufffd"]),
    Case("a half letter in bytes", b'["\xe7\x8c"]', ["\ufffd"]),
    Case("surrogates that were encoded one by one, as Java and MySQL do", b'["\xed\xa0\xbe\xed\xb6\x8a"]', [FOX]),
    Case("one surrogate in bytes", b'["\xed\xa0\xbe"]', ["\ufffd"]),
    Case("a charset that is declared", b'["\xe9"]', ["é"], "ISO-8859-1"),
    Case("a declared charset that is not true", '["猫"]'.encode(), ["猫"], "iso-8859-1"),
    Case("GBK, whose bytes happen to be UTF-8 too", '["猫"]'.encode("gbk"), ["猫"], "gbk"),
    Case("an unknown charset does not matter where the text is UTF-8", b"[1]", [1], "x-none"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_text_is_read(case: Case) -> None:
    assert parse_json(case.body, case.charset) == case.expected
    assert parse_json(bytearray(case.body), case.charset) == case.expected


@dataclass(frozen=True, slots=True)
class Refused:
    name: str
    body: bytes
    message: str
    charset: str = ""


REFUSED = [
    Refused("nothing", b"", "Input is a zero-length, empty document at line 1, column 1."),
    Refused("a raw line end", b'{\n"a":"b\nc"}', "unexpected control character in string at line 2, column 7."),
    Refused("Latin-1 without its name", b'{"a":"\xe9"}', "it is not valid UTF-8 at byte 7. Send it as UTF-8."),
    Refused("a lone lead byte, which may be a letter of Latin-1", b'["\xf0"]', "it is not valid UTF-8 at byte 3."),
    Refused("a charset that is none", b'["\xe9"]', "it is not valid UTF-8 at byte 3.", "hex"),
    Refused("a charset that nobody knows", b'["\xe9"]', "it is not valid UTF-8 at byte 3.", "x-none"),
    Refused("a charset that is no name", b'["\xe9"]', "it is not valid UTF-8 at byte 3.", "a\0b"),
    Refused("a form in place of JSON", b"prompt=a", "unexpected character, expected a JSON value at line 1, column 1."),
    Refused("more halves than any prompt has", b'["%s"]' % (b"\\ud83d" * 40_000), "invalid low surrogate in string at line 1,"),
    Refused("an object that was encoded twice", b'"{\\"a\\":1}"', "it was encoded twice."),
    Refused("a list that was encoded twice", b'" [1]"', "it was encoded twice."),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_an_error_says_where_and_what(case: Refused) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_json(case.body, case.charset)
    assert case.message in caught.value.message


@given(text=st.text(st.characters(categories=("Lu", "So", "Cs", "Po"))))
@example(text="\\ud83d\ud83d")
def test_json_of_other_programs_is_read_with_its_halves_replaced(text: str) -> None:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert parse_json(json.dumps([text]).encode()) == [whole]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_wide_encodings_are_recognized(encoding: str, mark: str) -> None:
    assert wide_encoding(f'{mark}{{"a":1}}'.encode(encoding)) == encoding


@pytest.mark.parametrize("head", [b"", b"{", b'{"a"', b"\0\0\0\0", "猫".encode()])
def test_utf_8_is_not_wide(head: bytes) -> None:
    assert wide_encoding(head) is None


def test_a_text_of_a_form_is_decoded_likewise() -> None:
    assert decode_text(b"\xef\xbb\xbfa \xf0\x9f\xa6") == "a \ufffd"
