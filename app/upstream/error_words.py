"""Words in upstreams' errors that are evidence of one cause: one table for each cause.

A word belongs to the table of what it says; which statuses it counts under, the rules of `error_mapping.py` say. The
tables stand in the order of these rules:

- before the API: `TLS_EXPECTED`, `FIREWALL`, `REGION`
- the account: `CLOSED_ACCOUNT`, `CREDIT`, `QUOTA`, `OFFER`, `WINDOW`
- the model: `MODEL_CODE`, `MODEL`
- what the client sent: `CLIENTS_VALUE`, `CLIENTS_INPUT`, `UNREACHABLE_IMAGE`, `COMPLAINT`
- the key: `KEY`, `KEY_IN_403`
- too much at once: `RATE`, `OVERLOAD`
- the request of this server: `WRONG_PATH`, `MODALITIES`

Words of safety systems are in `protocol/moderation.py`, fields of the request in `request_fields.py`, times to wait in
`wait_windows.py`. Within a table, English comes first, then Chinese, then other languages.

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


# Before the API.

#: A server that understands only TLS, where `http://` was written in place of `https://`.
TLS_EXPECTED = _any_of(
    r"plain http request was sent to https",
    r"http request to an https server",
    r"plain http to an ssl-enabled",
    r"host and port requires tls",
)

#: What stands before an API and shuts this server out: Cloudflare's challenges and bans, other firewalls.
FIREWALL = _any_of(
    r"error code: 1[0-9]{3}\b",
    r"just a moment",
    r"\bcf-ray\b",
    r"attention required",
    r"\bfirewall\b",
    r"\bwaf\b",
    r"\bcf_clearance\b",
    r"access denied by (?:\w{1,12} )?security policy",
)

#: Where this server stands: vendors serve some countries only.
REGION = _any_of(
    r"unsupported_country",
    r"\bcountry\b[^.!?]{0,60}not (?:supported|available|allowed|served)",
    r"\buser location\b[^.!?]{0,40}not (?:supported|available|allowed|served)",
    r"not (?:supported|available|allowed|offered) in your (?:country|region|location)",
    r"所在的?(?:国家|地区)",
)


# The account.

_CLOSED = r"(?:suspended|deactivated|disabled|banned|terminated)"
#: Vendors close accounts for what their users asked, in the words of a refusal.
CLOSED_ACCOUNT = _any_of(
    rf"account\b[^.!?]{{0,40}}\b{_CLOSED}",
    rf"\b(?:user|organi[sz]ation|project|access|resource) (?:has been|was|is) (?:\w{{1,12}}ly )?"
    rf"(?:{_CLOSED}|blocked|restricted|denied access)\b",
    rf"\b(?:user|organi[sz]ation|project)[_ ]?{_CLOSED}\b(?! (?:words?|terms?|phrases?|content)\b)",
    r"(?:账号|账户|帐号|帐户|帳號|帳戶|用户|用戶|组织|组織|項目|项目)\S{0,4}"
    r"(?:禁用|停用|封禁|锁定|鎖定|冻结|凍結|注销|註銷)",
)

#: What an account is counted in, and that nothing of it is left.
_MEANS = (
    r"\b(?:credits?|balance|funds|points|coins|api tokens)\b"
    r"|余额|餘額|额度|額度|积分|積分|点数|點數|资源包|流量包|套餐|算力值"
    r"|クレジット|残高|ポイント|잔액|크레딧|포인트"
    r"|\b(?:saldo|fondos|cr[ée]ditos?|solde|cr[ée]dits|guthaben|credito|tegoed)\b"
    r"|\bбаланс|\bсредств|\bкредит|\bkredit|\bbakiye|số dư"
)
_SHORTAGE = (
    r"\b(?:insufficient|not enough|run out|used up|exhausted|depleted)\b"
    r"|不足|不够|不夠|用完|用尽|用盡|耗尽|耗盡|ありません|부족|소진"
    r"|\binsuficiente|\binsuffisant|\binsufficiente|\bonvoldoende"
    r"|\b(?:nicht genügend|nicht genug|unzureichend|aufgebraucht)"
    r"|недостаточно|закончил|исчерпан|tidak cukup|\bhabis\b|yetersiz|không đủ"
)
#: Nothing is left, or nothing was paid for.
CREDIT = _any_of(
    _near(_MEANS, _SHORTAGE),
    r"insufficient[_ ](?:\w{1,12}[_ ])?(?:quota|balance|credit|fund)",
    r"credit[_ ]balance",
    r"\b(?:no|not|any|enough|out of|more|all|available|remaining)\b[^.!?]{0,20}\bcredits?\b",
    r"credits?\b[^.!?]{0,20}(?:exhausted|depleted|used up)",
    r"exhausted[_ ](?:balance|credit)",
    r"\bcredit limit\b",
    r"can only afford",
    r"balance\b[^.!?]{0,30}(?:insufficient|not enough|too low|exhausted|negative)",
    r"good standing",
    r"\barrear",
    r"\boverdue|overdueerror",
    r"\bunpaid\b",
    r"payment (?:is )?required",
    r"payment method",
    r"\bcredit card (?:on file|(?:is )?required)",
    r"billing account",
    r"billing[_ ]hard[_ ]limit",
    r"billing[_ ]?(?:not[_ ]active|(?:is )?disabled|not enabled)",
    r"billing to be enabled",
    r"\bbilled users\b",
    r"account (?:is )?(?:not (?:yet )?active|inactive)",
    r"spend_limit_exceeded",
    r"\bspend(?:ing)? (?:limit|cap) (?:is |has been )?(?:reached|exceeded)",
    r"\b(?:over|exceeded) (?:the |its )?budget\b",
    r"\bbudget[_ ](?:has been |is )?exceeded",
    r"key limit exceeded",
    r"pre_consume_token_quota",
    r"\b(?:0|zero) (?:credits?|balance)\b|\bbalance(?: is)?:? (?:0|zero)\b",
    r"\bno (?:more )?generations? (?:left|remaining)\b",
    r"\b(?:top[ -]?up|recharge) (?:your|the|at|first|now|to)\b|\bplease (?:top[ -]?up|recharge)\b",
    r"\bbilling is not\b",
    r"quota (?:is )?(?:exhausted|not enough)",
    r"\bfree[_ ]?(?:tier|trial|quota)\b[^.!?]{0,40}(?:exhausted|used up|expired|ended)",
    r"freetieronly",
    r"\b(?:paid|higher|premium) (?:plan|tier)\b",
    r"\b(?:your|current|subscription) plan does(?: not|n't) include\b",
    r"\bplan is not enabled\b",
    r"\b(?:credits?|subscription|trial)\b[^.!?]{0,20}\b(?:expired|ended)\b|\bplan (?:has |is )?(?:expired|ended)\b",
    r"\b(?:no (?:active )?|requires? an? )subscription\b",
    r"欠费|余额|充值",
    r"(?:套餐|订阅|会员)\S{0,6}(?:过期|到期)|未购买",
    r"升级\S{0,4}套餐",
)
#: The same, unless a `WINDOW` is named: vendors write these words also where only a minute's limit is reached.
QUOTA = _any_of(
    _near(r"\bquota\b|次数", _SHORTAGE),
    r"\b(?:no|out of) (?:\w{1,12} ){0,3}quota\b",
    r"exceeded your current quota",
    r"quota[_ ]exceeded",
    r"exceeded[^.!?]{0,30}\bquota\b",
)
#: An offer of more. It stands beside any limit.
OFFER = _any_of(r"\bupgrade (?:your (?:plan|account|subscription)|to (?:a )?(?:pro|plus|paid|premium)\b)")
#: The window of a limit.
WINDOW = _any_of(
    r"每(?:秒|分钟|小时)|(?:秒|分钟|小时)内",
    r"per[_ -]?(?:second|minute|hour)\b",
    r"per(?:second|minute|hour)per",
    r"\b[rt]p[ms]\b",
    r"/min\b",
)


# The model.

#: What follows says that images of one kind are not taken, not that the model takes none.
_OF_ANY_KIND = (
    r"(?! (?:of|larger|smaller|type|size|format|with n\b|in (?:webp|gif|bmp|tiff?|heic|heif|avif|svg|jpe?g|png)\b"
    r"|(?:in|with) [^.!?]{0,20}\b(?:formats?|sizes?|types?|channels?)\b))"
)
_MISSING = r"(?:does(?: not|n['’]t) exist|not exist|(?:is |was )?not found)"
#: Codes, and words as plain as a code: they mean the same under every status, and beside the code of something else.
MODEL_CODE = _any_of(
    r"model_not_found",
    r"deploymentnotfound",
    r"invalidendpointormodel",
    rf"\bmodel ['\"`]?[\w./:-]{{1,80}}['\"`]? {_MISSING}",
    r"no available channel",
    r"无可用渠道",
)
MODEL = _any_of(
    rf"(?:model|endpoint|deployment|模型)\b[^.!?\n]{{0,100}}"
    rf"(?:{_MISSING}|no longer|deprecated|retired|been removed|end of its life|not available|not enabled|not deployed)",
    r"\bmodel is (?:\w{1,12}ly )?unavailable\b|\bengine (?:is |was )?not found",
    r"\b(?:unknown|invalid|unsupported|unavailable|incorrect|wrong|no such|not supported|not a valid) model\b",
    r"\bmodel (?:id|name|identifier) is (?:invalid|incorrect|wrong|unknown)",
    r"model\s\S{1,80}\s(?:is )?not supported",
    r"model\b[^.!?\n]{0,80}(?:only|not) supported (?:in|on|with|by|for) [^.!?]{0,30}(?:endpoint|chat|\bapi\b)",
    r"\bmodel id\b[^!?\n]{0,80}\bis(?: not|n['’]t) supported",
    r"\bmodel\b[^!?\n]{0,80}\bnot in the (?:\w{1,12} )?list\b",
    r"\bmodel can only be used (?:in|with|via|on) [^.!?]{0,30}(?:endpoint|\bapi\b)",
    r"\bmodel[_ ](?:is )?(?:not[_ ]supported|disabled|offline|unavailable)\b",
    r"\brequires? an? (?:image|chat|text|vision|multimodal) model\b",
    r"\bonly \w{1,12} models? (?:is|are) supported",
    r"\bno [^.!?]{0,40}\bsupport(?:s|ing)? (?:the )?(?:requested )?model\b",
    r"only supports? the \w{1,20} api\b",
    rf"\bdoes(?: not|n['’]t) support (?:(?:image inputs?|vision|multimodal)\b{_OF_ANY_KIND}"
    r"|images?(?=[.!\"']|$| [a-z_]{1,30}$))",
    rf"\b(?:image|multimodal|vision) inputs? (?:is|are) not supported\b{_OF_ANY_KIND}",
    r"\bonly supported by certain models\b",
    r"not a (?:valid )?chat(?:[_ ]completions?)? model",
    r"does not work with the specified model",
    r"(?:do(?:es)?(?: not|n['’]t) have|has no|no|not allowed to) access (?:to )?(?:the )?model",
    r"\bnot allowed to use (?:this|the) model\b",
    r"\b(?:model access|access to (?:the |this )?model)\b[^.!?]{0,20}\bdenied",
    r"unable to access [^.!?]{0,20}model",
    r"must be verified",
    r"modelnotopen",
    r"publisher model",
    r"no endpoints? found",
    r"data policy",
    r"无权(?:访问|使用).{0,6}模型",
    r"模型[^。！？\n]{0,40}(?:下线|下架|弃用|停用|禁用)",
    r"模型\S{0,4}(?:不存在|不在|未找到|未开通|未启用|未部署|不可用|维护)|模型名?称?错误|(?:无|没有|找不到)[此该这]?模型",
    r"模型不支持(?!\S{0,4}(?:尺寸|分辨率|大小|比例|参数|格式|质量|数量))|模型(?:仅|只)支持[^。！？\n]{0,60}(?:接口|端点)",
    r"未开通.{0,6}模型",
    r"不(?:存在|支持)的?.{0,10}模型",
    _near(
        r"\b(?:modell|modelo|modèle|modello)\b|\bмодел|モデル|모델|mô hình",
        r"nicht gefunden|existiert nicht|introuvable|n['’]existe pas|no existe|não existe|no encontrad|não encontrad"
        r"|non trovat|не найден|не существует|見つかりません|存在しません|찾을 수 없|존재하지|không tồn tại",
    ),
)


# What the client sent.

#: A value that the client chose: a size, the length of the prompt.
CLIENTS_VALUE = _any_of(
    r"invalid[_ ]size",
    r"invalid value:|invalid_value",
    r"invalid type for",
    r"unsupported value",
    r"unknown parameter",
    r"invalid_image",
    r"context_length_exceeded",
    r"maximum context length",
    r"prompt is too long",
    r"string_above_max_length",
)
#: An image or a prompt that the upstream cannot use.
CLIENTS_INPUT = _any_of(
    r"context[_ ]length",
    r"too (?:long|large|big|small|many)",
    r"\bprompt\b",
    r"base64",
    r"\bpixels?\b",
    r"\bdimension",
    r"image[_ ](?:url|format|size|type|data|file)",
    r"(?:input|invalid|unsupported|corrupt\w*|your) (?:image|picture)",
    r"(?:could not|cannot|unable to|failed to|error while) (?:download|fetch|decode|process|load|read|open|parse)",
)
#: An image that the upstream was not let download.
UNREACHABLE_IMAGE = _any_of(
    r"(?:could not|cannot|unable to|failed to|error while) (?:download|fetch|load|read|open)[^.!?]{0,30}"
    r"\b(?:image|mask|picture|photo|file|url)",
)
#: Types and codes of any complaint about a request.
COMPLAINT = _any_of(
    r"invalid_request_error",
    r"\bbad[_ ]?request",
    r"invalid_?argument",
    r"invalid_?parameter",
)


# The key.

#: A key, a token or an account that is refused.
KEY = _any_of(
    CLOSED_ACCOUNT.pattern,
    r"invalid_?(?:api_?)?key",
    r"api_key_invalid",
    r"\b(?:x-)?api[ _-]?key (?:is |was |has )?(?:\w{1,12} )?(?:not valid|invalid)",
    r"\b(?:x-)?api[ _-]?key (?:is |was |has been |has )?"
    r"(?:incorrect|missing|required|expired|disabled|not found|reported|leaked|revoked|suspended)",
    r"\b(?:incorrect|invalid|missing|wrong|expired|unknown|no|valid) (?:x-)?api[ _-]?key",
    r"\b(?:carry|provide|include|supply|pass) (?:(?:the|an?|your|valid|correct) ){0,2}(?:api )?(?:secret )?key\b",
    r"(?:authentication|authorization)[_ ]?(?:error|failed|failure|required|fails)",
    r"\bauthfailure\b",
    r"\bunauthenticated\b|not authenticated",
    r"\blog-?in (?:fail|error|expired|required)|\b(?:please|must|not) (?:be )?log(?:ged)?[ -]?in\b",
    r"\b(?:session|cookie) (?:is |has )?(?:expired|invalid)|\b(?:invalid|expired) (?:session|cookie)\b",
    r"\b(?:missing|invalid|no|bad) (?:auth|authentication|authorization|credential)",
    r"\binvalid (?:access |auth |bearer )?token\b(?! (?:at|near|in|count))",
    r"\btoken[_ ](?:is |has (?:been )?)?(?:expired|revoked|invalidated)",
    r"\binvalidated (?:\w{1,12} )?token\b",
    r"\bkey (?:is |was |has been )?revoked\b",
    r"\btoken (?:you (?:entered|provided) )?is (?:incorrect|invalid)\b",
    r"signature\w{0,4}\s?(?:failure|mismatch|donotmatch|does not match|is invalid)",
    r"unregistered callers",
    r"无效的令牌|令牌(?:无效|已|状态)",
    r"(?:token|key)\s?(?:无效|已过期|已?失效|错误|不存在)",
    r"身份验证|鉴权|认证失败|授权\S{0,2}(?:失败|过期|失效)|密钥|封禁",
    r"登录\S{0,2}(?:失效|过期)|重新登录|请先?登录|未登录",
    r"签名(?:错误|不匹配|无效)",
    _near(
        r"\bapi[ -]?(?:schlüssel|ключ|キー|키)|\b(?:clé|(?:clave|chave)(?: de)?|chiave|ключ) api\b|khóa api",
        r"\bung(?:ü|ue)ltig|\binv[aá]lid|\bno v[aá]lid|\bnon valid|\bневерн|\bнедейств|無効|유효하지|không hợp lệ",
    ),
)
#: What a 403 is about if it is about the key, and not about what the client asked: a key or an account by its name, or
#: what an account may do.
KEY_IN_403 = _any_of(
    r"\bapi[ _-]?keys?(?:\b|_)",
    r"\bcredentials?\b",
    r"\b(?:this|your|unknown|invalid) (?:key|token|license)\b",
    r"\bkey (?:is |was )?(?:not found|disabled|invalid|expired)",
    r"\baccount\b|账号|账户|帐号|用户不存在|密码",
    r"cookie",
    r"\b(?:missing|invalid|bad) signature\b",
    r"\bsecurity token\b",
    r"\bip\b[^!?\n]{0,60}\b(?:allow|white)[ -]?list",
    r"\b(?:not |un)authori[sz]ed\b",
    r"\bpermission[_ ](?:error|(?:\S{1,80} )?denied)",
    r"\b(?:no|not have|insufficient|sufficient|missing|lacks?) (?:\w{1,12} )?permissions?\b|\bpermission is required\b",
    r"\bmissing[_ ]scopes?\b",
    r"\bip (?:address )?(?:is )?not allowed\b",
    r"access[_ ]?den(?:y|ied)|\baccess\b[^.!?\n]{0,40}\b(?:denied|disallowed)\b",
    r"\bcannot consume\b",
    r"\bhas not been used in project\b",
    r"\b(?:channel|group|plan) (?:has been|was|is) (?:\w{1,12}ly )?disabled",
    r"\bnot (?:enabled|available|allowed|permitted) (?:for|in) (?:this|your) "
    r"(?:group|organi[sz]ation|account|plan|project|tier|workspace|team|user)\b",
    r"令牌",
    r"无权|無權|权限|權限",
    r"未(?:开启|開啟|开通|開通|启用|啟用|授权|授權)",
    r"渠道\S{0,4}禁用",
    r"白名单|白名單",
)


# Too much at once.

#: What a limit may count that another time will not exceed: not the size of a request.
_COUNTED = (
    r"(?<!frame )\b"
    r"(?:requests?|api|calls?|jobs?|tasks?|generations?|quota|qps|[rt]p[msd]|rate|daily|hourly|usage|concurren\w{1,8})\b"
    r"(?: (?:rate|request|usage|image|generation|job|task|count|use)){0,2}"
)
#: Too many requests of this server's account.
RATE = _any_of(
    r"rate_limit_exceeded|rate_limit_error",
    r"rate limit reached",
    r"rate[ _-]?limit(?:ed|ing\b|[ _-]?exceeded)",
    r"^rate[ _-]?limit\b",
    rf"(?:{_COUNTED}) (?:limit|exhausted)\b(?![^.!?]{{0,25}}\b(?:bytes?|[kmg]i?b|characters?|tokens|pixels?)\b)",
    r"\blimit\b[^.!?]{0,40}\bper (?:second|minute|hour|day)\b",
    r"\blimit of requests\b",
    r"\bhit (?:the|your) (?:\w{1,12} ){0,3}limit\b",
    r"request_?limit_?exceed",
    r"\bthrottl",
    r"too many requests",
    r"too many (?:\w{1,12} ){0,2}(?:requests|tasks|jobs|calls|generations|messages)",
    r"\b(?:weekly|monthly|[0-9]{1,2}-hour|creation|free) (?:usage |free )?limit\b|\b(?:usage|message) cap\b",
    r"\b(?:images|generations|requests|times) per (?:minute|hour|day|week|month)\b",
    r"(?:(?<![a-z] )|\b(?:api|calls?|query|requests?|your) )\brate exceeded\b|\bqps exceeded\b",
    r"\brate[ _-]limits\b|\bfrequency (?:is )?(?:exceeded|too high)",
    r"^please slow down|\bplease wait [0-9]{1,4} (?:s\b|sec|min)|\bcool(?:ing)?[ -]?down\b",
    r"\banother (?:generation|task|job|request) is (?:already )?(?:in progress|running)",
    r"number of requests\b[^.!?]{0,20}exceed",
    r"\brequests?\b[^.!?]{0,20}\btoo (?:frequent|quick|fast|often)",
    r"concurren\w{1,8}\b[^.!?]{0,30}(?:limit|exceed|reached)",
    r"maximum (?:number of )?concurren",
    r"\bparallel requests\b",
    r"\bqueue (?:is |has been )?full\b",
    r"(?:过于|過於|太|过|過)(?:频繁|頻繁)",
    r"(?:请求|调用|访问|操作)(?:次数|频率)?(?:过于|太|过)(?:多|快)",
    r"请求频率|频率限制|限流|限频|流控|速率\S{0,4}上限",
    r"(?:任务|请求|调用)(?:数量?|次数|频率)\S{0,6}(?:上限|限额|限制)",
    r"(?:生成|生图|使用)次数\S{0,6}(?:上限|限额)|使用上限",
    r"(?:每日|每天|每分钟|并发|频率)\S{0,6}(?:上限|限额|限制)",
    r"并发\S{0,6}(?:超|限)",
    r"队列已?满",
    r"リクエスト(?:数|回数|レート)?[がの]?(?:多すぎ|上限|制限)",
    r"요청이 (?:너무 )?많|요청 (?:한도|제한)",
    r"слишком много запросов|лимит\w{0,3} запросов",
    r"\banfragen?limit|límite de (?:solicitudes|peticiones)|limite de (?:requêtes|solicitações)|limite di richieste",
    r"demasiadas (?:solicitudes|peticiones)|muitas (?:solicitações|requisições)|troppe richieste|trop de requêtes",
    r"zu viele anfragen|te veel (?:verzoeken|aanvragen)",
    r"quá nhiều yêu cầu|terlalu banyak permintaan|çok fazla istek",
)
#: Too much for the upstream itself, whoever asks.
OVERLOAD = _any_of(
    r"server_?(?:is_)?overloaded|overloaded_error|slow_down",
    r"\boverloaded\b|\b(?:server|system|service) overload\b",
    r"\bload is saturated\b",
    r"\b(?:experiencing|due to|under) (?:\w{1,12} )?high (?:demand|traffic)\b|\bhigh load\b",
    r"\b(?:at|over|out of|insufficient) capacity\b|\bcapacity exceeded\b",
    r"\bno gpus? (?:is |are )?available|\btoo many users\b|\bqueue is too long\b|\bwarming up\b",
    r"\b(?:servers?|service|system|engine|model|gpus?|workers?|accounts?) (?:(?:is|are) )?(?:\w{1,12} )?busy\b",
    r"\bno (?:available|free|healthy) (?:\w{1,12} )?(?:gpu|worker|account|instance|deployment)",
    r"繁忙|拥挤|擁擠|饱和|飽和|(?:服务|系统)忙|算力不足",
    r"负载(?:较高|过高)|压力(?:较|过|太)大|资源(?:不足(?!以)|紧张)|访问量(?:过|太)大|人数(?:过|太|较)多",
    r"排队(?:人数)?(?:过|太|较)多",
    r"无可用(?:的)?(?:账号|帐号)",
    r"混雑|혼잡",
)


# The request of this server.

#: Of a 404 or 405: an API has answered, but there is no chat at this path.
WRONG_PATH = _any_of(
    r"invalid url",
    r"cannot post",
    r"(?:page|route|path|url)\b.{0,40}not found",
    r"no (?:such )?route",
    r"^not found$|not found /",
    r"method not allowed",
)

#: An output that the model does not have, where another list of modalities may fit.
MODALITIES = _any_of(r"(?:requested|output|response)[^.!?]{0,40} modalit")
