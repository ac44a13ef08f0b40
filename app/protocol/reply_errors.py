"""Find the error in a document of a reply that came with status 200, or in the middle of a stream."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

#: An error object, read by `upstream/error_mapping`.
ReplyError = Mapping[str, Any]

_SUCCESS_CODES = (None, 0, 200, "0", "200", "success", "")
#: False equals 0.
_UNTRUE = (False, "false")
_FAILURE_STATUSES = ("error", "fail", "failed", *range(400, 600))
#: Characters of an error that are read, and of the name of one of its fields.
_MAX_ERROR, _MAX_KEY = 32 * 1024, 64
#: A document without these keys has no error itself: most events of a stream.
_ERROR_MARKS = frozenset({"error", "errors", "detail", "fault", "success", "ok", "code", "status"})
#: If a document with an error has no error object, these of its keys make one.
_ERROR_KEYS = (
    *("message", "msg", "detail", "error", "title", "type", "param", "code", "status"),
    *("error_code", "errorCode", "reason"),
)
#: Where a document has an error, or the first of several.
_ERROR_PLACES = ("error", "errors", "detail", "fault")
#: What relays call the code and the message in an object that says how a request went, in lower case.
_CODE_KEYS = ("code", "status_code", "statuscode", "error_code", "errorcode", "errcode", "ret", "ret_code")
#: In lower case; an object without these keys says nothing of a failure.
_CODED = frozenset(("error", *_CODE_KEYS))
_MESSAGE_KEYS = (
    *("message", "msg", "status_msg", "statusmsg", "error_msg", "errormsg", "errmsg", "error_message"),
    *("error_description", "description", "status_message", "errormessage"),
)
_SUCCESS_WORDS = re.compile(
    r"(?:ok|okay|(?:submit )?success(?:ful(?:ly)?)?|succeeded|done|\w{0,4}成功)\W*", re.IGNORECASE
)
#: Objects in a document that are looked at: such an object is one of few.
_MAX_OBJECTS = 20


def find_error(document: Mapping[str, Any]) -> ReplyError | None:
    """Return the error object of a document, or None.

    Upstreams write `error`, `errors` or `detail`, each an object, a list of objects or a text, or a code and a message
    in place of choices, directly or in an object such as `header`, `base_resp` or `Response`.
    """
    error = _find_error_object(document)
    if error is None and "choices" not in document:
        error = _coded_error(document) or _find_inner_error(document)
    return None if error is None else _Excerpt().of(error)


def _find_error_object(document: Mapping[str, Any]) -> dict[str, Any] | None:
    is_named = document.get("object") == "error" or document.get("type") == "error"
    if not is_named and _ERROR_MARKS.isdisjoint(document):
        return None
    for name in _ERROR_PLACES:
        value = document.get(name)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict) and first:
            return first
        if isinstance(first, str) and first:
            return {**_error_fields(document), "message": first}
    has_failed = (
        is_named
        or document.get("error") is True
        or document.get("success", True) in _UNTRUE
        or document.get("ok", True) in _UNTRUE
        or document.get("code") not in _SUCCESS_CODES
        or document.get("status") in _FAILURE_STATUSES
    )
    has_message = any(isinstance(document.get(name), str) for name in ("message", "msg"))
    return _error_fields(document) if has_failed and has_message else None


def _find_inner_error(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the error in one of the objects that the document holds directly."""
    inner = [value for value in list(document.values())[:_MAX_OBJECTS] if isinstance(value, dict)]
    return next((error for error in map(_coded_error, inner) if error is not None), None)


def _coded_error(node: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an object says of a failure: its error, or a message with a code other than those of success."""
    if _CODED.isdisjoint(map(str.lower, node)):
        return None
    lower = {key.lower(): value for key, value in node.items()}
    error = lower.get("error")
    if isinstance(error, dict):
        return {key.lower(): value for key, value in error.items()} or None
    if isinstance(error, str) and error:
        return {"code": lower.get("code"), "message": error}
    code = next((lower[key] for key in _CODE_KEYS if key in lower), None)
    if not isinstance(code, str | int) or code in _SUCCESS_CODES:
        return None
    message = next((lower[key] for key in _MESSAGE_KEYS if isinstance(lower.get(key), str)), "")
    return {"code": code, "message": message} if message and not _is_success(message) else None


def _is_success(message: str) -> bool:
    return _SUCCESS_WORDS.fullmatch(message.strip()) is not None


def _error_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in _ERROR_KEYS if key in document}


@dataclass(slots=True)
class _Excerpt:
    """Copies the part of a value that is read: real errors are short, and orjson reads deeper nesting than it writes.

    `left`: characters that are still copied.
    """

    left: int = _MAX_ERROR

    def of(self, value: Any, levels: int = 8) -> Any:
        """Return the first part of a value."""
        if isinstance(value, str):
            value = value[: self.left]
            self.left -= len(value)
        elif isinstance(value, dict):
            pairs = takewhile(self._take, value.items() if levels else ())
            return {key[:_MAX_KEY]: self.of(each, levels - 1) for key, each in pairs}
        elif isinstance(value, list):
            return [self.of(each, levels - 1) for each in takewhile(self._take, value if levels else ())]
        return value

    def _take(self, _: object) -> bool:
        self.left -= _MAX_KEY
        return self.left > 0
