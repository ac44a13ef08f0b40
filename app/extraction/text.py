"""One text of a reply, made ready for searching: base64 cut out, hidden parts dropped, addresses found once."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import orjson

from app.extraction.base64_runs import MARK, Base64Run, extract_base64, resolve_run, strip_base64
from app.extraction.mentions import UrlMention, find_mentions
from app.extraction.structured import JsonWalker
from app.extraction.urls import UrlKind, classify_url
from app.protocol.chat_reply import ChatReply

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


def is_html_page(text: str) -> bool:
    """A gateway's error page where an answer belongs: its pictures are logos."""
    return _PAGE.match(text) is not None


def visible_text(reply: ChatReply) -> str:
    """Return what the model says in words, without reasoning and without images written as base64."""
    walk = JsonWalker()
    walk.walk(list(reply.bodies))
    texts = [message["content"] for message in reply.messages] + walk.texts
    return "\n".join(filter(None, (strip_hidden(strip_base64(text)).strip() for text in texts)))


def strip_hidden(text: str) -> str:
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


#: Texts inside JSON inside texts: nobody means more.
_MAX_DEPTH = 3
#: Escapes of JSON and Markdown in addresses, where the text around them is no JSON that could be parsed.
_ESCAPES = (("\\u0026", "&"), *((f"\\{letter}", letter) for letter in "_&~=#*-.![]()"))
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#34;", '"'), ("&#39;", "'"), ("&#x27;", "'"))
_MAX_FENCES = 50
_FENCE = re.compile(r"```[ \t]*(?:json|jsonc|javascript)?[ \t]*\n")


class ReplyText:
    """`pieces` are given where `raw` comes from a text whose base64 has been cut out already."""

    def __init__(self, raw: str, pieces: tuple[Base64Run, ...] | None = None, depth: int = 0) -> None:
        self._depth = depth
        if pieces is None:
            raw, pieces = extract_base64(raw.replace("\\/", "/").replace("base64://", "data:;base64,"))
        self.runs = pieces
        self.is_page = is_html_page(raw)
        self._raw = raw if not self.is_page and ("//" in raw or MARK in raw) else ""

    @cached_property
    def visible(self) -> str:
        """Empty where the text is a JSON document: then its keys say what is what."""
        text = "" if self._is_json else self._raw
        for sign, table in (("\\", _ESCAPES), ("&", _ENTITIES)):
            for escape, letter in table if sign in text else ():
                text = text.replace(escape, letter)
        return strip_hidden(text)

    @cached_property
    def mentions(self) -> list[UrlMention]:
        return find_mentions(self.visible)

    @cached_property
    def has_video(self) -> bool:
        return any(classify_url(mention.url) is UrlKind.VIDEO for mention in self.mentions)

    @cached_property
    def _document(self) -> Any:
        return _parse(self._raw.strip())

    @property
    def _is_json(self) -> bool:
        return isinstance(self._document, dict | list)

    @cached_property
    def whole_json(self) -> JsonWalker:
        """Where the text is one JSON document."""
        return self._walk([self._document])

    @cached_property
    def embedded_json(self) -> JsonWalker:
        """JSON in fences or between words."""
        return self._walk([_parse(document) for document in _documents(self.visible)])

    def nested_texts(self, walk: JsonWalker) -> Iterator["ReplyText"]:
        if self._depth < _MAX_DEPTH:
            yield from (ReplyText(said, self.runs, self._depth + 1) for said in walk.texts)

    def run_of(self, mention: UrlMention) -> Base64Run | None:
        return resolve_run(mention.url, self.runs)

    def _walk(self, values: list[Any]) -> JsonWalker:
        walk = JsonWalker(self.runs)
        for value in values:
            if isinstance(value, str):
                walk.texts.append(value)
            else:
                walk.walk(value)
        return walk


def _parse(document: str) -> Any:
    if document[:1] not in {"{", "[", '"'}:
        return None
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return None


def _documents(text: str) -> list[str]:
    """Each is tried once, so the work stays within a few times the text."""
    fenced = [part.partition("```")[0].strip() for part in _FENCE.split(text, _MAX_FENCES)[1:]]
    start, end = text.find("{"), text.rfind("}") + 1
    first = text.find("[{"), text.rfind("}]") + 2
    spans = [text[start:end], text[first[0] : first[1]] if first[0] >= 0 else ""]
    return [*fenced, *spans]
