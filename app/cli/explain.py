"""`limner explain`: show which images are found in a chat reply, in which form, and why others are rejected."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import orjson

from app.cli.messages import print_error
from app.extraction.explain import json_report, parse_pasted, place_of_nothing, text_report
from app.extraction.forms import explain as search
from app.upstream.mending import place_of_error


@click.command("explain")
@click.argument("file", default="-", type=click.Path())
@click.option("--sent", multiple=True, metavar="URL", help="An image that was sent with the request; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, with addresses in full.")
def command(file: str, sent: Sequence[str], as_json: bool) -> int:
    """Show which images are found in a chat reply, and why not others.

    FILE has the reply: a response body, a stream, a message, or only its text. Without FILE the standard input is read.
    """
    return explain_file(file, sent=sent, as_json=as_json)


def explain_file(file: str, *, sent: Sequence[str] = (), as_json: bool = False) -> int:
    """Print the report and return the exit code: 0 if an image was found, 1 if not, 2 if the file cannot be read."""
    if file == "-" and sys.stdin.isatty():
        print("Paste the reply. End it with Ctrl-D at the beginning of a line.", file=sys.stderr)
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        print_error("explain", f"{file}: {error.strerror}")
        return 2
    pasted = parse_pasted(data)
    findings = search(pasted.reply, sent)
    place = place_of_error(data, is_error=pasted.reply.error is not None) or place_of_nothing(pasted, findings)
    place = None if findings.images else place
    if as_json:
        report = {**json_report(pasted, findings), "mend": place}
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(text_report(pasted, findings)))
        if place is not None:
            print(f"mend     {place}")
    return 0 if findings.images else 1
