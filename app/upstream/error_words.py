"""Words in upstreams' errors that are evidence of one cause.

No word has a costly default: a complaint in unknown words is shown to the client whose request it is about, moves no
upstream and invites no repeat. Words are searched without what the client wrote.
"""

import re


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


#: The upstream's account: no balance, or closed.
CREDIT = _any_of(
    r"insufficient[_ ](?:\w{1,12}[_ ])?(?:quota|balance|credit|fund)",
    *(
        r"billing[_ ]hard[_ ]limit",
        r"billing[_ ]?(?:not[_ ]active|(?:is )?disabled|not enabled)",
        r"account (?:is )?(?:not (?:yet )?active|inactive)",
        r"spend_limit_exceeded",
    ),
    *(r"credit[_ ]balance", r"\b(?:no|not|any|enough|out of|more|all|available|remaining)\b[^.!?]{0,20}\bcredits?\b"),
    *(r"credits?\b[^.!?]{0,20}(?:exhausted|depleted|used up)", r"exhausted[_ ](?:balance|credit)", r"can only afford"),
    *(
        r"balance\b[^.!?]{0,30}(?:insufficient|not enough|too low|exhausted|negative)",
        r"\barrear",
        r"\boverdue",
        "overdueerror",
    ),
    *(r"payment (?:is )?required", r"\bunpaid\b", r"key limit exceeded", r"quota (?:is )?(?:exhausted|not enough)"),
    *(r"\bfree[_ ]?(?:tier|trial|quota)\b[^.!?]{0,40}(?:exhausted|used up|expired|ended)", r"freetieronly"),
    *(r"pre_consume_token_quota", r"good standing", r"欠费", r"余额", r"额度(?:不足|已用尽)", r"充值"),
)
#: Words of a used-up account that vendors also write where only a minute's limit is reached.
QUOTA = _any_of(r"exceeded your current quota", r"quota[_ ]exceeded", r"exceeded[^.!?]{0,30}\bquota\b")
#: Words that name the window of a limit.
PER_WINDOW = _any_of(r"per[_ -]?(?:second|minute|hour)\b", r"per(?:second|minute|hour)per", r"\b[rt]p[ms]\b", r"/min\b")

#: Hard words about a model mean the same under every status.
MODEL_CODE = _any_of(
    "model_not_found", "no available channel", "无可用渠道", "deploymentnotfound", "invalidendpointormodel"
)
MODEL = _any_of(
    r"(?:model|endpoint|deployment|模型)\b[^.!?\n]{0,100}"
    r"(?:does(?: not|n't) exist|not exist|not found|no longer|deprecated|retired|not available|not enabled)",
    *(r"do(?:es)? not have access to (?:the )?model", r"no endpoints? found", r"not a valid model"),
    *(r"\b(?:unknown|invalid|unsupported|no such) model\b", r"model\s\S{1,80}\s(?:is )?not supported", r"modelnotopen"),
    *(
        r"must be verified",
        r"not a chat model",
        r"does not work with the specified model",
        r"unable to access [^.!?]{0,20}model",
    ),
    r"model\b[^.!?\n]{0,80}(?:only|not) supported (?:in|on|with|by|for) [^.!?]{0,30}(?:endpoint|chat|\bapi\b)",
    r"无权(?:访问|使用).{0,6}模型",
    *(r"publisher model", r"模型(?:不存在|未开通|不支持)", r"不(?:存在|支持)的?.{0,10}模型", r"data policy"),
)
#: Of a 404 or 405: an API has answered, but there is no chat at this path.
WRONG_PATH = _any_of(
    *(r"invalid url", r"cannot post", r"(?:page|route|path|url)\b.{0,40}not found", r"no (?:such )?route"),
    *(r"^not found$", r"not found /", r"method not allowed"),
)

