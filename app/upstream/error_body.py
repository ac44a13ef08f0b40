"""Read the error answer of an upstream, whatever its shape: what it says, which fields it names, how long to wait."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.protocol.json_objects import objects_in
from app.protocol.moderation import read_moderation_details
from app.protocol.redaction import MAX_LOGGED, loggable_text, public_text
from app.protocol.reply_encoding import charset_of, in_utf8
from app.upstream.wait_windows import WaitWindow, find_wait


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """What is known of an attempt beside its answer.

    Attributes:
        now: Seconds since 1970, to compute waits from dates.
        elapsed: Seconds from the end of sending to the head of the answer, or to the error inside a 200.
        came_first: Nothing of a 200 came before its error, no comment and no white space either.
        pass_through: The request was sent with the caller's own key.
        secrets: Redacted wherever they occur, beside everything that looks like a key.
        client_texts: The prompt and whatever else the client wrote freely. It is cut out of the answer before that is
            searched: words that the client wrote prove nothing.
        dialect_fields: The paths that the upstream's dialect fills, like `image_config.aspect_ratio`.
        client_fields: Those with the client's own words in them, and `metadata` and `user` if the client sent them.
        reason: The text beside the status.
    """

    now: float
    elapsed: float = 0.0
    came_first: bool = True
    pass_through: bool = False
    secrets: Collection[str] = ()
    client_texts: Collection[str] = field(default=(), repr=False)
    dialect_fields: Collection[str] = ()
    client_fields: Collection[str] = ()
    user_agent: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamErrorBody:
    """The error answer of an upstream, parsed. Only `public_message` and the names may be shown to clients.

    Attributes:
        http_status: The HTTP status.
        status: The same, or the one that an error inside a 200 names.
        searchable: Every short text of the error object, to be searched for words; empty for an HTML page.
        public_message: What the error says, without keys, addresses and stack traces; empty if it says nothing.
        named_fields: The request's fields that the error is about, by their paths, such as `messages.0.content`.
        is_api_error: It is an error object in JSON, so an API has answered.
        is_page: It is an HTML page, so no API has answered.
        names_moderation: It has fields that only a safety system writes.
        everything: The beginning of the answer as it came and as it reads, with the text beside its status. The
            client's texts are not cut out: here a word is a reason not to ask again.
        is_all_searched: `everything` is all of the answer.
        detail: For the log: status and body without keys.
    """

    http_status: int
    status: int
    headers: Mapping[str, str]
    facts: AttemptFacts
    searchable: str = ""
    public_message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | None = None
    named_fields: tuple[str, ...] = ()
    is_api_error: bool = False
    is_page: bool = False
    names_moderation: bool = False
    moderation_details: Mapping[str, Any] | None = None
    wait: WaitWindow = field(default_factory=WaitWindow)
    everything: str = ""
    is_all_searched: bool = True
    detail: str = ""


def parse_error_body(status: int, headers: Mapping[str, str], body: bytes, facts: AttemptFacts) -> UpstreamErrorBody:
    """Parse an error answer in any of the shapes that upstreams use. `headers` are found by lower-case names."""
    body = in_utf8(body, charset_of(headers.get("content-type", "")))
    text = body.decode("utf-8-sig", errors="replace").strip()
    document = _parse(text)
    error = _unwrap(document)
    nodes = list(objects_in(error, limit=_MAX_NODES, depth=_MAX_DEPTH, values_of=_values_of))
    texts = " ".join(_texts(error, nodes))
    words = _without_echoes(texts[:_MAX_ECHOED], facts.client_texts)[:MAX_LOGGED]
    return UpstreamErrorBody(
        http_status=status,
        status=status if status >= 300 else _status_in(nodes) or status,
        headers=headers,
        facts=facts,
        searchable=words,
        public_message=public_text(_without_trace(_message_of(error, nodes)[:_MAX_SEARCHED]), facts.secrets),
        type=_name_of(nodes, "type", facts.secrets),
        param=_name_of(nodes, "param", facts.secrets),
        code=_name_of(nodes, "code", facts.secrets),
        named_fields=tuple(_named_fields(nodes)),
        is_api_error=isinstance(document, dict | list) and bool(words),
        is_page=_is_page(text),
        names_moderation=any(key in node for node in nodes for key in _MODERATION_KEYS),
        moderation_details=next(filter(None, map(read_moderation_details, nodes)), None),
        # Some relays write the wait beside the error.
        wait=find_wait(headers, [*nodes, document] if isinstance(document, dict) else nodes, words, facts.now),
        # The text as it came has escapes in place of letters: PHP and Python write all but ASCII so.
        everything=f"{facts.reason} {text[:_MAX_SEARCHED]} {texts[:_MAX_SEARCHED]}",
        is_all_searched=max(len(text), len(texts)) <= _MAX_SEARCHED,
        detail=f"upstream answered {status}: {loggable_text(body.decode(errors='replace'), facts.secrets)}",
    )


#: Characters of an answer that are searched for the words of middle boxes.
_MAX_SEARCHED = 4000
#: Characters of an answer in which the client's own texts are looked for: longer than the longest prompt.
_MAX_ECHOED = 64 * 1024
#: Objects of an error that are read, and the depth to which they are: `{"error": {"error": …}}` occurs.
_MAX_NODES, _MAX_DEPTH = 64, 8
_MESSAGE_KEYS = (
    *("message", "msg", "detail", "error", "title", "error_msg", "status_msg", "errormessage", "error_message"),
    *("error_description", "reason", "description", "faultstring", "status_message"),
)
#: What relays say of the error that they pass on; the error itself stands beside it.
_GENERIC = re.compile(
    r"(?:provider|upstream|openai|bad|invalid|the|an?)?\s?(?:returned|response|request|internal|unknown|server)?\s?"
    r"(?:an )?(?:error|status code|failed|failure|bad request)[. ]*",
    re.IGNORECASE,
)
#: Values that repeat what was sent, or that only the vendor's support can read.
_ECHO_KEYS = frozenset(
    "input prompt ctx request_id requestid user_id id stack stacktrace stack_trace trace traceback backtrace".split()
)
_MODERATION_KEYS = ("flagged_input", "moderation_details")
_NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
#: A code of several words, as vendors write one in place of a sentence, and where one word of it ends.
_CODE = re.compile(r"[A-Za-z]+(?:[_-][A-Za-z]+)+|[A-Za-z]?[a-z]+(?:[A-Z][a-z]*)+")
_JOINT = re.compile(r"[_-]|(?<=[a-z])(?=[A-Z])")
_STATUS = re.compile(r"[45][0-9][0-9]")
_STATUS_KEYS = ("code", "status", "status_code", "statusCode", "http_code", "type")
#: Codes and types that belong to one status each: of OpenAI, Anthropic and Google.
_STATUS_OF_NAME = {
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"), 429),
    **dict.fromkeys(("server_is_overloaded", "UNAVAILABLE"), 503),
    "overloaded_error": 529,
    **dict.fromkeys(("server_error", "internal_server_error", "internal_error", "api_error", "INTERNAL"), 500),
    **dict.fromkeys(("timeout_error", "DEADLINE_EXCEEDED"), 504),
}
_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body|title|center|h1|p)\b", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]{1,200}>")
#: Where the stack trace of Python, Node, Java, Go or Rust begins.
_TRACE = re.compile(
    r"traceback \(most recent|\bFile \"[^\"]{1,300}\", line|\s{1,9}at [\w.$<> \[\]]{1,120}\(|\bgoroutine [0-9]|"
    r"stack backtrace|\bCaused by:|\bpanicked at",
    re.IGNORECASE,
)
#: Characters of a text's beginning that are looked for in an answer. Shorter texts occur by chance.
_ECHO, _LEAST_ECHO = 12, 6


def _parse(text: str) -> object:
    """Return the JSON value, or the text of a body that is not JSON; an HTML page is an empty text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if _is_page(text):
            return ""
        return _TAG.sub(" ", text).strip() if text.startswith("<") else text


