"""Prepare a text of a reply for searching: base64 cut out, hidden parts removed, URLs and JSON read once.

Hidden is what a person does not see as the answer: reasoning, comments, sample code.
"""

import html
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import orjson

from app.extraction.base64_runs import MARK, Base64Run, extract_base64, resolve_run, strip_base64
from app.extraction.mentions import IMAGE_MARKUP, UrlMention, find_mentions, note_conversions, note_open_end
from app.extraction.relative_links import may_have_path, paths_in
from app.extraction.slices import search_in_slices
from app.extraction.structured import NO_JSON, JsonWalker, walk_json
from app.extraction.urls import UrlKind, classify_url, has_image_ending
from app.protocol.chat_reply import ChatReply
from app.protocol.text_end import TextEnd

#: Texts inside JSON inside texts are read down to this depth.
_MAX_DEPTH = 3
#: Hidden parts of one kind that are removed. More are an attack: the text behind them is not read.
_MAX_HIDDEN = 1000
_MAX_FENCES = 50
#: Numbered entities that are read in one text. An escaped URL has a dozen.
_MAX_ENTITIES = 10_000
#: Characters of the markup around a URL that is alone in its line.
_MAX_MARKUP = 4

_REASONING = re.compile(
    r"<(think|thinking|thoughts?|reasoning|analysis|scratchpad|(?:seed|antml):think(?:ing)?)(?:\s[^<>]{0,200})?>"
    r"|\[(THINK)\]|◁(think)▷|<\|begin_of_(thought)\|>",
    re.IGNORECASE,
)
_REASONING_END = re.compile(r"</(?:think|thinking|thoughts?|reasoning|seed:think)>|\[/THINK\]|◁/think▷", re.IGNORECASE)
#: The closing tag, by the group of `_REASONING` that matched the opening one.
_CLOSING_TAGS = ("</{}>", "[/{}]", "◁/{}▷", "<|end_of_{}|>")
_DETAILS = re.compile(
    r"<details\s[^<>]{0,200}(?:reasoning|think)[^<>]{0,200}>"
    r"|<details[^<>]{0,200}>\s{0,20}<summary>[^<]{0,80}(?:think|thought|reason|思考|推理)[^<]{0,80}</summary>",
    re.IGNORECASE,
)
_COMMENT = re.compile("<!--")
_REASONING_FENCE = re.compile(
    r"^[ \t>]*(```+|~~~+|:::+)[ \t]*\{?(?:think|thinking|thoughts?|reasoning|analysis|scratchpad|思考|推理)\b[^\n`]*$",
    re.IGNORECASE | re.MULTILINE,
)
#: Models of the Harmony format write into channels, of which a person sees the final one.
_CHANNEL = "<|channel|>"
_END_OF_CHANNEL = re.compile(r"<\|(?:end|return|call|start)\|>")
#: The same where the marks were lost: "analysisFirst I …assistantfinal…".
_LOST_CHANNELS = re.compile(r"\s*analysis(?=[A-Z\W]).*assistantfinal", re.DOTALL)
_ESCAPED_SCHEME = re.compile(r"http(?:s|%73)?%3A%2F%2F|data%3Aimage", re.IGNORECASE)
#: How an image begins that is written as a list of its bytes: PNG, JPEG, WebP, GIF.
_NUMBERS = re.compile(r"\b(?:137,\s?80,|255,\s?216,\s?255|82,\s?73,\s?70,|71,\s?73,\s?70,)")
#: Languages of sample code, which shows how something is done. A code block in any other language may hold the result.
_CODE = re.compile(
    r"```[ \t]*(?:python|py|bash|sh|shell|zsh|console|curl|http|javascript|js|typescript|ts|jsx|tsx|node|java|go|golang"
    r"|php|ruby|rust|c|cpp|csharp|cs|kotlin|swift|powershell|sql|lua|css|svg|dockerfile)\b(?!:)"
    # A block that begins with a brace, a bracket or a URL is data in whatever language.
    r"(?![^\n`]{0,80}\n\s{0,80}(?:[{\[]|!\[|https?://|data:))",
    re.IGNORECASE,
)
#: A call of a tool that the model writes into its text. What it is called with is no result; its answer may be.
_CALL = re.compile(
    r"<((?:[a-z]{1,12}:)?(?:tool_calls?|function_calls?|tool_use))(?:\s[^<>]{0,200})?>"
    r"|```[ \t]*(?:tool_code|tool_calls?|function_calls?|tool_use)\b|\n(Action Input:)",
    re.IGNORECASE,
)
_HTML_PAGE = re.compile(r"\s*+(?:<\?xml[^>]{0,200}>\s*+)?<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_JSON_FENCE = re.compile(r"```[ \t]*(?:json|jsonc|javascript)?[ \t]*\n")

#: Escapes of JSON and Markdown in URLs, for texts that are not JSON that could be parsed.
_ESCAPES = (
    *(("\\u0026", "&"), ("\\u003c", "<"), ("\\u003C", "<"), ("\\u003e", ">"), ("\\u003E", ">"), ("\\u0022", '"')),
    *((f"\\{character}", character) for character in '_&~=#*-.![]()"'),
)
#: Invisible characters with which pages let a long URL break into lines, behind signs within the URL.
_BREAK_HINT = re.compile(r"(?<=[/?&=])[\u200b\u00ad]+(?=[A-Za-z0-9])")
#: An entity that was escaped again: "&amp;lt;", "&amp;amp;quot;".
_ESCAPED_ENTITY = re.compile(r"&(?:amp;)+(?=(?:lt|gt|quot|#34|#39|#x27|amp);)")
#: Numbered entities of printable ASCII, as template engines write slashes. Quotes, brackets of tags and backslashes
#: mean something in the JSON and HTML around a URL.
_NUMBERED_ENTITY = re.compile(
    r"&#(?!34;|39;|60;|62;|92;|x22;|x27;|x3[ce];|x5c;)(?:x[2-7][0-9a-f]|3[3-9]|[4-9][0-9]|1[01][0-9]|12[0-6]);",
    re.IGNORECASE,
)
_ENTITIES = (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#34;", '"'), ("&#39;", "'"), ("&#x27;", "'"))


class ReplyText:
    """One text of a reply, prepared.

    A text without any URL, base64 or bytes, and the HTML page of a gateway, count as empty.

    Attributes:
        visible: The text without hidden parts. Empty where it is a JSON document: there, keys tell more than words.
        whole_json: The images of the text where all of it is one JSON document.
        embedded_json: The images of JSON in code blocks or between words.
        end: How the text ends.
    """

    def __init__(
        self, raw: str, runs: tuple[Base64Run, ...] | None = None, depth: int = 0, end: TextEnd = TextEnd.WHOLE
    ) -> None:
        """Cut the base64 out of `raw`, or take `runs` where `raw` comes from a text whose base64 is cut out already."""
        self._depth, self.end = depth, end
        if runs is None:
            raw = _without_percents(_plain_slashes(raw))
            raw, runs = extract_base64(raw.replace("base64://", "data:;base64,"))
        self.runs = runs
        has_image = "//" in raw or MARK in raw or may_have_path(raw) or _has_numbers(raw)
        raw = raw if has_image and not is_html_page(raw) else ""
        document = _parse_json(raw.strip())
        text = "" if isinstance(document, dict | list) else _unescape_and_strip(raw)
        self.visible, calls = _cut_out(text, _CALL, _call_end)
        self.whole_json = self._walk([document])
        called = [
            each for call in calls for each in _documents_in(call) if isinstance(each, dict) and "arguments" in each
        ]
        self.embedded_json = self._walk([*_documents_in(self.visible), *called])

    @cached_property
    def mentions(self) -> list[UrlMention]:
        mentions = find_mentions(self.visible)
        note_open_end(self.visible, mentions, is_whole=self.end is TextEnd.WHOLE)
        note_conversions(self.visible, mentions)
        return mentions

    @cached_property
    def videos(self) -> frozenset[str]:
        """The URLs of videos in the text."""
        links = [mention.enclosing_link for mention in self.mentions if mention.enclosing_link is not None]
        return frozenset(each.url for each in (*self.mentions, *links) if classify_url(each.url) is UrlKind.VIDEO)

    @property
    def paths(self) -> list[str]:
        """The paths without a host that the text shows as images, without one in whose middle it surely ends."""
        paths = paths_in(self.visible)
        is_cut = self.end is TextEnd.CUT and bool(paths) and self.visible.endswith(paths[-1])
        return paths[:-1] if is_cut and not has_image_ending(f"://{paths[-1]}") else paths

    def cuts(self, mention: UrlMention) -> bool:
        """Return whether the text surely ends within a URL. Behind the ending of an image, the URL may be whole."""
        if mention.is_truncated and classify_url(mention.url) is not UrlKind.IMAGE:
            return True
        return mention.is_open and self.end is TextEnd.CUT and not has_image_ending(mention.url)

    def is_skipped(self, mention: UrlMention) -> bool:
        """Check for a URL that stands in JSON between words, where its key says that it is no result."""
        if not self.embedded_json.skipped or mention.kind in IMAGE_MARKUP or mention.url not in self._skipped:
            return False
        return self.visible.find("{") < mention.start < self.visible.rfind("}")

    @cached_property
    def _skipped(self) -> str:
        return str(self.embedded_json.skipped)

    def nested_texts(self, walker: JsonWalker) -> list["ReplyText"]:
        """Return the texts that the JSON of this text contains, down to `_MAX_DEPTH`."""
        if self._depth >= _MAX_DEPTH or not walker.texts:
            return []
        return [ReplyText(text, self.runs, self._depth + 1) for text in walker.texts]

    def run_of(self, mention: UrlMention) -> Base64Run | None:
        """Return the run of base64 that stands in place of a URL, `None` where it is a URL."""
        return resolve_run(mention.url, self.runs) if self.runs else None

    def has_own_line(self, mention: UrlMention) -> bool:
        """Return whether nothing but a URL, or its markup, stands in its line."""
        before = self.visible[max(0, mention.start - _MAX_MARKUP - 1) : mention.start].rpartition("\n")[2]
        behind = self.visible[mention.end : mention.end + _MAX_MARKUP + 1].partition("\n")[0]
        return len(before.strip()) + len(behind.strip()) <= _MAX_MARKUP

    def _walk(self, values: list[Any]) -> JsonWalker:
        found = [value for value in values if value is not None]
        if not found:
            return NO_JSON
        walker = JsonWalker(self.runs)
        for value in found:
            if isinstance(value, str):
                walker.texts.append(value)
            else:
                walker.walk(value)
        return walker


def _has_numbers(text: str) -> bool:
    return search_in_slices(_NUMBERS, text, 0, len(text)) is not None


def _plain_slashes(text: str) -> str:
    """Return the text without the escapes of slashes in JSON and HTML, which would hide that there is a URL."""
    for escape in ("\\/", "\\u002f", "\\u002F") if "\\" in text else ():
        text = text.replace(escape, "/")
    if "&#" not in text:
        return text
    return _NUMBERED_ENTITY.sub(lambda entity: html.unescape(entity[0]), text, count=_MAX_ENTITIES)


def _without_percents(text: str) -> str:
    """Decode a text whose URLs are all written with percent signs: a form, or one address that was escaped."""
    if "://" in text or "%3" not in text or not search_in_slices(_ESCAPED_SCHEME, text, 0, len(text)):
        return text
    return unquote(text.replace("&", "\n"))


def _unescape_and_strip(text: str) -> str:
    if "\u200b" in text or "\u00ad" in text:
        text = _BREAK_HINT.sub("", text)
    if "&amp;" in text:
        text = _ESCAPED_ENTITY.sub("&", text)
    for sign, table in (("\\", _ESCAPES), ("&", _ENTITIES)):
        for escape, character in table if sign in text else ():
            text = text.replace(escape, character)
    return strip_hidden(text)


#: Characters of each text in which words are looked for. A few thousand are read, behind images that are not large.
_MAX_VISIBLE = 2**19


def visible_text(reply: ChatReply) -> str:
    """Return what the model says in words, without reasoning and without images written as base64."""
    texts = [message["content"] for message in reply.messages] + walk_json(list(reply.bodies)).texts
    return "\n".join(filter(None, (strip_hidden(strip_base64(text[:_MAX_VISIBLE])).strip() for text in texts)))


def is_html_page(text: str) -> bool:
    """Check for an HTML document: the error page of a gateway, whose images are logos."""
    return _HTML_PAGE.match(text) is not None


def strip_hidden(text: str) -> str:
    """Remove reasoning, comments and sample code."""
    text = _final_channel(text)
    if "```" in text or "~~~" in text or ":::" in text:
        text = _remove(text, _REASONING_FENCE, lambda fence: f"\n{fence[1]}")
    if "<" in text or "[" in text or "◁" in text:
        text = _after_unopened_reasoning(text)
        text = _remove(text, _REASONING, _closing_tag)
        text = _remove(text, _DETAILS, lambda _: "</details>")
        text = _remove(text, _COMMENT, lambda _: "-->")
    return _remove(text, _CODE, lambda _: "```") if "```" in text else text


def _final_channel(text: str) -> str:
    """Return the text of the final channels, of all others where there is none, or the whole text without channels."""
    if _CHANNEL not in text:
        lost = _LOST_CHANNELS.match(text) if "assistantfinal" in text else None
        return text[lost.end() :] if lost else text
    before, *channels = text.split(_CHANNEL)
    final = [channel for channel in channels if channel.lstrip().startswith("final")]
    commentary = [channel for channel in channels if channel.lstrip().startswith("commentary")]
    return "\n".join([_END_OF_CHANNEL.split(part)[0] for part in (before, *(final or commentary))])


def _closing_tag(opening: re.Match[str]) -> str:
    group = opening.lastindex or 1
    return _CLOSING_TAGS[group - 1].format(opening[group])


def _call_end(opening: re.Match[str]) -> str:
    return f"</{opening[1]}>" if opening[1] else "\nObservation" if opening[2] else "```"


def _after_unopened_reasoning(text: str) -> str:
    # Some chat templates put the opening tag into the prompt, so that the reply contains the closing one only.
    end = search_in_slices(_REASONING_END, text, 0, len(text))
    if end is None:
        return text
    return text if search_in_slices(_REASONING, text, 0, end.start()) else text[end.end() :]


def _remove(text: str, opening: re.Pattern[str], closing: Callable[[re.Match[str]], str]) -> str:
    """Remove each part from a match of `opening` to its closing tag."""
    return _cut_out(text, opening, closing)[0]


def _cut_out(text: str, opening: re.Pattern[str], closing: Callable[[re.Match[str]], str]) -> tuple[str, list[str]]:
    """Cut each part from a match of `opening` to its closing tag out; return the rest and the parts.

    A part without closing tag reaches to the end of the text: the reply was cut off inside.
    """
    rest: list[str] = []
    parts: list[str] = []
    position = 0
    for _ in range(_MAX_HIDDEN):
        start = search_in_slices(opening, text, position, len(text))
        if start is None:
            return ("".join(rest) + text[position:] if rest else text[position:]), parts
        rest.append(text[position : start.start()])
        tag = closing(start)
        end = text.find(tag, start.end())
        parts.append(text[start.end() : end if end >= 0 else len(text)])
        if end < 0:
            break
        position = end + len(tag)
    return "".join(rest), parts


def _parse_json(document: str) -> Any:
    """Return the value of a JSON object, list or string, `None` for anything else."""
    if document[:1] not in {"{", "[", '"'}:
        return None
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return None


def _documents_in(text: str) -> list[Any]:
    return [_parse_json(part) for part in _json_documents(text)] if "{" in text or "```" in text else []


def _json_documents(text: str) -> list[str]:
    """Return what may be JSON: code blocks, and the longest spans in braces and in brackets around braces.

    Only these few are tried, so the work stays within a few times the length of the text.
    """
    parts = _JSON_FENCE.split(text, _MAX_FENCES)[1:] if "```" in text else ()
    fenced = [part.partition("```")[0].strip() for part in parts]
    if "{" not in text:
        return fenced
    start, end = text.find("{"), text.rfind("}") + 1
    list_start, list_end = text.find("[{"), text.rfind("}]") + 2
    return [*fenced, text[start:end], text[list_start:list_end] if list_start >= 0 else ""]
