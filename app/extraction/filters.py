"""Decide whether a candidate is an image that can be delivered: its normalized URL, or the reason against it.

`CandidateFilter` judges a candidate by its URL or bytes. The functions judge it by its label and the words before it.
"""

import re
from collections.abc import Collection

from app.extraction.base64_runs import Base64Run
from app.extraction.urls import UrlKind, classify_url, is_placeholder, normalize_url, url_fingerprint
from app.protocol.data_url import decode_base64, decode_data_url, image_data_url
from app.protocol.image_format import bytes_reader, is_complete, sniff

#: Characters of a label that are read. Longer labels repeat the prompt.
_MAX_LABEL = 80
#: Characters of a URL that are searched for the words of its path.
_MAX_PATH = 300

#: Words of images beside the result, which are taken only if there is nothing better.
_SECONDARY_WORDS = re.compile(
    r"\b(?:preview|thumb(?:nail)?s?|draft|sketch|partial|before|original|input|source|reference|uploaded|similar|logo|icon"
    r"|avatar|banner|badge|qr ?code|sponsor(?:ed)?|advert\w*|ads?)\b|预览|缩略|小图|草稿|草图|修改前|编辑前|原始|输入"
    r"|上传|参考图|类似|示例|头像|图标|广告|推广|赞助|二维码|客服",
    re.IGNORECASE,
)
_SECONDARY_PATH = re.compile(
    r"(?:^|[/_.-])(?:thumb(?:nail)?s?|previews?|drafts?|tmb|logo|icons?|favicon|avatars?|banners?|qr(?:code)?|ads?"
    r"|advert\w*)(?=[/_.?-]|$)",
    re.IGNORECASE,
)
#: Searched in the label only: the line above a result often counts up to 100 %.
_PROGRESS = re.compile(r"\b[0-9]{1,3}\s?%|progress|进度", re.IGNORECASE)
#: Words of images that are not the result, even if there is nothing else.
_UNRELATED_WORDS = re.compile(
    r"\b(?:for example|e\.g\.|search results?|image search|web search|courtesy of|see also|read more|learn more"
    r"|powered by|on the (?:web|internet)|from (?:the )?(?:web|internet|google|bing|unsplash|pexels|pixabay|wiki\w*))\b"
    r"|\b(?:sources?|references?|citations?)\s?[:：]|documentation|例如|比如|搜索结果|来源\s?[:：]"
    r"|出处|参考资料|参考链接|文档|教程|扫码|加群|交流群|公众号",
    re.IGNORECASE,
)
#: Words that announce the result, whatever its URL looks like.
_RESULT_WORDS = re.compile(
    r"图|结果|下载|查看|链接|地址|完成|已生成|画|\b(?:images?|pictures?|photos?|artwork|result|output"
    r"|download|generated|here (?:is|are|you go)|here's|done|created|url|link|view|bild|imagen)\b|画像|이미지",
    re.IGNORECASE,
)
#: Words of links that lead elsewhere, for URLs of which only words could tell that they are the result.
_ELSEWHERE_WORDS = re.compile(
    r"\b(?:see|visit|docs?|documentation|guides?|polic(?:y|ies)|terms|more|similar|search|source|reference|status|progress"
    r"|queue|task|can(?:'|’)t|cannot|unable|sorry|fail(?:ed|ure)?|error|help|support|contact|home ?page|website|notify"
    r"|details|blog|tutorial|pricing|upgrade|subscribe|conversation|share|chat)\b|官网|文档|教程|参考|来源|搜索|类似|群|政策|帮助|充值|购买|订阅|反馈"
    r"|详情|进度|排队|查询|任务|抱歉|无法|失败|错误|联系|主页|网站|协议|对话|分享",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[。！？!?；;，,](?=.)|\.\s+(?=.)")

_NOT_IMAGES = {UrlKind.VIDEO, UrlKind.OTHER_FILE}


class CandidateFilter:
    """Accept candidates that are images and that the client did not send.

    The reasons of rejections are shown by `limner explain` and are translated on the page (`app/web/explainer.js`).
    """

    def __init__(self, sent: Collection[str]) -> None:
        """`sent`: http(s) and data URLs of the request's own images."""
        self._sent_urls = {url_fingerprint(normalize_url(url) or url) for url in sent if url[:5].lower() != "data:"}
        self._sent_data_urls = [url for url in sent if url[:5].lower() == "data:"]

    def check(self, value: str | Base64Run) -> tuple[str, str]:
        """Return the normalized URL and an empty reason, or an empty URL and the reason in plain words."""
        return self._check_run(value) if isinstance(value, Base64Run) else self._check_url(value)

    def _check_url(self, value: str) -> tuple[str, str]:
        url = normalize_url(value)
        if url is None:
            return "", "it is no http or https address"
        if is_placeholder(url):
            return "", "it stands where a picture belongs, but is none"
        if (kind := classify_url(url)) in _NOT_IMAGES:
            return "", f"it leads to {kind.value}"
        if self._sent_urls and url_fingerprint(url) in self._sent_urls:
            return "", "the client itself had sent it"
        return url, ""

    def _check_run(self, run: Base64Run) -> tuple[str, str]:
        try:
            data = _decode(run)
        except ValueError:
            return "", "it is not base64"
        info = sniff(data)
        if info is None:
            return "", "its bytes are no image"
        if not is_complete(bytes_reader(data), len(data)):
            return "", "its bytes are cut off"
        if info.width == info.height == 1:
            return "", "it is a single pixel, which stands where a picture belongs"
        url = image_data_url(data)
        return ("", "the client itself had sent it") if self._was_sent(url, data) else (url, "")

    def _was_sent(self, url: str, data: bytes) -> bool:
        return any(url == sent or _has_bytes(sent, data) for sent in self._sent_data_urls)


def is_secondary(words: str, label: str, url: str) -> bool:
    """Check for an image beside the result: a preview, the input, a logo, an advertisement."""
    return (
        _SECONDARY_WORDS.search(last_clause(words)) is not None
        or _SECONDARY_WORDS.search(label[:_MAX_LABEL]) is not None
        or _PROGRESS.search(label[:_MAX_LABEL]) is not None
        or _SECONDARY_PATH.search(url.partition("?")[0][:_MAX_PATH]) is not None
    )


def is_unrelated(words: str, label: str) -> bool:
    """Check for an image that is not the result even if there is no other: an example, a source, a search result."""
    return any(_UNRELATED_WORDS.search(text) for text in (last_clause(words), label[:_MAX_LABEL]))


def announces_result(words: str, label: str) -> bool:
    """Check whether the words say that the URL behind them is the result."""
    text = f"{last_clause(words)} {label[:_MAX_LABEL]}"
    return _RESULT_WORDS.search(text) is not None and _ELSEWHERE_WORDS.search(text) is None


def last_clause(words: str) -> str:
    """Return the clause that is about the URL behind it.

    In "from your reference, here is the picture: …" the first clause is about another image.
    """
    return _CLAUSE_END.split(words.rstrip(" ，,。"))[-1]


def _has_bytes(data_url: str, data: bytes) -> bool:
    # Only a data URL of about the right length is worth decoding.
    if not 0.9 < len(data_url) / (len(data) * 4 / 3 + 32) < 1.5:
        return False
    try:
        return decode_data_url(data_url) == data
    except ValueError:
        return False


def _decode(run: Base64Run) -> bytes:
    """Decode the payload of a run.

    Raises:
        ValueError: The run is not base64, or is a data URL in another encoding.
    """
    payload = run.payload.replace("\\r", "").replace("\\n", "") if "\\" in run.payload else run.payload
    if not run.prefix or run.prefix.rstrip().lower().endswith("base64,"):
        return decode_base64(payload)
    raise ValueError("a data URL in another encoding")
