"""What the words around an address say about it: the result, a smaller copy, or something else altogether."""

import re

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


def is_lesser(words: str, label: str, url: str) -> bool:
    return (
        _LESSER_WORDS.search(last_clause(words)) is not None
        or _LESSER_WORDS.search(label[:_LABEL]) is not None
        or _PROGRESS.search(label[:_LABEL]) is not None
        or _LESSER_PATH.search(url.partition("?")[0][:_PATH]) is not None
    )


def is_foreign(words: str, label: str) -> bool:
    return any(_FOREIGN_WORDS.search(text) for text in (last_clause(words), label[:_LABEL]))


def names_result(words: str, label: str) -> bool:
    text = f"{last_clause(words)} {label[:_LABEL]}"
    return _RESULT_WORDS.search(text) is not None and _ELSEWHERE_WORDS.search(text) is None


def last_clause(words: str) -> str:
    return _CLAUSE_END.split(words.rstrip(" ，,。"))[-1]
