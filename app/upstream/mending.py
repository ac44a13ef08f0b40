"""Name the setting that an upstream's error is about, where the error is pasted for a report."""

import re

from app.upstream.error_body import AttemptFacts
from app.upstream.error_mapping import classify

_LOGGED = re.compile(rb"upstream answered ([1-5][0-9]{2}): (.*)", re.DOTALL)


def place_of_error(pasted: bytes, *, is_error: bool) -> str | None:
    """Return the setting that an upstream's error is about, None where there is no error of that kind.

    The error is pasted as its body (`is_error`), or as the `detail` of a log line, which has the status as well.
    """
    logged = _LOGGED.search(pasted)
    if not logged and not is_error:
        return None
    status, body = (int(logged[1]), logged[2]) if logged else (200, pasted)
    failure = classify(status, {}, body, AttemptFacts(now=0.0))
    if failure.setting is None:
        return None
    return f"LIMNER_UPSTREAM_{failure.setting.upper()}, or {failure.setting} of the upstream in limner.toml"
