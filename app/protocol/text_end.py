"""How the text of a message ends, by the reason that its upstream names."""

import re
from enum import StrEnum

#: The model was stopped in the middle of a word, or of a URL.
_CUT = re.compile(r"length|limit|max|incomplete|truncat", re.IGNORECASE)
#: The model has stopped by itself, in the words of several APIs.
_WHOLE = re.compile(r"stop|end|eos|complete|done|finish|success|tool|function", re.IGNORECASE)


class TextEnd(StrEnum):
    """What is known of the end of a text."""

    WHOLE = "nothing is missing"
    UNKNOWN = "the upstream names an error, or a reason that is not known"
    CUT = "more was to come"


def text_end(reason: str) -> TextEnd:
    """Return what a finish reason says of the end of the text."""
    if reason == "stop":  # That of nearly every reply.
        return TextEnd.WHOLE
    if _CUT.search(reason):
        return TextEnd.CUT
    return TextEnd.WHOLE if _WHOLE.search(reason) else TextEnd.UNKNOWN
