"""`limner explain`: which pictures are found in a chat reply, in which form, and why the rest was dropped."""

import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from app.extraction.explain import json_report, parse_pasted, text_report
from app.extraction.forms import explain as search


def explain_file(file: str, *, sent: Sequence[str] = (), as_json: bool = False) -> int:
    """The exit code: 0 a picture was found, 1 none, 2 no such file. `-` is the standard input."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        print(f"limner explain: {file}: {error.strerror}", file=sys.stderr)
        return 2
    pasted = parse_pasted(data)
    findings = search(pasted.reply, sent)
    if as_json:
        print(orjson.dumps(json_report(pasted, findings), option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(text_report(pasted, findings)))
    return 0 if findings.images else 1
