"""Writes the pages of the documentation that come from the code: settings, and how the API differs from OpenAI's."""

import re
from collections.abc import Callable
from pathlib import Path

from app.protocol.image_request import PARAMETERS
from app.protocol.parameters import Destination
from docs.tables import parameters_table, settings_table

DOCS = Path(__file__).parent

_SETTINGS = """\
# Settings

Set them as variables of the environment, as lines of a file `.env` in the folder where Limner is started, or in a file
`limner.toml` there, by their names in lower case without `LIMNER_` (`port = 8080`). The environment wins over `.env`,
and both win over `limner.toml`. A wrong value, or a key in `limner.toml` that is no setting, stops the start with one
line that names it; a misspelled variable is warned of. Sizes may have a unit (`64MiB`), lists are separated by commas,
empty means unset.

{table}
"""

_DIFFERENCES = """\
# Differences from OpenAI

Limner reads what OpenAI reads, refuses what OpenAI refuses in the same words, and answers in the same form. What
differs:

| | OpenAI | Limner |
| --- | --- | --- |
| `response_format` | refused for `gpt-image-*` | obeyed for every model |
| who does not ask for a format | by model | by the same rule; `LIMNER_DEFAULT_RESPONSE_FORMAT` overrules it |
| `256x256`, `512x512` | refused by `gpt-image-*` | painted as 1024x1024 and scaled down |
| `standard`, `hd` as quality | refused by `gpt-image-*` | `medium`, `high` |
| unknown parameters | 400 `unknown_parameter` | accepted, and named in `x-limner-ignored` |
| edits | a form, or JSON on newer models | a form or JSON, for every model |
| `size`, `output_format` in the answer | as asked | as measured from the bytes |
| `usage` | counted | what the upstream counts, zeros where it counts nothing |
| a mask | guidance | guidance, or exact with `LIMNER_MASK=exact` |
| a repeated question | paid for again | joined, where the first has not been delivered |
| [comments of a stream](#comments-of-a-stream) | none | signs of life, progress, what headers were too early for |
| `/v1/images/variations` | retired | retired: 404 `endpoint_retired` |

These are accepted so that clients which send them work, and have no effect: {ignored}.

## Comments of a stream

The headers of a stream go out before its picture is there. What those of other answers tell is told in comments, which
every reader of server-sent events skips:

```text
: keep-alive

: progress Painting… 40 %

: x-limner-reply-form: markdown-image

: x-limner-upstream-ms: 48211

: x-limner-overhead-ms: 3.9

event: image_generation.completed
data: {{"type":"image_generation.completed",…}}
```

`progress` is the newest line of what the upstream has said so far, where that is short and holds no link, no key and
nothing of the prompt: at most one a second, only when it has changed. A silence of 15 s is broken by `keep-alive`. The
head of a stream goes out with its first picture or after 15 s: what fails before is an error with its status.

## Every parameter

{table}
"""


def settings_page() -> str:
    return _SETTINGS.format(table=_without_anchors(settings_table()))


def differences_page() -> str:
    ignored = ", ".join(f"`{row.name}`" for row in PARAMETERS if row.destination is Destination.NONE)
    return _DIFFERENCES.format(ignored=ignored, table=_without_anchors(parameters_table()))


def _without_anchors(table: str) -> str:
    """Links inside the README lead nowhere on another page."""
    return re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", table)


PAGES: dict[str, Callable[[], str]] = {"settings.md": settings_page, "differences.md": differences_page}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
