"""Recognize the safety systems of upstreams by their words and codes.

A missing word costs nothing: an error that is not recognized is still shown as a complaint about the request, in the
upstream's words. It only lacks the code `moderation_blocked`.
"""

import re
from collections.abc import Mapping
from typing import Any

#: Words and codes of OpenAI, Azure, OpenRouter, Gemini, DashScope, Ark, Zhipu, MiniMax, Tencent, xAI, Stability, Black
#: Forest Labs, fal, Replicate, Bedrock and relays, and what safety systems say in other languages.
MODERATION = re.compile(
    r"""
      (?<!['"`]) \b (?:content_)? moderat(?:ed|ion) (?!['"`]|[ ](?:service|endpoint|api|model|server))
    | moderation_blocked
    | content[ _-]?(?:polic|filter|guideline|safety|restriction|violation) | responsible[ _]?ai
    | safety[ _-]?(?:system|polic|filter|guideline|check|violation|setting|reason|block)
    | unsafe[ _](?:content|image|prompt|input|output|element|generation) | \b(?:is|are|as)[ ]unsafe\b
    | \bSAFETY\b | IMAGE_SAFETY
    | violat\w{0,6} [^.!?]{0,80}
      (?:polic|guideline|standard|safety|content|usage|terms|\btos\b|\brules?\b|\blaws?\b|copyright)
    | against [ ] (?:our|the|its) [ ] (?:\w{1,12} [ ])? (?:polic|guideline|rules?\b|terms)
    | words? [^.!?]{0,20} not[ ](?:allowed|permitted)
    | (?:usage|community|acceptable[ ]use) [ _-] (?:polic|guideline|standard)
    | prohibited[ _](?:content|by(?![ ]organization's[ ]policy)|prompt|input|word|use) | data_?inspection_?failed
    | inappropriate | \bnsfw\b | \bsexual | \bporn
    | nudity | (?:explicit|adult)[ ]content | harmful | offensive[ ]content | self-harm | hate[ ]speech
    | sensitive[ _]?(?:words?|content|info\w*|topic|material|prompt) | new_sensitive | \b(?:is|as)[ ]sensitive
    | illegal_?detected | \bflagged\b | banned[ _](?:prompt|word) | blocked[ _]word | forbidden[ _]word | \bblocklist\b
    | disallowed[ ](?:content|prompt|word) | illegal[ ]content(?!-|[ ](?:type|length|encoding))
    | (?:prompt|text|image|picture|input|output|content) [^.!?]{0,30} \bnot[ ]compliant
      (?![^.!?]{0,40}\b(?:schema|format|spec)) | public[ ]figures
    | content[ _]audit | audit_?(?:submit_?)?illegal | audit[ _](?:fail|reject|block|not)
    | (?:did|does|has)[ ]not[ ]pass [^.!?]{0,20} (?:audit|review|check)
    | (?<![a-z])content [^.!?]{0,20} (?:not[ ](?:allowed|permitted)|disallowed|illegal|blocked)
    | (?:prompt|image|input|output|response) [^.!?]{0,30} \b(?:blocked|censored)\b
    | copyright | infring | recitation | \bSPII\b | risk[ _]?(?:control|detect|not[ ]pass) | guardrail
    | rejected [^.!?]{0,60} (?:safety|polic|rules?\b|filter|content)
    | 敏感 | 违规 | 違規 | 违反 | 違反 | 违禁 | 不合规 | 不当(?:内容|信息) | 不适当 | 色情 | 涉黄 | 涉政
    | 内容(?:审核|安全|政策) | 不符合[^。！？]{0,12}(?:安全|规范|政策|规定|准则)
    | 合规问题 | 未通过\S{0,4}审核 | 审核(?:未|不|失败|拒绝) | 安全(?:审核|系统|策略) | 触发了?安全 | 涉嫌
    | 违法 | 不良(?:信息|内容) | 被拦截 | 禁止生成 | 涉及版权 | 风控 | 侵权 | 使用政策 | 拒绝生成
    | ポリシー | 不適切 | センシティブ | 利用規約 | 정책 | 부적절 | 유해
    | inapropiad | inapropriad | inadequad | pol[ií]ticas?[ ]de | politiques?[ ]d | inappropri[ée]
    | richtlinie | unangemessen
    | неприемлем | запрещ | нарушает | нарушение[ ]правил | (?:контент|запрос|изображение)[ ]заблокирован
    | \benfrei\w+ | contrevien | verst(?:ö|oe)(?:ß|ss)t | \bmelanggar | vi[ ]phạm | \bihlal | [يت]نتهك | انتهاك
    """,
    re.VERBOSE | re.IGNORECASE,
)

_STAGES = ("input", "output", "unknown")
_CATEGORY = re.compile(r"[A-Za-z0-9_/ -]{1,64}")
_MAX_CATEGORIES = 32


def read_moderation_details(error: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the two documented fields of an error's `moderation_details`, `None` unless both are as documented."""
    details = error.get("moderation_details")
    if not isinstance(details, dict):
        return None
    stage, categories = details.get("moderation_stage"), details.get("categories")
    if stage not in _STAGES or not isinstance(categories, list) or len(categories) > _MAX_CATEGORIES:
        return None
    if not all(isinstance(category, str) and _CATEGORY.fullmatch(category) for category in categories):
        return None
    return {"moderation_stage": stage, "categories": categories}
