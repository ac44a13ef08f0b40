"""Words in upstreams' errors that are evidence of one cause.

No word has a costly default: a complaint in unknown words is shown to the client whose request it is about, moves no
upstream and invites no repeat. Words are searched without what the client wrote.
"""

import re


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


def _near(first: str, second: str) -> str:
    """Return a pattern for two patterns in one sentence, in either order: vendors put such words together freely."""
    gap = r"[^.!?。！？\n]{0,30}?"
    return f"(?:{first}){gap}(?:{second})|(?:{second}){gap}(?:{first})"


#: What an account is counted in, and that nothing of it is left.
_MEANS = (
    r"\b(?:credits?|balance|funds|points|coins|saldo|fondos|cr[ée]ditos?|solde|cr[ée]dits|guthaben|credito|tegoed)\b"
    r"|余额|餘額|额度|額度|积分|積分|点数|點數|资源包|クレジット|残高|ポイント|잔액|크레딧|포인트"
    r"|\bбаланс|\bсредств|\bкредит|\bkredit|\bbakiye|số dư"
)
_SHORTAGE = (
    r"\b(?:insufficient|not enough|run out|used up|exhausted|depleted)\b|\binsuficiente|\binsuffisant|\binsufficiente"
    r"|\bonvoldoende|\b(?:nicht genügend|nicht genug|unzureichend|aufgebraucht)|不足|不够|不夠|用完|用尽|用盡|耗尽|耗盡"
    r"|부족|소진|недостаточно|закончил|исчерпан|tidak cukup|\bhabis\b|yetersiz|không đủ"
)
#: What a limit may count that another time will not exceed: not the size of a request.
_COUNTED = (
    r"\b(?:requests?|api|calls?|jobs?|tasks?|generations?|quota|qps|[rt]p[msd]|rate|daily|hourly|usage|concurren\w{1,8})\b"
    r"(?: (?:rate|request|usage|image|generation|job|task|count|use)){0,2}"
)

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
    *(r"pre_consume_token_quota", r"good standing", r"欠费", r"余额", r"充值", _near(_MEANS, _SHORTAGE)),
    *(r"billing account", r"payment method", r"\bcredit limit\b", r"\b(?:paid|higher|premium) (?:plan|tier)\b"),
    r"\b(?:your|current|subscription) plan does(?: not|n't) include\b",
    *(r"\b(?:over|exceeded) (?:the |its )?budget\b", r"\bbudget[_ ](?:has been |is )?exceeded"),
    *(r"\bspend(?:ing)? (?:limit|cap) (?:is |has been )?(?:reached|exceeded)", r"\bno (?:\w{1,12} )?quota\b"),
    *(
        r"\b(?:credits?|subscription|trial)\b[^.!?]{0,20}\bexpired",
        r"\b(?:no (?:active )?|requires? an? )subscription\b",
    ),
    *(r"(?:套餐|订阅)\S{0,6}(?:过期|到期)", r"升级\S{0,4}套餐"),
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
    *(
        r"(?:do(?:es)? not have|has no|no|not allowed to) access (?:to )?(?:the )?model",
        r"no endpoints? found",
        r"not a valid model",
    ),
    *(r"\b(?:unknown|invalid|unsupported|no such) model\b", r"model\s\S{1,80}\s(?:is )?not supported", r"modelnotopen"),
    *(
        r"must be verified",
        r"not a chat model",
        r"does not work with the specified model",
        r"unable to access [^.!?]{0,20}model",
    ),
    r"model\b[^.!?\n]{0,80}(?:only|not) supported (?:in|on|with|by|for) [^.!?]{0,30}(?:endpoint|chat|\bapi\b)",
    r"无权(?:访问|使用).{0,6}模型",
    *(r"\bmodel[_ ](?:is )?(?:not[_ ]supported|disabled|offline)\b", r"only supports? the \w{1,20} api\b"),
    *(
        r"not a (?:valid )?chat(?:[_ ]completions?)? model",
        r"模型[^。！？\n]{0,40}(?:下线|下架|弃用|停用|禁用)",
        r"未开通.{0,6}模型",
    ),
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
    *(
        r"令牌(?:无效|已|状态)",
        r"(?:token|key)\s?(?:无效|已过期|已?失效|错误|不存在)",
        r"无效的令牌",
        r"身份验证",
        r"鉴权",
        r"认证失败",
        r"密钥",
        r"封禁",
    ),
    *(
        r"\bauthfailure\b",
        r"signature\w{0,4}\s?(?:failure|mismatch|donotmatch|does not match|is invalid)",
        r"签名(?:错误|不匹配|无效)",
    ),
    r"unregistered callers",
)
API_KEY = _any_of(
    *(r"\bapi[ _-]?keys?\b", r"\bcredentials?\b", r"\b(?:this|your) (?:key|token)\b", r"\bsecurity token\b", "令牌"),
    r"\bip\b[^!?\n]{0,60}\b(?:allow|white)[ -]?list",
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
        r"rate[ _-]?limit(?:ed|[ _-]?exceeded)",
        r"^rate[ _-]?limit\b",
        "too many requests",
    ),
    *(
        r"\bthrottl",
        r"concurren\w{1,8}\b[^.!?]{0,30}(?:limit|exceed)",
        r"request_?limit_?exceed",
    ),
    rf"(?:{_COUNTED}) (?:limit|exhausted)\b(?![^.!?]{{0,25}}\b(?:bytes?|[kmg]i?b|characters?|tokens|pixels?)\b)",
    r"\blimit\b[^.!?]{0,40}\bper (?:second|minute|hour|day)\b",
    r"too many (?:\w{1,12} ){0,2}(?:requests|tasks|jobs|calls|generations)",
    r"\brequests?\b[^.!?]{0,20}\btoo (?:frequent|quick|fast|often)",
    *(r"number of requests\b[^.!?]{0,20}exceed", r"\blimit of requests\b", r"\bparallel requests\b"),
    *(r"maximum (?:number of )?concurren", r"\bqueue (?:is |has been )?full\b"),
    *("(?:请求|调用|访问|操作)(?:次数|频率)?(?:过于|太|过)(?:频繁|多|快)", "请求频率", "频率限制", "限流", "队列已?满"),
    *(r"并发\S{0,6}(?:超|限)", "排队(?:人数)?(?:过|太)多"),
    r"(?:任务|请求|调用)(?:数量?|次数|频率)\S{0,6}(?:上限|限额|限制)",
    r"(?:每日|每天|每分钟|并发|频率)\S{0,6}(?:上限|限额|限制)",
    *("リクエストが多すぎ", r"リクエスト\S{0,4}制限", r"요청이 (?:너무 )?많", r"요청 (?:한도|제한)"),
    *("слишком много запросов", "demasiadas (?:solicitudes|peticiones)", "trop de requêtes", "zu viele anfragen"),
    *("muitas (?:solicitações|requisições)", "troppe richieste", "te veel (?:verzoeken|aanvragen)"),
    *("quá nhiều yêu cầu", "terlalu banyak permintaan", "çok fazla istek"),
)
OVERLOAD = _any_of(
    "server_is_overloaded",
    "overloaded_error",
    "slow_down",
    r"\boverloaded\b",
    "负载(?:已饱和|较高|过高)",
    "at capacity",
    r"\b(?:servers?|service|system|engine|model|gpus?|workers?) (?:is|are) (?:\w{1,12} )?busy\b",
    r"\bno (?:available |free )(?:gpu|worker|account|instance)",
    r"(?:系统|服务器?|模型)\S{0,2}(?:繁忙|拥挤)",
    *("混雑", "혼잡"),
)

#: Of a server that understands only TLS, where `http://` was written in place of `https://`.
TLS_EXPECTED = _any_of(
    *(r"plain http request was sent to https", r"http request to an https server", r"plain http to an ssl-enabled"),
    r"host and port requires tls",
)

#: What stands before an API and shuts this server out: Cloudflare's challenges and bans, other firewalls.
FIREWALL = _any_of(
    r"error code: 1[0-9]{3}\b", r"just a moment", r"\bcf-ray\b", r"attention required", r"\bfirewall\b", r"\bwaf\b"
)

#: An output that the model does not have, where another list of modalities may fit.
MODALITIES = _any_of(r"(?:requested|output|response)[^.!?]{0,40} modalit")
