"""Explain a reply without an image: a refusal by a safety system, or a model that only talked."""

import re
from collections.abc import Sequence

from app.errors import ApiError, ModerationBlocked, NoImageInReply, UpstreamInvalidReply
from app.extraction.own_links import ClientTexts
from app.extraction.reasons import ReplyReasons, find_reasons
from app.extraction.text import visible_text
from app.extraction.words import DECORATION_WORDS, ELSEWHERE_WORDS, INPUT_WORDS
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
    | \bnsfw\ (content|detect)
    | 违反 | 违规 | 敏感 | 内容政策 | 使用政策 | 安全(政策|策略|规范|系统|审核|准则) | 不合规 | 不适当 | 拒绝
    | ポリシー | 利用規約 | 不適切 | 著作権 | 정책 | 위배 | 위반 | 부적절 | 저작권
    | 違反 | 違規 | 內容政策 | 审核(未|不) | 審核(未|不) | 拦截 | 攔截 | 版权 | 版權
    | \bverst(öß|oß|oss)\w* | richtlinie | urheberrecht | sicherheitsfilter | unangemessen
    | \b(enfrei|contrev)\w+ | \bpol[ií]ti(ca|que)s?\ (de\ (conte|uso)|d['’]util) | (filtro|filtre)\ de\ s[eé][gc]ur
    | \binfring\w+ | inapropiad | inapropriad | inadequad | inappropri[ée] | (derechos|direitos)\ (de\ autor|autorais)
    | \bviola\ (l[aei]|gli|il|[ao]s?|nossa|nuestra|las?|los?)\b | in\ strijd\ met | inhoudsbeleid | ongepast
    | \b(bryter|strider|er\ i\ strid)\ (mot|med) | innehållspolicy | retningslinje | sisältökäytän | \bporušuje | \bkrši
    | irányelv | \b[îi]ncalcă | παραβιάζει | نقض | מדיניות\ התוכן
    | \bnarusza | \bнаруша | \bпорушу | недопустим | неприемлем | авторск\w+\ прав
    | (систем|фильтр)\w*\ безопасности | \bihlal | uygunsuz | güvenlik\ filtre | vi\ phạm | \bmelanggar
    | (تنتهك|ينتهك|انتهاك) | مرشح\ الأمان | غير\ لائق | उल्लंघन | अनुचित | ละเมิด | ไม่เหมาะสม
    """,
    re.VERBOSE | re.IGNORECASE,
)

#: Names of rules among these words.
_RULE = re.compile(
    r"copyright|urheberrecht|авторск|derechos|direitos|版[权權]|著作権|저작권|polic|polít|politi|guideline|standard"
    r"|richtlinie|retningslinje|irányelv|sisältökäytän|inhoudsbeleid|מדיניות|政策|ポリシー|利用規約|정책",
    re.IGNORECASE,
)

#: In front of these words: a rule for the use of the image, or that the image has nothing of the kind. What may not be
#: asked for is a refusal: "Do not ask for inappropriate images".
_NOTICE = re.compile(
    r"(?:(?:请勿|切勿|严禁|禁止|不得|不要|避免)[^,，;；.!?。！？\n]{0,6}(?:用于|用作|使用)"
    r"|\b(?:do not|don['’]t|never|must not be|may not be|not to be) used?\b"
    r"|\b(?:it|image|picture|logo) (?:does not|doesn['’]t) (?:contain|include|show|depict)\b"
    r"|\b(?:nothing|free (?:of|from)|(?:has|contains?|shows?) no)\b)"
    r"[^,，;；.!?。！？\n]{0,30}$"
    r"|\b(?:does not|doesn['’]t) $",
    re.IGNORECASE,
)
_MAX_NOTICE = 60

#: Hosts that belong to nobody: RFC 2606.
_RESERVED_HOST = re.compile(
    r"https?://(?:[^/?#@]*[.])?(?:example\.(?:com|net|org)|example|invalid|test)(?::[0-9]*)?(?:[/?#]|$)", re.IGNORECASE
)
#: Characters of the model's words, and of one reason, that an error message quotes.
_MAX_QUOTED, _MAX_REASON = 300, 160
#: Characters that are searched for a refusal, which comes at the start.
_MAX_SEARCHED = 4_000


def is_refusal(reply: ChatReply) -> bool:
    """Return whether a safety system stopped the reply, or the model declines in words that are known."""
    if reply.refusal or any(reason.is_refusal for reason in find_reasons(reply).reasons):
        return True
    return _REFUSAL.search(visible_text(reply)[:_MAX_SEARCHED]) is not None


def declines(reply: ChatReply, client: ClientTexts) -> bool:
    """Check for a refusal in words that are not the prompt's, which asks for no image that is commonly a decoration.

    The names of rules are not enough: "Mind the copyright" may stand below a result, and so may "Do not use it for
    inappropriate purposes".
    """
    if client.contains(DECORATION_WORDS) or client.contains(INPUT_WORDS):
        return False
    if reply.refusal or any(reason.is_refusal for reason in find_reasons(reply).reasons):
        return True
    text = visible_text(reply)[:_MAX_SEARCHED]
    found = {match[0] for match in _REFUSAL.finditer(text) if not (_RULE.search(match[0]) or _is_notice(text, match))}
    return any(not client.contains(re.compile(re.escape(words), re.IGNORECASE)) for words in found)


def _is_notice(text: str, match: re.Match[str]) -> bool:
    return _NOTICE.search(text[max(0, match.start() - _MAX_NOTICE) : match.start()]) is not None


def shows_samples(reply: ChatReply, urls: Sequence[str]) -> bool:
    """Check for a reply that declines, and whose images are addresses for documentation, as RFC 2606 reserves them.

    Ask this only about images that cannot be had: a test may well serve images under such a name.
    """
    if not urls or not all(map(_RESERVED_HOST.match, urls)):
        return False
    return is_refusal(reply) or ELSEWHERE_WORDS.search(visible_text(reply)[:_MAX_SEARCHED]) is not None


def no_image_error(reply: ChatReply | None) -> ApiError:
    """Return the error for a reply without an image; `reply` is `None` if nothing was received.

    It names the reasons that the upstream gives beside its words, and quotes the model's words, in whatever language,
    without keys and inner addresses. A reply without an image is a 400 on purpose: clients retry a 5xx by themselves,
    and each time costs money.
    """
    if reply is None:
        return UpstreamInvalidReply("The upstream ended its answer without saying anything.")
    found = find_reasons(reply)
    why = _named(found, reply)
    words = _words_of(reply, found)
    raw = redact_keys(reply.raw, reply.secrets)
    if is_refusal(reply):
        suffix = f" It said: {words}" if words else ""
        details = next((reason.details for reason in found.reasons if reason.details), None)
        extra = {"moderation_details": details} if details else None
        message = f"Your request was rejected by the safety system of the upstream{why}.{suffix}"
        return ModerationBlocked(message, extra=extra, detail=raw)
    suffix = f"It said: {words}" if words else "It said nothing."
    if found.task is not None:
        suffix = f"It has begun a task, which this server does not wait for. {suffix}"
    return NoImageInReply(f"The upstream's reply contains no image{why}. {suffix}", detail=raw)


def _named(found: ReplyReasons, reply: ChatReply) -> str:
    """Return the reasons in brackets, cleaned: they are the upstream's own text."""
    named = [f"{reason.name} {reason.value}" for reason in found.reasons if not reason.is_sentence]
    if found.task is not None:
        named.append(f"task {found.task}")
    shown = [truncate(redact_secrets(text[:_MAX_SEARCHED], reply.secrets), _MAX_REASON) for text in named]
    return f" ({', '.join(shown)})" if shown else ""


def _words_of(reply: ChatReply, found: ReplyReasons) -> str:
    """Return what the model, or else the upstream, says for people."""
    sentences = [reason.value for reason in found.reasons if reason.is_sentence]
    text = visible_text(reply) or reply.refusal or " ".join(sentences)
    # Longer texts would keep others waiting.
    return truncate(redact_secrets(" ".join(text[:_MAX_SEARCHED].split()), reply.secrets), _MAX_QUOTED)
