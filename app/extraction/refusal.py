"""Explain a reply without an image: a refusal by a safety system, or a model that only talked."""

import re

from app.errors import ApiError, ModerationBlocked, NoImageInReply, UpstreamInvalidReply
from app.extraction.text import visible_text
from app.protocol.chat_reply import ChatReply
from app.protocol.redaction import redact_keys, redact_secrets
from app.protocol.validation_errors import truncate

#: Words of the safety systems of several vendors. None of them occurs in an apology for a busy queue.
_REFUSAL = re.compile(
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
_REFUSAL_REASONS = {"content_filter", "safety", "SAFETY", "IMAGE_SAFETY", "refusal"}

#: Characters of the model's words that an error message quotes.
_MAX_QUOTED = 300
#: Characters that are searched for a refusal, which comes at the start.
_MAX_SEARCHED = 4_000


def is_refusal(reply: ChatReply) -> bool:
    if reply.refusal or reply.finish_reason in _REFUSAL_REASONS:
        return True
    return _REFUSAL.search(visible_text(reply)[:_MAX_SEARCHED]) is not None


def no_image_error(reply: ChatReply | None) -> ApiError:
    """Return the error for a reply without an image; `reply` is `None` if nothing was received.

    The model's words are quoted without keys and inner addresses. A reply without an image is a 400 on purpose: clients
    retry a 5xx by themselves, and each time costs money.
    """
    if reply is None:
        return UpstreamInvalidReply("The upstream ended its answer without saying anything.")
    words = redact_secrets(" ".join(visible_text(reply)[:_MAX_SEARCHED].split()), reply.secrets)
    raw = redact_keys(reply.raw, reply.secrets)
    quoted = truncate(words, _MAX_QUOTED)
    if is_refusal(reply):
        suffix = f" It said: {quoted}" if words else ""
        return ModerationBlocked(f"Your request was rejected by the safety system of the upstream.{suffix}", detail=raw)
    suffix = f"It said: {quoted}" if words else "It said nothing."
    return NoImageInReply(f"The upstream's reply contains no image. {suffix}", detail=raw)