#: Vendors close accounts for what their users asked, in the words of a refusal.
CLOSED_ACCOUNT = _any_of(r"account\b[^.!?]{0,40}\b(?:suspended|deactivated|disabled|banned|terminated)")
#: Words about a key, a token or an account. Where "api key" alone is enough is said in the rules.
KEY = _any_of(
    CLOSED_ACCOUNT.pattern,
    *(
        r"invalid_?(?:api_?)?key",
        r"api_key_invalid",
        r"\b(?:x-)?api[ _-]?key (?:is |was |has )?(?:\w{1,12} )?(?:not valid|invalid)",
    ),
    r"\b(?:x-)?api[ _-]?key (?:is |was |has been |has )?"
    r"(?:incorrect|missing|required|expired|disabled|not found|reported|leaked|revoked|suspended)",
    r"\b(?:incorrect|invalid|missing|wrong|expired|unknown|no|valid) (?:x-)?api[ _-]?key",
    *(r"authentication[_ ]?(?:error|failed|failure|required|fails)", r"\bunauthenticated\b", r"not authenticated"),
    r"\blog-?in fail",
    r"\b(?:carry|provide|include|supply|pass) (?:(?:the|an?|your|valid|correct) ){0,2}(?:api )?(?:secret )?key\b",
    r"\b(?:missing|invalid|no|bad) (?:auth|authentication|authorization|credential)",
    *(
        r"\binvalid (?:access |auth |bearer )?token\b(?! (?:at|near|in|count))",
        r"\btoken (?:is |has )?(?:expired|revoked)",
    ),
    *(r"令牌(?:无效|已|状态)", r"无效的令牌", r"身份验证", r"鉴权", r"认证失败", r"密钥", r"封禁"),
)
API_KEY = _any_of(
    *(r"\bapi[ _-]?keys?\b", r"\bcredentials?\b", r"\b(?:this|your) (?:key|token)\b", r"\bsecurity token\b", "令牌"),
    r"\bip\b[^.!?]{0,40}\b(?:allow|white)[ -]?list",
)
#: Where this server stands: vendors serve some countries only.
REGION = _any_of(
    *("unsupported_country", r"\bcountry\b[^.!?]{0,60}not (?:supported|available|allowed|served)"),
    r"\buser location\b[^.!?]{0,40}not (?:supported|available|allowed|served)",
    r"not (?:supported|available|allowed|offered) in your (?:country|region|location)",
    r"所在的?(?:国家|地区)",
)

#: What the client asked for: a size, an image, the length of the prompt.
CLIENTS_VALUE = _any_of(
    *("invalid[_ ]size", "invalid value:", "invalid type for", "unsupported value", "invalid_value", "invalid_image"),
    *("context_length_exceeded", "maximum context length", "prompt is too long", "string_above_max_length"),
    "unknown parameter",
)
CLIENTS_INPUT = _any_of(
    *(
        r"context[_ ]length",
        r"too (?:long|large|big|small|many)",
        r"\bprompt\b",
        r"base64",
        r"\bpixels?\b",
        r"\bdimension",
    ),
    *(
        r"image[_ ](?:url|format|size|type|data|file)",
        r"(?:input|invalid|unsupported|corrupt\w*|your) (?:image|picture)",
    ),
    r"(?:could not|cannot|unable to|failed to|error while) (?:download|fetch|decode|process|load|read|open|parse)",
)

#: Types and codes of a complaint, whatever its status.
COMPLAINT = _any_of("invalid_request_error", r"\bbad[_ ]?request", "invalid_?argument", "invalid_?parameter")

RATE = _any_of(
    *(
        "rate_limit_exceeded",
        "rate_limit_error",
        "rate limit reached",
        r"rate[ -]limit(?:ed| exceeded)",
        r"^rate[ _-]?limit\b",
        "too many requests",
    ),
    *(
        r"\bthrottl",
        r"concurren\w{1,8}\b[^.!?]{0,30}(?:limit|exceed)",
        "请求过于频繁",
        "请求频率",
        "请求(?:过|太)多",
        "リクエストが多すぎ",
        r"요청이 (?:너무 )?많",
        "限流",
        "并发(?:数)?(?:超|限)",
    ),
)
OVERLOAD = _any_of(
    "server_is_overloaded",
    "overloaded_error",
    "slow_down",
    r"\boverloaded\b",
    "负载已饱和",
    "at capacity",
    "(?:系统|服务器?|模型)繁忙",
)

#: What stands before an API and shuts this server out: Cloudflare's challenges and bans, other firewalls.
FIREWALL = _any_of(
    r"error code: 1[0-9]{3}\b", r"just a moment", r"\bcf-ray\b", r"attention required", r"\bfirewall\b", r"\bwaf\b"
)

#: An output that the model does not have, where another list of modalities may fit.
MODALITIES = _any_of(r"(?:requested|output|response)[^.!?]{0,40} modalit")
