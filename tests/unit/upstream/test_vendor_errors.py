"""What vendors and relays answer in public reports: whose fault each is, and who is asked what next."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from app.errors import RetrySafety, UpstreamError
from app.upstream.error_body import AttemptFacts
from app.upstream.error_mapping import UpstreamFailure, classify

BLOCKED, RATE, QUOTA, AUTH = "moderation_blocked", "rate_limit_exceeded", "upstream_quota", "upstream_auth"
MODEL, DIALECT, WALL, OVERLOADED = "upstream_model", "upstream_dialect", "upstream_blocked", "upstream_overloaded"
#: The client's own fault, in the upstream's words: no code of ours.
CLIENT = "the client's"


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    status: int
    body: dict[str, Any] | list[Any] | bytes
    code: str
    own: Collection[str] = ()
    elapsed: float = 0.5


def e(message: str, **more: object) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


REFUSALS = (
    Case("OpenRouter's moderation", 403, e("openai/gpt-image requires moderation on OpenAI. Your input was flagged for \"sexual\".", code=403, metadata={"reasons": ["sexual"], "flagged_input": "…"}), BLOCKED),
    Case("OpenRouter's provider, as JSON in a text", 400, e("Provider returned error", code=400, metadata={"raw": '{"error": {"code": "moderation_blocked", "message": "Your request was rejected by the safety system."}}'}), BLOCKED),
    Case("Azure's content filter", 400, e("The response was filtered due to the prompt triggering Azure OpenAI's content management policy.", code="content_filter", status=400), BLOCKED),
    Case("Azure's image filter", 400, e("Your task failed as a result of our safety system.", code="contentFilter"), BLOCKED),
    Case("Vertex", 400, [{"error": {"code": 400, "message": "Image generation failed: the prompt violated Vertex AI's usage guidelines.", "status": "INVALID_ARGUMENT"}}], BLOCKED),
    Case("DashScope", 400, {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}, BLOCKED),
    Case("Ark, the picture", 400, e("The request failed because the output image may contain sensitive information.", code="OutputImageSensitiveContentDetected"), BLOCKED),
    Case("Zhipu", 400, e("系统检测到输入或生成内容可能包含不安全或敏感内容", code="1301"), BLOCKED),
    Case("xAI", 400, {"code": "Client specified an invalid argument", "error": "Generated image rejected by content moderation."}, BLOCKED),
    Case("MiniMax inside a 200", 200, e("", base_resp={"status_code": 1026, "status_msg": "input new_sensitive"}), BLOCKED),
    Case("Black Forest Labs", 422, {"detail": "Request Moderated"}, BLOCKED),
    Case("fal", 422, {"detail": [{"loc": ["body", "prompt"], "msg": "The content could not be processed because it was flagged by a content checker.", "type": "content_policy_violation"}]}, BLOCKED),
    Case("Replicate as 500", 500, {"detail": "NSFW content detected. Try running it again, or try a different prompt."}, BLOCKED),
    Case("Bedrock", 400, {"message": "This request has been blocked by our content filters."}, BLOCKED),
    Case("LiteLLM", 400, e("litellm.ContentPolicyViolationError: AzureException - content filter", type=None, param=None, code="400"), BLOCKED),
    Case("Cloudflare's gateway, the reply", 424, {"success": False, "error": [{"code": 2017, "message": "Response blocked due to security configurations"}]}, BLOCKED),
    *(Case(f"a refusal, in plain words: {words}", 400, e(words), BLOCKED) for words in ("Illegal content", "The prompt is not compliant", "Cannot generate images of public figures", "内容被拦截", "禁止生成该内容", "含有不良内容")),
    *(Case(f"a refusal, by a code alone: {code}", 400, e("request failed", code=code), BLOCKED) for code in ("NSFW_DETECTED", "UnsafeContent", "SAFETY_BLOCK", "prompt_blocked", "PUBLIC_ERROR_UNSAFE_GENERATION")),
    Case("Jimeng's site", 200, {"code": -2009, "message": "内容由于合规问题已被阻止生成"}, BLOCKED),
    Case("Jimeng", 400, {"code": 50412, "message": "Text Risk Not Pass", "status": 50412}, BLOCKED),
    Case("a relay's words", 400, e("sensitive words detected (request id: 7)", code="sensitive_words_detected", type="new_api_error"), BLOCKED),
    Case("a prompt that is called unsafe, inside a 200", 200, {"error_code": 336501, "error_msg": "the content of prompt field is unsafe"}, BLOCKED),
    Case("a forbidden word, under the key of a description", 200, {"code": 24, "description": "可能包含敏感词", "properties": {"bannedWord": "x"}}, BLOCKED),
    Case("adult content", 400, e("Adult content detected"), BLOCKED),
    Case("terms that are violated, by their short name", 400, e("Image violates ToS"), BLOCKED),
    *(Case(f"a refusal in words: {words}", 400, e(words), BLOCKED) for words in ("输入内容存在不良信息", "生成的图片未通过审核", "Your prompt contains words that are not allowed", "It may go against our policies", "提示词含有违法信息", "内容涉及版权", "Ce contenu enfreint nos règles", "Der Inhalt verstößt gegen unsere Regeln", "Контент заблокирован", "Konten melanggar kebijakan", "Nội dung vi phạm chính sách", "İçerik politikalarımızı ihlal ediyor", "المحتوى ينتهك السياسة")),
)  # fmt: skip

COMPLAINTS = (
    *(Case(f"a refusal that speaks of users or access: {words}", 400, e(words), BLOCKED) for words in ("The request was rejected because user blocked words: gore", "Request rejected: access restricted by content policy")),
    *(Case(f"a damaged image: {words}", 400, e(words), CLIENT) for words in ("Invalid image: bad signature", "Failed to decode image: invalid signature")),
    *(Case(f"an image of a kind that is not taken: {words}", 400, e(words), CLIENT) for words in ("This endpoint does not support image input of type webp", "This model does not support image inputs larger than 10 MB", "The size 512x512 requires a different model")),
    *(Case(f"a rate of something else: {words}", 400, e(words), CLIENT) for words in ("The frame rate exceeded 60", "bit rate exceeded")),
    *(Case(f"a refusal that speaks of words of users: {words}", 400, e(words), BLOCKED) for words in ("Request rejected: user banned words",)),
    *(Case(f"a body of a wrong form: {words}", 400, e(words), CLIENT) for words in ("The request body is not compliant with the JSON schema", "The input image is not compliant with the format PNG", "illegal content-type header")),
    Case("a complaint in a language that nobody thought of", 400, e("Paluti ang imahe"), CLIENT),
    Case("FastAPI, the client's prompt", 422, {"detail": [{"loc": ["body", "prompt"], "msg": "String should have at most 800 characters", "type": "string_too_long"}]}, CLIENT),
    Case("the prompt within our messages", 400, e("Invalid 'messages[0].content[0].text': string too long.", param="messages[0].content[0].text", code="string_above_max_length"), CLIENT),
    Case("the prompt as the whole of a message", 400, e("Invalid 'messages[0].content': string too long. Expected a string with maximum length 32000, but got a string with length 40000 instead.", param="messages[0].content", code="string_above_max_length"), CLIENT),
    Case("a picture within our messages", 400, e("Invalid image.", param="messages[0].content[1].image_url", code="invalid_image_url"), CLIENT),
    Case("a picture within our messages, by words", 400, e("messages.0.content.1.image.source.base64: Could not process image"), CLIENT),
    Case("a picture within our messages, in brackets", 400, e("Invalid base64 in messages[0].content[1].image_url.url"), CLIENT),
    Case("a prompt too long for the model", 400, e("This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.", param="messages", code="context_length_exceeded"), CLIENT),
    Case("pictures too large, by the name of our field", 400, e("The image is too large.", param="messages"), CLIENT),
    Case("a size that this model cannot paint", 400, e("This model does not support the size 512x512."), CLIENT),
    Case("a picture whose metadata is damaged", 400, e("The metadata of your image is corrupt."), CLIENT),
    Case("a region of the picture", 400, e("The mask region is not supported by this model's edit mode"), CLIENT),
    Case("the client's own metadata", 400, e("Invalid 'metadata': too many properties.", param="metadata"), CLIENT, ("metadata",)),
    Case("the client's own user, too long", 400, e("'user' is too long.", param="user"), CLIENT, ("user",)),
    Case("an unknown complaint inside a 200", 200, e("Paluti ang imahe"), CLIENT),
    Case("a relay that turns a 400 into a 500", 500, e("upstream: 400 Bad Request", type="new_api_error"), CLIENT),
    Case("a picture that cannot be downloaded for its inspection", 400, {"code": "InvalidParameter.DataInspection", "message": "Unable to download the media resource during the data inspection process."}, CLIENT),
    *(Case(f"what the client sent, by a code alone: {code}", 400, e("request failed", code=code), CLIENT) for code in ("IMAGE_TOO_LARGE", "InvalidImageFormat", "promptTooLong", "invalid_size", "ImageDownloadFailed", "file_too_large")),
    Case("pictures that this model finds too large", 400, e("This model does not support images larger than 4096 pixels"), CLIENT),
    *(Case(f"what the client sent, in words like those of an account: {words}", 400, e(words), CLIENT) for words in ("The model does not support this size; unavailable sizes are 512x512", "该模型不支持此尺寸", "模型参数错误：size", "图片资源不足以识别", "参数不足", "The frame rate limit of GIFs is 30", "The image URL has expired", "You can send at most 10 images per request", "The character limit is 1000")),
    Case("a scene of high traffic", 400, e("Scenes of high traffic are too complex. Simplify the image."), CLIENT),
    Case("a picture of a credit card", 400, e("Please do not upload a photo of a credit card."), CLIENT),
    Case("a 403 without evidence", 403, e("Not for you."), "upstream_forbidden"),
    Case("a 403 in plain text", 403, b"Forbidden", "upstream_forbidden"),
    Case("a 403 without words", 403, b"", "upstream_forbidden"),
    *(Case(f"a limit that each repeat would exceed: {words}", 400, e(words), CLIENT) for words in ("Image exceeds the size limit", "Image dimensions must be at least 300 pixels", "Aspect ratio of the image must be between 1:16 and 16:1", "参考图数量超过限制", "max_tokens limit exceeded", "Image count limit exceeded: at most 10 images per request", "Could not generate image: no face detected", "Request size limit exceeded", "The request limit of 20 MB was exceeded", "Prompt exceeds the limit of 1000 characters", "Too many images: the limit is 5 per request", "At most 4 reference images are allowed per request", "图片数量已达上限", "请求体大小超过上限", "token已超过最大长度", "The image has insufficient contrast")),
    Case("a request that is too large, in Russian", 400, e("Размер запроса превышает лимит"), CLIENT),
    Case("a request that is too large, in Japanese", 400, e("リクエストサイズが制限を超えています"), CLIENT),
    Case("a number of images that each repeat would exceed", 400, e("生成数量超过上限"), CLIENT),
    Case("a model that is not the cause", 400, e("This model does not support the size 7x7"), CLIENT),
)  # fmt: skip

OPERATORS = (
    Case("a parameter by param", 400, e("Unknown parameter: 'modalities'.", param="modalities", code="unknown_parameter"), DIALECT),
    Case("a parameter by loc", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "metadata"], "msg": "Extra inputs are not permitted"}]}, DIALECT),
    Case("a parameter by OpenAI's older words", 400, e("Unrecognized request argument supplied: metadata"), DIALECT),
    Case("a parameter by Google's words", 400, [{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"modalities\": Cannot find field.", "status": "INVALID_ARGUMENT"}}], DIALECT),
    Case("a parameter by Go's words", 400, e('json: unknown field "image_config"'), DIALECT),
    Case("a parameter by Anthropic's words", 400, e("metadata: Extra inputs are not permitted", type="invalid_request_error"), DIALECT),
    Case("a parameter by the words of JSON Schema", 400, e("Additional properties are not allowed ('metadata' was unexpected)"), DIALECT),
    Case("metadata that needs another field", 400, e("The 'metadata' parameter is only allowed when 'store' is enabled."), DIALECT),
    Case("a model that only streams", 400, {"code": "invalid_parameter_error", "message": "This model only supports stream mode, please enable the stream parameter."}, DIALECT),
    Case("a model that takes only text", 400, e("content must be a string"), DIALECT),
    Case("messages in another form", 400, e("Invalid type for 'messages': expected a string.", param="messages"), DIALECT),
    Case("content in another form, by param", 400, e("Invalid type for 'messages[0].content': expected a string, but got an array instead.", param="messages[0].content"), DIALECT),
    Case("content in another form, by loc", 422, {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "Input should be a valid string", "type": "string_type"}]}, DIALECT),
    Case("a role that is not known, by words", 400, e("messages[0].role: 'system' is not supported"), DIALECT),
    Case("a part in another form, by loc", 422, {"detail": [{"loc": ["body", "messages", 0, "content", 1, "image_url"], "msg": "field required", "type": "value_error.missing"}]}, DIALECT),
    Case("a model that takes no parts with pictures", 400, e("Failed to deserialize the JSON body into the target type: messages[0]: unknown variant `image_url`, expected `text` at line 1 column 45"), DIALECT),
    Case("a model that takes no parts with pictures, by param", 400, e("Invalid content type. image_url is not supported: the content type 'image_url' is not supported by this model.", param="messages.[0].content.[1].type"), DIALECT),
    Case("a part with a field that is not known", 422, {"detail": [{"loc": ["body", "messages", 0, "content", 1, "image_url", "detail"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]}, DIALECT),
    Case("a part of a kind that is not known", 400, e("messages[0].content[1]: unknown content type 'image_url'"), DIALECT),
    Case("a model that does not stream", 400, e("This model does not support streaming."), DIALECT),
    Case("a user field that is not known", 400, e("Unsupported parameter: 'user'", param="user"), DIALECT, ("user",)),
    Case("modalities that the model does not have", 404, e("No endpoints found that support the requested output modalities: image, text", code=404), DIALECT),
    Case("a model by param", 400, e("you must provide a model parameter", param="model"), MODEL),
    Case("OpenRouter, no endpoints", 404, e("No endpoints found for google/gemini-2.5-flash-image-preview.", code=404), MODEL),
    Case("OpenRouter, the data policy", 404, e("No endpoints found matching your data policy (Free model publication).", code=404), MODEL),
    Case("OpenRouter, a wrong id", 400, e("nano/banana is not a valid model ID", code=400), MODEL),
    Case("Ark, an endpoint", 404, e("The model or endpoint ep-1 does not exist or you do not have access to it.", code="InvalidEndpointOrModel.NotFound"), MODEL),
    Case("Gemini, a model", 404, [{"error": {"code": 404, "message": "models/x is not found for API version v1beta, or is not supported for generateContent.", "status": "NOT_FOUND"}}], MODEL),
    Case("Azure, a deployment", 404, e("The API deployment for this resource does not exist.", code="DeploymentNotFound"), MODEL),
    Case("DashScope, a model", 404, {"code": "ModelNotFound", "message": "Model not exist."}, MODEL),
    Case("Zhipu, a model", 400, e("模型不存在，请检查模型代码。", code="1211"), MODEL),
    Case("new-api, a model", 503, e("No available channel for model x under group default (distributor)", code="model_not_found"), MODEL),
    Case("Together, a model", 404, e("Unable to access model x. Please visit the site to view the list of supported models."), MODEL),
    Case("OpenAI, an organization that is not verified", 403, e("Your organization must be verified to use the model `gpt-image-1`."), MODEL),
    Case("OpenAI, another endpoint", 404, e("This is not a chat model and thus not supported in the v1/chat/completions endpoint."), MODEL),
    Case("Azure, another operation", 400, e("The chatCompletion operation does not work with the specified model, x.", code="OperationNotSupported"), MODEL),
    Case("Together, no endpoint yet", 400, e("Unable to access non-serverless model x."), MODEL),
    Case("a relay's model for images only", 400, e("The model x is only supported in the images endpoint."), MODEL),
    Case("new-api, a model that the token may not use", 403, e("该令牌无权访问模型 x"), MODEL),
    Case("new-api, a group that the token may not use", 403, e("您的令牌无权访问分组 vip"), AUTH),
    Case("a key for other addresses", 403, e("Your IP is not in the allow list of this key"), AUTH),
    Case("AWS, a token", 403, {"message": "The security token included in the request is expired"}, AUTH),
    Case("OpenAI, a country", 403, e("Country, region, or territory not supported", code="unsupported_country_region_territory"), WALL),
    Case("Gemini, a country", 400, e("User location is not supported for the API use.", status="FAILED_PRECONDITION"), WALL),
    Case("a model that is not offered in the country", 403, e("This service is not available in your country."), WALL),
    Case("DashScope, the free tier", 403, {"code": "AllocationQuota.FreeTierOnly", "message": "The free tier of the model has been exhausted."}, QUOTA),
    Case("FastAPI, no such method", 405, {"detail": "Method Not Allowed"}, "upstream_error"),
    Case("FastAPI, no such path", 404, {"detail": "Not Found"}, "upstream_error"),
    Case("Spring, no such path", 404, {"timestamp": "2026", "status": 404, "error": "Not Found", "path": "/v1/chat/completions"}, "upstream_error"),
    Case("a key that is wrong", 401, e("Incorrect API key provided", code="invalid_api_key"), AUTH),
    Case("OpenRouter, a user", 401, e("User not found.", code=401), AUTH),
    Case("Gemini, a key", 400, [{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}], AUTH),
    Case("Gemini, a leaked key", 403, e("Your API key was reported as leaked. Please use another API key.", status="PERMISSION_DENIED"), AUTH),
    Case("xAI, a key", 400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: sk-x."}, AUTH),
    Case("new-api, a token", 401, e("无效的令牌 (request id: 7)", type="new_api_error"), AUTH),
    Case("an account that is closed", 403, e("Your account has been suspended for violations of our terms", type="x"), AUTH),
    Case("OpenRouter, credits", 402, e("This request requires more credits, or fewer max_tokens.", code=402), QUOTA),
    Case("MiniMax, a key", 200, e("login fail: Please carry the API secret key in the 'Authorization' field", code=1004), AUTH),
    Case("a key that is to be sent", 400, e("Please provide a valid API key in the header."), AUTH),
    Case("OpenRouter, the limit of a key", 403, e("Key limit exceeded (total limit).", code=403), QUOTA),
    Case("DashScope, arrears", 400, {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing."}, QUOTA),
    Case("Ark, overdue", 403, e("The request failed because your account has an overdue balance.", code="AccountOverdueError"), QUOTA),
    Case("Zhipu, overdue", 429, e("您的账户已欠费，请充值后重试。", code="1113"), QUOTA),
    Case("SiliconFlow, balance", 403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}, QUOTA),
    Case("fal, balance", 403, {"detail": "User is locked. Reason: Exhausted balance. Top up your balance."}, QUOTA),
    Case("xAI, credits", 403, {"code": "x", "error": "Your newly created team doesn't have any credits yet."}, QUOTA),
    Case("Moonshot, balance", 429, e("Your account is suspended, please check your balance: insufficient balance", type="exceeded_current_quota_error"), QUOTA),
    Case("OpenAI, an account that is not active", 403, e("Your account is not active, please check your billing details on our website."), QUOTA),
    Case("OpenAI, quota", 429, e("You exceeded your current quota, please check your plan and billing details.", code="insufficient_quota"), QUOTA),
    Case("Cloudflare's challenge", 403, b"<!DOCTYPE html><title>Just a moment...</title>", WALL),
    Case("Cloudflare's ban", 403, b"error code: 1010", WALL),
    Case("Akamai's ban", 403, b"<HTML><HEAD><TITLE>Access Denied</TITLE></HEAD></HTML>", WALL),
    Case("a company's proxy", 407, b"<html>Proxy Authentication Required</html>", WALL),
    *(Case(f"no credit, in words: {words}", 403, e(words), QUOTA) for words in ("Your credit has run out", "Insufficient points", "Key over budget", "Monthly spend limit reached", "You have no remaining quota", "Your free credits have expired", "Subscription expired", "No active subscription", "套餐已过期", "请升级套餐", "Credit limit exceeded", "Please add a payment method", "This model requires a paid plan", "Your plan does not include this model", "billing account for project is disabled", "分组额度已耗尽", "积分不足，请先购买", "资源包余量已用尽", "クレジットが不足しています", "잔액이 부족합니다", "Недостаточно средств", "Saldo insuficiente", "Solde insuffisant", "Nicht genügend Guthaben", "Số dư không đủ")),
    *(Case(f"a model, in words: {words}", 400, e(words), MODEL) for words in ("model_not_supported", "Model disabled.", "The team is not allowed to access model m", "模型 m 已下线，请使用新模型", "This model only supports the Responses API", "It is not a valid chat completion model", "This token has no access to model m", "该模型已下线", "未开通模型服务")),
    *(Case(f"our key, in words: {words}", 403, e(words), AUTH) for words in ("Token无效", "签名错误", "IP 192.0.2.3 is not in whitelist", "The request signature does not match", "Method doesn't allow unregistered callers")),
    *(Case(f"a model, in relays' words: {words}", 400, e(words), MODEL) for words in ('images endpoint requires an image model, got "x"', "not supported model for image generation, only imagen models are supported", "No available OpenAI accounts support the requested model: x", "Unavailable model: x", "The provided model identifier is invalid.", "Invocation of model ID x with on-demand throughput isn’t supported.", "Your organization is not allowed to use this model.", "This model version has reached the end of its life.")),
    Case("Codex, a model beside the code of a wrong value", 400, e("The model 'gpt-image-2' does not exist.", type="image_generation_user_error", code="invalid_value", param="tools"), MODEL),
    *(Case(f"a closed account, in words: {words}", 403, e(words), AUTH) for words in ("User suspended", "This user has been disabled", "User has been banned", "This organization has been disabled.", "Your project has been denied access. Please contact support.", "Your access was terminated due to violation of our policies.", "Your resource has been temporarily blocked because we detected behavior that may violate our content policy.", "该用户已被禁用", "您的账户已被锁定，请联系客服解锁。")),
    *(Case(f"a model, in further words: {words}", 400, e(words), MODEL) for words in ("model: x is not in the allowed list", "该模型仅支持 /v1/images/generations 接口", "This model can only be used with the images endpoint", "此模型不在您的套餐范围内", "Модель не найдена", "Modèle introuvable", "El modelo no existe", "Modell nicht gefunden", "Modello non trovato", "指定されたモデルが見つかりません")),
    *(Case(f"our key, in further words: {words}", 403, e(words), AUTH) for words in ("Authorization failed", "The `models` permission is required to access this endpoint", "The token you entered is incorrect.", "check login error", "登录态失效，请重新登录", "您的IP不在白名单内", "Missing signature", "APIキーが無効です", "유효하지 않은 API 키입니다", "Неверный API-ключ", "Clé API invalide", "Clave de API no válida", "Ungültiger API-Schlüssel", "Chave de API inválida", "Khóa API không hợp lệ")),
    *(Case(f"no credit, in further words: {words}", 403, e(words), QUOTA) for words in ("not enough api tokens", "利用可能なクレジットがありません", "Quota de jetons insuffisant")),
    Case("Cloudflare's challenge, as a relay tells it", 403, e("Cloudflare challenge detected; refresh cf_clearance"), WALL),
    *(Case(f"a model that takes no picture, in words: {words}", 400, e(words), MODEL) for words in ("This model does not support image input.", "image input is not supported by this model", "image inputs are not supported in this model", "x does not support images", "multimodal input is not supported", "The model does not support vision", "Invalid content type. image_url is only supported by certain models.", "当前模型不支持图片输入")),
    *(Case(f"a model, in plain words: {words}", 400, e(words), MODEL) for words in ("This model has been removed", "Model is not deployed", "The model is currently unavailable in your region", "Engine not found", "没有该模型", "模型名称错误", "该模型暂不可用", "模型维护中", "模型未部署")),
    *(Case(f"our account, in plain words: {words}", 403, e(words), AUTH) for words in ("Session expired", "Please log in", "Not logged in", "Cookie is invalid", "Unauthorized access", "Key not found", "Invalid license", "账号异常", "授权已过期", "请先登录", "密码错误")),
    *(Case(f"no credit, in plain words: {words}", 403, e(words), QUOTA) for words in ("You have 0 credits", "Balance: 0", "No generations left", "Your trial has ended", "Your plan has expired", "Please upgrade your plan", "Upgrade to Pro to continue", "Top up your account", "Billing is not set up", "会员已过期", "剩余次数不足", "算力值不足", "套餐已用完", "未购买该服务")),
    *(Case(f"a model, by a code alone: {code}", 400, e("request failed", code=code), MODEL) for code in ("invalid_model", "ModelNotFound", "MODEL_NOT_SUPPORTED", "model_unavailable")),
    *(Case(f"no credit, by a code alone: {code}", 400, {"code": code, "msg": "error"}, QUOTA) for code in ("NOT_ENOUGH_BALANCE", "insufficientBalance", "BalanceNotEnough", "out_of_credits", "PaymentRequired", "subscription_expired")),
    *(Case(f"our key, by a code alone: {code}", 403, e("request failed", code=code), AUTH) for code in ("keyRevoked", "API_KEY_EXPIRED", "PermissionDenied", "permission_error", "ACCESS_DENY", "AccountDisabled", "USER_BANNED", "IP_NOT_ALLOWED")),
    Case("a closed account inside a 200", 200, {"success": False, "message": "该用户已被禁用"}, AUTH),
    *(Case(f"what our account may not do, in words: {words}", 403, e(words), AUTH) for words in ("No permission to access this group", "无权访问该分组", "無權存取該分組", "This channel has been disabled", "该渠道已被禁用", "Image generation is not enabled for this group", "该分组未开启图片生成功能", "Permission 'x.predict' denied on resource 'y' (or it may not exist).", "User: arn:aws:iam::1:user/x is not authorized to perform: bedrock:InvokeModel", "You have insufficient permissions for this operation.", "Missing scopes: model.request", "Workspace access denied.", "You cannot consume this service", "Access to this API has been disallowed", "Vertex AI API has not been used in project 7 before or it is disabled.")),
    Case("Google, a policy of the operator's organization", 403, e("Request is prohibited by organization's policy.", status="PERMISSION_DENIED"), AUTH),
    Case("Google, a key for other pages", 403, e("Requests from referer <empty> are blocked.", details=[{"reason": "API_KEY_HTTP_REFERRER_BLOCKED"}]), AUTH),
    Case("Google, a key for other methods", 403, e("Requests to this API method GenerativeService.GenerateContent are blocked.", status="PERMISSION_DENIED"), AUTH),
    *(Case(f"a key, in relays' words: {words}", 502, e(words), AUTH) for words in ("Your authentication token has been invalidated. Please try signing in again.", "Encountered invalidated oauth token for user, failing request")),
    Case("a token, by its code", 500, e("x", code="token_revoked"), AUTH),
    *(Case(f"no credit, in relays' words: {words}", 403, e(words), QUOTA) for words in ("This API method requires billing to be enabled.", "AI Gateway requires a valid credit card on file to service requests.", "Out of call volume quota.", "Subscription plan is not enabled", "Imagen API is only accessible to billed users at this time.", "您今天的免费生成次数已用完，请明天再来")),
    Case("a pool without quota", 502, e("no available image quota"), QUOTA),
    Case("Azure, a security policy", 403, e("Access denied by security policy"), WALL),
    Case("a signature, by its code inside a 200", 200, {"Response": {"Error": {"Code": "AuthFailure.SignatureFailure", "Message": "x"}}}, AUTH),
    Case("nginx, http in place of https", 400, b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>", "upstream_error"),
    Case("Go, http in place of https", 400, b"Client sent an HTTP request to an HTTPS server.\n", "upstream_error"),
    Case("Apache, http in place of https", 400, b"<html><p>Reason: You're speaking plain HTTP to an SSL-enabled server port.</p></html>", "upstream_error"),
    Case("Tomcat, http in place of https", 400, b"Bad Request\nThis combination of host and port requires TLS.\n", "upstream_error"),
    Case("a code of the account beside its words, inside a 200", 200, {"status": "failed", "error_code": "INSUFFICIENT_CREDITS", "message": "Not enough"}, QUOTA),
    Case("no balance, in words", 400, e("Not enough balance"), QUOTA),
)  # fmt: skip

LIMITS = (
    *(Case(f"a limit beside an offer or a quota: {words}", 429, e(words), RATE) for words in ("Rate limit reached. Please try again in 12s. Upgrade your plan to increase your limit.", "Too many requests. Please slow down or upgrade your plan.", "You have run out of quota for image requests per minute.", "Quota for images per minute is used up.", "每分钟请求次数已用完，请稍后再试")),
    *(Case(f"a rate in the words of a complaint: {words}", 400, e(words), RATE) for words in ("Rate exceeded", "Request rate exceeded", "Your rate exceeded")),
    Case("Gemini, per minute", 429, [e("You exceeded your current quota, please check your plan and billing details.\nPlease retry in 1.2s.", code=429, status="RESOURCE_EXHAUSTED", details=[{"retryDelay": "1s"}])], RATE),
    Case("Gemini, per minute without a delay", 429, [e("Quota exceeded for quota metric 'requests' and limit 'requests per minute'", code=429)], RATE),
    Case("Azure", 429, e("Requests have exceeded call rate limit of your tier. Please retry after 20 seconds.", code="429"), RATE),
    Case("DashScope", 429, {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded, please try again later."}, RATE),
    Case("OpenRouter", 429, e("Rate limit exceeded: free-models-per-min.", code=429, metadata={"headers": {"X-RateLimit-Remaining": "0"}}), RATE),
    Case("new-api", 429, e("当前分组上游负载已饱和，请稍后再试", type="new_api_error"), RATE),
    Case("Zhipu, concurrency", 429, e("您当前使用该API的并发数过高", code="1302"), RATE),
    Case("a limit as 400", 400, e("请求过于频繁，请稍后再试"), RATE),
    Case("a limit inside a 200", 200, e("Too many requests", code=429), RATE),
    Case("Google inside a 200", 200, e("Resource has been exhausted", status="RESOURCE_EXHAUSTED"), RATE),
    *(Case(f"a limit, in words: {words}", 400, e(words), RATE) for words in ("Open api qps request limit reached", "Request has reached API limit, please try later", "RequestLimitExceeded.JobNumExceed", "Request limit reached for this minute", "Daily image limit reached. Try again tomorrow.", "You hit your limit of 10 generations per day", "TPM limit exceeded", "Requests are too frequent", "You are sending requests too quickly", "Max parallel requests reached", "The number of requests has exceeded the limit", "Limit of requests reached", "rpm exhausted", "Too many pending tasks in queue", "The queue is full", "You have reached the maximum number of concurrent jobs", "No available GPU, please retry", "Server is busy", "Quota exceeded for metric 'requests' and limit 'requests per minute'")),
    *(Case(f"a limit, in words: {words}", 400, e(words), RATE) for words in ("操作过于频繁，请稍后重试", "请求的次数超过了频率限制。", "同时处理的任务数量已达上限。", "当前排队人数过多", "超出每日限额", "リクエスト制限に達しました", "요청 한도를 초과했습니다", "Слишком много запросов", "Demasiadas solicitudes", "Trop de requêtes", "Zu viele Anfragen")),
    *(Case(f"a limit, in relays' words: {words}", 400, e(words), RATE) for words in ("You've hit the Free plan limit for image generations requests.", "Request was rejected due to rate limiting. Details:IPM limit reached.", "提交过于频繁，请稍后再试", "生图次数已达上限", "已达到 5 小时的使用上限。您的限额将在稍后重置。")),
    *(Case(f"too much for the upstream, in relays' words: {words}", 400, e(words), RATE) for words in ("No available compatible accounts", "There are no healthy deployments for this group", "Service tier capacity exceeded for this tier.", "The service is unable to handle additional requests due to server overload.", "The service is currently experiencing high demand.", "线路繁忙，请稍后再试", "当前排队人数较多，请稍后再试", "暂无可用账号，请稍后重试", "该服务当前访问量过大，请您稍后再试")),
    *(Case(f"a limit, in further words: {words}", 400, e(words), RATE) for words in ("请求限频，请稍后重试", "日流控超限", "您的速率达到上限，请稍后再试。", "リクエスト数が上限に達しました", "Превышен лимит запросов", "Limite de requêtes atteinte", "Límite de solicitudes alcanzado", "Anfragelimit erreicht")),
    *(Case(f"a limit, in plain words: {words}", 400, e(words), RATE) for words in ("Please slow down", "Please wait 5 seconds before making another request", "You have sent too many messages", "Another generation is already in progress", "Max concurrent generations reached", "Daily free limit reached", "You've reached your image creation limit", "Usage cap reached", "Free users can generate 3 images per day", "Request frequency is too high", "QPS exceeded", "Weekly limit exceeded", "5-hour limit reached", "cooldown active")),
    *(Case(f"a limit, by a code alone: {code}", 400, e("request failed", code=code), RATE) for code in ("TooManyRequests", "too-many-requests", "concurrency_limit_exceeded", "QUEUE_FULL", "server_busy")),
    Case("a full queue, under the key of a description, inside a 200", 200, {"code": 23, "description": "队列已满，请稍后尝试", "properties": {}}, RATE),
    Case("Google's older form inside a 200", 200, {"error": {"errors": [{"reason": "rateLimitExceeded", "message": "x"}], "code": 429, "message": "x"}}, RATE),
    Case("GraphQL inside a 200", 200, {"errors": [{"message": "x", "extensions": {"code": "RATE_LIMITED"}}]}, RATE),
    Case("a code in capitals inside a 200", 200, {"success": False, "error": {"code": "RATE_LIMITED", "message": "Slow down"}}, RATE),
    Case("Apigee inside a 200", 200, {"fault": {"faultstring": "Too many requests"}}, RATE),
)  # fmt: skip

FAILURES = (
    Case("OpenAI, overloaded", 503, e("The engine is currently overloaded, please try again later"), OVERLOADED),
    Case("Anthropic, overloaded", 529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, OVERLOADED),
    Case("Cloudflare, origin down", 521, b"<html>521</html>", "upstream_error"),
    Case("nginx, bad gateway", 502, b"<html>502</html>", "upstream_error"),
    Case("nginx, timeout", 504, b"<html>504</html>", "upstream_timeout"),
    Case("a relay that hung up", 499, b"", "upstream_timeout"),
    Case("a relay's crash", 500, e("bad response status code 502", code="bad_response_status_code"), "upstream_error"),
    Case("Vertex's crash", 500, [e("Internal error encountered.", code=500, status="INTERNAL")], "upstream_error"),
    Case("a busy model", 500, e("当前模型负载较高，请稍后重试"), OVERLOADED),
    *(Case(f"a busy upstream, in plain words: {words}", 500, e(words), OVERLOADED) for words in ("no GPU available", "Out of capacity", "Insufficient capacity to serve the request", "Too many users right now", "The queue is too long", "Model is warming up", "High load, try later", "当前服务压力较大，请稍后再试", "资源不足，请稍后再试")),
    *(Case(f"a busy upstream, by a code alone: {code}", 500, e("request failed", code=code), OVERLOADED) for code in ("SERVICE_BUSY", "ModelOverloaded", "capacity_exceeded")),
    *(Case(f"a busy upstream, in words: {words}", 500, e(words), OVERLOADED) for words in ("Current group upstream load is saturated, please try again later", "目前分組上游負載已飽和，請稍後再試", "Model busy, retry later", "上游繁忙，请稍后重试", "x is currently over capacity.", "We're experiencing high traffic right now!", "All accounts are busy, please retry", "服务忙，请稍后再试", "当前使用人数过多，请稍后再试", "高峰期算力不足，请稍后重试")),
    Case("a busy server", 500, e("Server is busy, please try again later"), OVERLOADED),
)  # fmt: skip

CASES = (*REFUSALS, *COMPLAINTS, *OPERATORS, *LIMITS, *FAILURES)
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def failure_of(case: Case) -> UpstreamFailure:
    body = case.body if isinstance(case.body, bytes) else orjson.dumps(case.body)
    facts = AttemptFacts(now=0, elapsed=case.elapsed, client_fields=case.own, client_texts=("a fox in the snow",))
    return classify(case.status, {}, body, facts)


@each
def test_whose_fault_it_is(case: Case) -> None:
    error = failure_of(case).error
    code = CLIENT if error.status == 400 and error.code != BLOCKED else error.code
    assert (code, error.message) == (case.code, error.message)


@each
def test_who_is_asked_next(case: Case) -> None:
    free_elsewhere = {RetrySafety.SAFE, RetrySafety.OTHER_UPSTREAM}
    goes_elsewhere = failure_of(case).retry_safety in free_elsewhere
    assert goes_elsewhere is (case in (*OPERATORS, *LIMITS) or case.status == 503)


@each
def test_only_failures_move_a_circuit(case: Case) -> None:
    assert failure_of(case).error.counts_against_upstream is (case in FAILURES and case.status >= 500)


@each
def test_the_operator_is_called_only_with_evidence(case: Case) -> None:
    failure = failure_of(case)
    assert isinstance(failure.error, UpstreamError) is (case in (*OPERATORS, *FAILURES))
    assert (failure.setting is not None) is (case in OPERATORS and case.code != WALL)
