"""What a reply without an image means: a refusal by a safety system, or a model that only chatted."""

import re

from app.errors import ApiError, ModerationBlocked, NoImageInReply, UpstreamInvalidReply
from app.extraction.text import visible_text
from app.protocol.chat_reply import ChatReply
from app.protocol.redaction import redact_keys, redact_secrets
from app.protocol.validation_errors import truncate

#: Words of safety systems, as upstreams of several houses put them. None of them is in an apology for a busy queue.
_WORDS = re.compile(
    r"""
      (content|usage|safety|community)[ -]?(polic|guideline|standard|filter|system)
    | \bviolat(e|es|ed|ing|ion)
    | \bmoderation | \bprohibited\b | \binappropriate\b | \bsexual | \bcopyright | \bnot\ allowed\ to\ (generate|create)
    | \b(can(no|'|’)?t|unable\ to|won(t|'t|’t)|not\ able\ to)\ (help|assist|comply|fulfil|create\ that|generate\ that)
    | 违反 | 违规 | 敏感 | 内容政策 | 使用政策 | 安全(政策|策略|规范|系统|审核|准则) | 不合规 | 不适当 | 拒绝
    | ポリシー | 利用規約 | 정책
    """,
    re.VERBOSE | re.IGNORECASE,
)

#: Characters of the model's words that an error repeats.
_QUOTED = 300

#: As far as a refusal is looked for: it comes at the start.
_LOOKED_AT = 4_000


def is_refusal(reply: ChatReply) -> bool:
    if reply.refusal or reply.finish_reason in {"content_filter", "safety", "SAFETY", "IMAGE_SAFETY", "refusal"}:
        return True
    return _WORDS.search(visible_text(reply)[:_LOOKED_AT]) is not None


def no_image_error(reply: ChatReply | None) -> ApiError:
    """A 4xx on purpose: clients repeat a 5xx by themselves, and each time costs money."""
    if reply is None:
        return UpstreamInvalidReply("The upstream ended its answer without saying anything.")
    words = redact_secrets(" ".join(visible_text(reply)[:_LOOKED_AT].split()), reply.secrets)
    raw = redact_keys(reply.raw, reply.secrets)
    if is_refusal(reply):
        said = f" It said: {truncate(words, _QUOTED)}" if words else ""
        return ModerationBlocked(f"Your request was rejected by the safety system of the upstream.{said}", detail=raw)
    said = f"It said: {truncate(words, _QUOTED)}" if words else "It said nothing."
    return NoImageInReply(f"The upstream's reply contains no image. {said}", detail=raw)