def _is_page(text: str) -> bool:
    return text.startswith("<") and _HTML.search(text, 0, 500) is not None


def _unwrap(document: object) -> object:
    """Return the innermost error object or text."""
    for _ in range(_MAX_DEPTH):
        if isinstance(document, list):
            document = document[0] if document else ""
        elif isinstance(document, dict) and isinstance(document.get("error"), dict | list):
            document = document["error"]
        elif isinstance(document, dict) and isinstance(document.get("errors"), list) and "message" not in document:
            # Google's older errors say it themselves, too, and have the status beside it.
            document = document["errors"]
    return document


def _values_of(value: object) -> list[Any]:
    """Return what an error holds directly, JSON within a text included, and echoes of the request left out."""
    if isinstance(value, dict):
        return [each for key, each in value.items() if key.lower() not in _ECHO_KEYS]
    if isinstance(value, list):
        return value[:_MAX_NODES]
    return _embedded_json(value) if isinstance(value, str) else []


def _embedded_json(text: str) -> list[Any]:
    """Return the JSON object within a text: relays put the error of their own upstream there."""
    start, end = text.find("{"), text.rfind("}") + 1
    if not 0 <= start < end:
        return []
    try:
        return [_unwrap(orjson.loads(text[start:end]))]
    except orjson.JSONDecodeError:
        return []


