"""Whether a candidate is an image that can be handed on: its one spelling, or why not."""

import re
from collections.abc import Collection

from app.extraction.base64_runs import Base64Run
from app.extraction.urls import UrlKind, classify_url, is_placeholder, normalize_url, url_fingerprint
from app.protocol.data_url import decode_base64, decode_data_url, image_data_url
from app.protocol.image_format import bytes_reader, is_complete, sniff

#: Alternative texts that are longer repeat the prompt.
_LABEL = 80
_PATH = 300

#: Something beside the result: taken only where there is nothing better.
_LESSER_WORDS = re.compile(
    r"\b(?:preview|thumb(?:nail)?s?|draft|sketch|partial|before|original|input|source|reference|uploaded|similar|logo|icon"
    r"|avatar|banner|badge|qr ?code|sponsor(?:ed)?|advert\w*|ads?)\b|预览|缩略|小图|草稿|草图|修改前|编辑前|原始|输入"
    r"|上传|参考图|类似|示例|头像|图标|广告|推广|赞助|二维码|客服",
    re.IGNORECASE,
)
_LESSER_PATH = re.compile(
    r"(?:^|[/_.-])(?:thumb(?:nail)?s?|previews?|drafts?|tmb|logo|icons?|favicon|avatars?|banners?|qr(?:code)?|ads?"
    r"|advert\w*)(?=[/_.?-]|$)",
    re.IGNORECASE,
)
#: Not the result, even where there is nothing else.
_FOREIGN_WORDS = re.compile(
    r"\b(?:for example|e\.g\.|search results?|image search|web search|courtesy of|see also|read more|learn more"
    r"|powered by|on the (?:web|internet)|from (?:the )?(?:web|internet|google|bing|unsplash|pexels|pixabay|wiki\w*))\b"
    r"|\b(?:sources?|references?|citations?)\s?[:：]|documentation|例如|比如|搜索结果|来源\s?[:：]"
    r"|出处|参考资料|参考链接|文档|教程|扫码|加群|交流群|公众号",
    re.IGNORECASE,
)
#: Says that what follows is the result, whatever the address looks like.
_RESULT_WORDS = re.compile(
    r"图|结果|下载|查看|链接|地址|完成|已生成|画|\b(?:images?|pictures?|photos?|artwork|result|output"
    r"|download|generated|here (?:is|are|you go)|here's|done|created|url|link|view|bild|imagen)\b|画像|이미지",
    re.IGNORECASE,
)
#: Words of a link or a line that lead elsewhere, where only words could make an address the result.
_ELSEWHERE_WORDS = re.compile(
    r"\b(?:see|visit|docs?|documentation|guides?|polic(?:y|ies)|terms|more|similar|search|source|reference|status|progress"
    r"|queue|task|can(?:'|’)t|cannot|unable|sorry|fail(?:ed|ure)?|error|help|support|contact|home ?page|website|notify"
    r"|details|blog|tutorial|pricing|upgrade|subscribe|conversation|share|chat)\b|官网|文档|教程|参考|来源|搜索|类似|群|政策|帮助|充值|购买|订阅|反馈"
    r"|详情|进度|排队|查询|任务|抱歉|无法|失败|错误|联系|主页|网站|协议|对话|分享",
    re.IGNORECASE,
)


#: Only the last clause speaks of the address: "from your reference, here is the picture: …".
_CLAUSE_END = re.compile(r"[。！？!?；;，,](?=.)|\.\s+(?=.)")


#: In the label alone: the line above a result often counts to 100 %.
_PROGRESS = re.compile(r"\b[0-9]{1,3}\s?%|progress|进度", re.IGNORECASE)


def is_secondary(words: str, label: str, url: str) -> bool:
    return (
        _LESSER_WORDS.search(last_clause(words)) is not None
        or _LESSER_WORDS.search(label[:_LABEL]) is not None
        or _PROGRESS.search(label[:_LABEL]) is not None
        or _LESSER_PATH.search(url.partition("?")[0][:_PATH]) is not None
    )


def is_unrelated(words: str, label: str) -> bool:
    return any(_FOREIGN_WORDS.search(text) for text in (last_clause(words), label[:_LABEL]))


def announces_result(words: str, label: str) -> bool:
    text = f"{last_clause(words)} {label[:_LABEL]}"
    return _RESULT_WORDS.search(text) is not None and _ELSEWHERE_WORDS.search(text) is None


def last_clause(words: str) -> str:
    return _CLAUSE_END.split(words.rstrip(" ，,。"))[-1]


_NO_IMAGE = {UrlKind.VIDEO, UrlKind.OTHER_FILE}


class CandidateFilter:
    """`sent`: addresses and data URLs that the client itself had sent."""

    def __init__(self, sent: Collection[str]) -> None:
        self._sent_links = {url_fingerprint(normalize_url(url) or url) for url in sent if url[:5].lower() != "data:"}
        self._sent_pictures = [url for url in sent if url[:5].lower() == "data:"]

    def check(self, value: str | Base64Run) -> tuple[str, str]:
        """The URL, or an empty one and the reason in plain words."""
        return self._check_run(value) if isinstance(value, Base64Run) else self._check_url(value)

    def _check_url(self, value: str) -> tuple[str, str]:
        url = normalize_url(value)
        if url is None:
            return "", "it is no http or https address"
        if is_placeholder(url):
            return "", "it stands where a picture belongs, but is none"
        if (look := classify_url(url)) in _NO_IMAGE:
            return "", f"it leads to {look.value}"
        if self._sent_links and url_fingerprint(url) in self._sent_links:
            return "", "the client itself had sent it"
        return url, ""

    def _check_run(self, piece: Base64Run) -> tuple[str, str]:
        try:
            data = _decode(piece)
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
        return any(url == sent or _equals(sent, data) for sent in self._sent_pictures)


def _equals(sent: str, data: bytes) -> bool:
    """Lengths are compared first: decoding is for pictures that may be the same."""
    if not 0.9 < len(sent) / (len(data) * 4 / 3 + 32) < 1.5:
        return False
    try:
        return decode_data_url(sent) == data
    except ValueError:
        return False


def _decode(piece: Base64Run) -> bytes:
    text = piece.payload.replace("\\r", "").replace("\\n", "") if "\\" in piece.payload else piece.payload
    if not piece.prefix or piece.prefix.rstrip().lower().endswith("base64,"):
        return decode_base64(text)
    raise ValueError("a data URL in another encoding")
