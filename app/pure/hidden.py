"""What a text holds that is not said to the reader: reasoning, comments, samples of code, a gateway's page."""

import re
from collections.abc import Callable

#: More marks of one kind than these are an attack; what follows them is not read.
_MAX_MARKS = 1000
_REASONING = re.compile(
    r"<(think|thinking|thoughts?|reasoning|analysis|scratchpad|(?:seed|antml):think(?:ing)?)(?:\s[^<>]{0,200})?>"
    r"|\[(THINK)\]|◁(think)▷|<\|begin_of_(thought)\|>",
    re.IGNORECASE,
)
_REASONING_END = re.compile(r"</(?:think|thinking|thoughts?|reasoning|seed:think)>|\[/THINK\]|◁/think▷", re.IGNORECASE)
#: How the mark is closed, by the group of the pattern that opened it.
_CLOSINGS = ("</{}>", "[/{}]", "◁/{}▷", "<|end_of_{}|>")
_DETAILS = re.compile(
    r"<details\s[^<>]{0,200}(?:reasoning|think)[^<>]{0,200}>"
    r"|<details[^<>]{0,200}>\s{0,20}<summary>[^<]{0,80}(?:think|thought|reason|思考|推理)[^<]{0,80}</summary>",
    re.IGNORECASE,
)
_COMMENT = re.compile("<!--")
#: The language of a fence that shows how something is done; a fence of any other kind may hold the result.
_CODE = re.compile(
    r"```[ \t]*(?:python|py|bash|sh|shell|zsh|console|curl|http|javascript|js|typescript|ts|jsx|tsx|node|java|go|golang"
    r"|php|ruby|rust|c|cpp|csharp|cs|kotlin|swift|powershell|sql|lua|css|svg|dockerfile|yaml|toml)\b",
    re.IGNORECASE,
)
_PAGE = re.compile(r"\s*+(?:<\?xml[^>]{0,200}>\s*+)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


def is_page(text: str) -> bool:
    """A gateway's error page where an answer belongs: its pictures are logos."""
    return _PAGE.match(text) is not None


def drop_hidden(text: str) -> str:
    if any(mark in text for mark in "<[◁"):
        text = _after_stray_end(text)
        text = _drop(text, _REASONING, _closing)
        text = _drop(text, _DETAILS, lambda _: "</details>")
        text = _drop(text, _COMMENT, lambda _: "-->")
    return _drop(text, _CODE, lambda _: "```") if "```" in text else text


def _closing(opening: re.Match[str]) -> str:
    group = opening.lastindex or 1
    return _CLOSINGS[group - 1].format(opening[group])


def _after_stray_end(text: str) -> str:
    """Some templates put the opening mark into the prompt, so that only the closing one is answered."""
    end = _REASONING_END.search(text)
    if end is None:
        return text
    return text if _REASONING.search(text, 0, end.start()) else text[end.end() :]


def _drop(text: str, opening: re.Pattern[str], closing: Callable[[re.Match[str]], str]) -> str:
    """Without its closing mark, what was opened reaches to the end: the reply was cut off inside."""
    kept: list[str] = []
    at = 0
    for _ in range(_MAX_MARKS):
        start = opening.search(text, at)
        if start is None:
            return "".join(kept) + text[at:] if kept else text[at:]
        kept.append(text[at : start.start()])
        mark = closing(start)
        end = text.find(mark, start.end())
        if end < 0:
            break
        at = end + len(mark)
    return "".join(kept)