def _texts(error: object, nodes: Collection[Mapping[str, Any]]) -> Iterator[str]:
    if isinstance(error, str):
        yield error
    for node in nodes:
        for key, value in node.items():
            if key.lower() not in _ECHO_KEYS:
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str):
                        yield from _with_words_of_code(text)


def _with_words_of_code(text: str) -> Iterator[str]:
    """Yield a text, and behind a code its words: "not enough balance" for `NOT_ENOUGH_BALANCE`, `NotEnoughBalance`."""
    yield text
    if _CODE.fullmatch(text):
        yield _JOINT.sub(" ", text).lower()


def _message_of(error: object, nodes: Collection[Mapping[str, Any]]) -> str:
    """Return what the error says: the outermost message that says more than that there is an error."""
    found = [error] if isinstance(error, str) and error else []
    for node in nodes:
        lower = {key.lower(): value for key, value in node.items()}
        texts = [lower.get(key) for key in _MESSAGE_KEYS]
        found += [text for text in texts if isinstance(text, str) and text][:1]
    telling = [text for text in found if not _GENERIC.fullmatch(text) and not _embedded_json(text)]
    return next(iter(telling or found), "")


def _without_trace(text: str) -> str:
    trace = _TRACE.search(text)
    return text if trace is None else text[: trace.start()].rstrip()


def _without_echoes(text: str, client_texts: Collection[str]) -> str:
    """Cut what the client wrote out of a text, or as much of its beginning as the text has."""
    for written in client_texts:
        start, rest = written[:_ECHO], written[_ECHO:]
        if len(start) >= _LEAST_ECHO:
            first, *parts = text.split(start)
            text = " ".join([first, *(part[_common_length(part, rest) :] for part in parts)])
    return text


def _common_length(first: str, second: str) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


def _name_of(nodes: Collection[Mapping[str, Any]], key: str, secrets: Collection[str]) -> str | None:
    """Return a field of the outermost object that is a plain name and not a key, `None` for anything else."""
    value = next((node.get(key) for node in nodes), None)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        return None
    return value if loggable_text(value, secrets) == value else None


def _status_in(nodes: Collection[Mapping[str, Any]]) -> int | None:
    """Return the status that an error names: some relays answer 200 and put the status, or only a code, there."""
    values = [str(node.get(key)) for node in list(nodes)[:1] for key in _STATUS_KEYS]
    status = next((int(value) for value in values if _STATUS.fullmatch(value)), None)
    return status or next((_STATUS_OF_NAME[value] for value in values if value in _STATUS_OF_NAME), None)


def _named_fields(nodes: Collection[Mapping[str, Any]]) -> Iterator[str]:
    for node in nodes:
        for key in ("param", "loc", "field", "parameter"):
            value = node.get(key)
            steps = value if isinstance(value, list) else [value] if isinstance(value, str) else []
            path = plain_path(".".join(map(str, steps))).removeprefix("body.")
            if path:
                yield path


def plain_path(path: str) -> str:
    """Return the path of a field with dots alone: `messages[0].content` is `messages.0.content`."""
    return re.sub(r"[\[\].]+", ".", path).strip(".")
