"""Requests of real clients, byte by byte, get the right responses."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from PIL import Image

from tests.support.raw_http import RawResponse, chunked_body, connect, send_request
from tests.support.servers import RunningDemo, RunningLimner, run_limner


@pytest.fixture(scope="module")
def limner(demo: RunningDemo) -> Iterator[RunningLimner]:
    with run_limner(demo.url, api_keys="sk-client") as running:
        yield running


def image_bytes(color: str, format: str = "PNG") -> bytes:  # noqa: A002
    file = io.BytesIO()
    Image.new("RGBA" if color == "clear" else "RGB", (64, 64), (0, 0, 0, 0) if color == "clear" else color).save(
        file, format
    )
    return file.getvalue()


RED, GREEN, BLUE, CLEAR, JPEG = (
    image_bytes("red"),
    image_bytes("green"),
    image_bytes("blue"),
    image_bytes("clear"),
    image_bytes("red", "JPEG"),
)

AUTH = b"Authorization: Bearer sk-client\r\n"


def post(path: bytes, headers: bytes, body: bytes) -> bytes:
    """Build a request with a content length and the headers in the order of the client."""
    return b"POST %s HTTP/1.1\r\nHost: HOST\r\n%s%sContent-Length: %d\r\n\r\n%s" % (
        path,
        AUTH,
        headers,
        len(body),
        body,
    )


def stream(path: bytes, headers: bytes, *chunks: bytes) -> bytes:
    """Build a request without a content length."""
    return b"POST %s HTTP/1.1\r\nHost: HOST\r\n%s%sTransfer-Encoding: chunked\r\n\r\n%s" % (
        path,
        AUTH,
        headers,
        chunked_body(*chunks),
    )


def json(path: bytes, body: bytes, headers: bytes = b"Content-Type: application/json\r\n") -> bytes:
    return post(path, headers, body)


def part(headers: bytes, value: bytes) -> bytes:
    return headers + b"\r\n\r\n" + value


def form(boundary: bytes, *parts: bytes) -> bytes:
    return b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts) + b"--%s--\r\n" % boundary


def text(name: bytes, value: bytes, headers: bytes = b"") -> bytes:
    return part(b'Content-Disposition: form-data; name="%s"%s' % (name, headers), value)


def file(name: bytes, filename: bytes, kind: bytes, data: bytes) -> bytes:
    return part(
        b'Content-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: %s' % (name, filename, kind), data
    )


G, E = b"/v1/images/generations", b"/v1/images/edits"
OCTETS = b"application/octet-stream"
PYTHON = b"Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nUser-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Retry-Count: 0\r\nX-Stainless-Read-Timeout: 600\r\n"
NODE = b"accept: application/json\r\nuser-agent: OpenAI/JS 7.57.0\r\nx-stainless-retry-count: 0\r\nx-stainless-lang: js\r\nconnection: keep-alive\r\n"


def python_form(*parts: bytes) -> bytes:
    boundary = b"3b2c7bd0f1d3a0b9c6c1f0e5d4a3b2c1"
    return post(E, PYTHON + b"Content-Type: multipart/form-data; boundary=%s\r\n" % boundary, form(boundary, *parts))


@dataclass(frozen=True, slots=True)
class Case:
    """One request, the images and the prompt that must reach the upstream, and the size of the returned image."""

    name: str
    raw: bytes
    prompt: str
    sent: tuple[bytes, ...] = ()
    format: str = "b64_json"
    size: str = "1024x1024"
    ignored: str | None = None
    quality: str | None = None


NODE_BOUNDARY = b"----formdata-undici-047839202116"
NODE_FORM = form(
    NODE_BOUNDARY, file(b"image", b"a.png", OCTETS, RED), text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2")
)
AI_BOUNDARY = b"----formdata-undici-012345678901"
NET_BOUNDARY = b"Qf=7_xK2mZ0pLw9=aBcD_3eFgHiJ4kLmN5oPqR6sTuV=7wXyZ8_0aBcDeFgHiJkLmNoPq="
JAVA_BOUNDARY = b"66d3f4a1-0f7c-4a0e-9c6e-b7a8d9e0f1a2"
JAVA_TEXT, JAVA_BYTES = b"\r\nContent-Type: text/plain; charset=utf-8", b"\r\nContent-Type: application/octet-stream"
RUBY_BOUNDARY = b"-----------RubyMultipartPost-0a1b2c3d4e5f"
GO_BOUNDARY = b"5c9e7f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071829304"
PHP_BOUNDARY = b"6920fa3b8c1d24.87654321"
AIOHTTP_BOUNDARY = b"c1f0e5d4a3b2c13b2c7bd0f1d3a0b9c6"
CURL_BOUNDARY = b"------------------------d74496d66958873e"
DATA_URL = "data:image/png;base64," + base64.b64encode(RED).decode()
DATA_URL_OF_GREEN = "data:image/png;base64," + base64.b64encode(GREEN).decode()
#: reqwest writes names of headers in lower case.
CODEX = b"content-type: application/json\r\noriginator: codex_cli_rs\r\nuser-agent: codex_cli_rs/0.142.5 (Ubuntu 24.4.0; x86_64) xterm\r\nx-openai-actor-authorization: local-image-extension\r\naccept: */*\r\n"
SKILL = b"content-type: application/json\r\naccept: application/json\r\nx-client-request-id: 1-1\r\n"
RUST_BOUNDARY = b"3f1e0a9bc2d47786-54f0aa1298bcde01-77cc3402fd1e98aa-0b1c2d3e4f506172"

#: Ways in which a JSON edit refers to its image.
SHAPES: dict[str, dict[str, Any]] = {
    "images as OpenAI has them": {"images": [{"image_url": DATA_URL}]},
    "images as bare data URLs": {"images": [DATA_URL]},
    "one image as a data URL": {"image": DATA_URL},
    "bare base64": {"image": base64.b64encode(RED).decode()},
    "images in the chat form": {"images": [{"image_url": {"url": DATA_URL}}]},
    "an image with url and type": {"image": {"url": DATA_URL, "type": "image_url"}},
}

CASES = [
    # OpenAI's own clients.
    Case("openai-python: a prompt alone", json(G, b'{"prompt":"a fox"}', PYTHON + b"Content-Type: application/json\r\n"), "auto 'a fox'", format="url"),
    Case("openai-python: non-ASCII text as it is, nulls for what is None", json(G, '{"prompt":"狐狸 🦊","model":"gpt-image-2","n":null,"size":null,"quality":null,"stream":null}'.encode()), "auto '狐狸 🦊'"),
    Case("openai-python: one opened file", python_form(text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2"), text(b"n", b"1"), text(b"size", b"1536x1024"), file(b"image", b"a.png", b"image/png", RED)), "1536x1024 'a hat'", (RED,), size="1536x1024"),
    Case("openai-python: a list of files", python_form(text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2"), file(b"image[]", b"a.png", b"image/png", RED), file(b"image[]", b"b.png", b"image/png", GREEN), file(b"mask", b"m.png", b"image/png", CLEAR)), "auto 'a hat", (RED, GREEN, CLEAR)),
    Case("openai-python: bare bytes", python_form(text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2"), file(b"image", b"upload", OCTETS, RED)), "auto 'a hat'", (RED,)),
    Case("openai-python: a file name in raw UTF-8, entries of metadata", python_form(text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2"), text(b"metadata[project]", b"spring"), file(b"image", "猫.png".encode(), b"image/png", RED)), "auto 'a hat'", (RED,)),
    Case("openai-python 0.28: its own multipart, no model", python_form(file(b"image", b"image", OCTETS, RED), text(b"prompt", b"a hat"), text(b"n", b"1"), text(b"size", b"1024x1024")), "1024x1024 'a hat'", (RED,), format="url"),
    Case("openai-node: createReadStream is chunked, files come before the prompt", stream(E, NODE + b"content-type: multipart/form-data; boundary=%s\r\n" % NODE_BOUNDARY, *[NODE_FORM[start : start + 70] for start in range(0, len(NODE_FORM), 70)]), "auto 'a hat'", (RED,)),
    Case("openai-node: a picture given as a data URL is a text field", post(E, NODE + b"content-type: multipart/form-data; boundary=%s\r\n" % NODE_BOUNDARY, form(NODE_BOUNDARY, text(b"image", DATA_URL.encode()), text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2"))), "auto 'a hat'", (RED,)),
    Case("openai-node 4: JSON with line breaks", json(G, b'{\n  "model": "gpt-image-2",\n  "prompt": "a fox"\n}', NODE + b"x-stainless-timeout: 600000\r\ncontent-type: application/json\r\n"), "auto 'a fox'"),
    Case("openai-dotnet: names without quotes, a quoted boundary of 70 characters with =, filename* and no type", post(E, b'Content-Type: multipart/form-data; boundary="%s"\r\n' % NET_BOUNDARY, form(NET_BOUNDARY, part(b"Content-Disposition: form-data; name=image; filename=a.png; filename*=utf-8''a.png", RED), part(b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=prompt", b"a hat"), part(b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=model", b"gpt-image-2"))), "auto 'a hat'", (RED,)),
    Case("openai-java: text parts with a content type", post(E, b"Content-Type: multipart/form-data; boundary=%s\r\n" % JAVA_BOUNDARY, form(JAVA_BOUNDARY, file(b"image", b"a.png", OCTETS, RED), text(b"prompt", b"a hat", JAVA_TEXT), text(b"model", b"gpt-image-2", JAVA_TEXT), text(b"n", b"1", JAVA_TEXT))), "auto 'a hat'", (RED,)),
    Case("openai-java: streams and lists have neither a file name nor a length", stream(E, b"Content-Type: multipart/form-data; boundary=%s\r\n" % JAVA_BOUNDARY, form(JAVA_BOUNDARY, text(b"image[]", RED, JAVA_BYTES), text(b"image[]", GREEN, JAVA_BYTES), text(b"prompt", b"a hat", JAVA_TEXT), text(b"mask", CLEAR, JAVA_BYTES), text(b"model", b"gpt-image-2", JAVA_TEXT))), "auto 'a hat", (RED, GREEN, CLEAR)),
    Case("Retrofit: text parts with a transfer encoding and a length", post(E, b"Content-Type: multipart/form-data; boundary=%s\r\n" % JAVA_BOUNDARY, form(JAVA_BOUNDARY, text(b"prompt", b"a hat", b"\r\nContent-Transfer-Encoding: binary\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5"), text(b"model", b"gpt-image-2", JAVA_TEXT), file(b"image", b"a.png", b"image/png", RED))), "auto 'a hat'", (RED,)),
    # Other libraries.
    Case("Vercel AI SDK: response_format and n always", json(G, b'{"model":"my-model","prompt":"a fox","n":1,"response_format":"b64_json"}', b"accept: */*\r\nuser-agent: ai/7.0.173 ai-sdk-provider-utils/5.0.81 node.js/22\r\ncontent-type: application/json\r\n"), "auto 'a fox'"),
    Case("Vercel AI SDK: an edit whose file is named blob, n as text", post(E, b"accept: */*\r\ncontent-type: multipart/form-data; boundary=%s\r\n" % AI_BOUNDARY, form(AI_BOUNDARY, text(b"model", b"gpt-image-2"), text(b"prompt", b"a hat"), file(b"image", b"blob", b"image/png", RED), file(b"mask", b"blob", b"image/png", CLEAR), text(b"n", b"1"), text(b"moderation", b"low"))), "auto 'a hat", (RED, CLEAR), ignored="moderation"),
    Case("ruby-openai: numbered pictures in any order, an empty content type", post(E, b"Content-Type: multipart/form-data; boundary=%s\r\n" % RUBY_BOUNDARY, form(RUBY_BOUNDARY, text(b"model", b"gpt-image-2"), text(b"prompt", b"a hat"), part(b'Content-Disposition: form-data; name="image[1]"; filename="b.png"\r\nContent-Length: %d\r\nContent-Type: \r\nContent-Transfer-Encoding: binary' % len(GREEN), GREEN), part(b'Content-Disposition: form-data; name="image[0]"; filename="a.png"\r\nContent-Type: ', RED))), "auto 'a hat'", (RED, GREEN)),
    Case("go-openai: empty texts and n=0 for what nobody set", post(E, b"Content-Type: multipart/form-data; boundary=%s\r\nUser-Agent: Go-http-client/1.1\r\n" % GO_BOUNDARY, form(GO_BOUNDARY, file(b"image", b"a.png", OCTETS, RED), text(b"prompt", b"a hat"), text(b"n", b"0"), text(b"size", b""), text(b"response_format", b""))), "auto 'a hat'", (RED,), format="url"),
    Case("LangChain4j: no length, an offer of HTTP/2, a boundary of dashes and its name, pictures repeated and first", stream(E, b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/17.0.15\r\nContent-Type: multipart/form-data; boundary=----langChain4j\r\n", form(b"----langChain4j", file(b"image", b"image", b"image/png", RED), file(b"image", b"image", b"image/png", GREEN), text(b"model", b"gpt-image-2"), text(b"prompt", b"a hat"), text(b"n", b"1"))), "auto 'a hat'", (RED, GREEN)),
    Case("litellm: image[] and the caller's full path", post(E, b"Content-Type: multipart/form-data; boundary=B\r\n", form(b"B", text(b"model", b"gpt-image-2"), text(b"prompt", b"a hat"), file(b"image[]", b"/home/me/pictures/a.png", b"image/png", RED))), "auto 'a hat'", (RED,)),
    Case("Semantic Kernel: an edit without a model, one picture in a list", post(E, b"Content-Type: multipart/form-data; boundary=B\r\n", form(b"B", text(b"prompt", b"a hat"), text(b"n", b"1"), file(b"image[]", b"image_0.png", b"image/png", RED))), "auto 'a hat'", (RED,), format="url"),
    Case("LangChain: dall-e-2's defaults want a link", json(G, b'{"prompt": "a fox", "n": 1, "size": "1024x1024", "model": "dall-e-2"}'), "1024x1024 'a fox'", format="url"),
    Case("LangChain.js: dall-e-3's defaults", json(G, b'{"model":"dall-e-3","prompt":"a fox","n":1,"size":"1024x1024","response_format":"url","style":"vivid","quality":"standard"}'), "1024x1024 'a fox'", format="url", ignored="style", quality="medium"),
    Case("LlamaIndex: dall-e-3's defaults", json(G, b'{"prompt": "a fox", "n": 1, "model": "dall-e-3", "quality": "standard", "size": "1024x1024", "response_format": "url", "style": "vivid"}'), "1024x1024 'a fox'", format="url", ignored="style", quality="medium"),
    Case("Haystack: reads base64 and never asks for it", json(G, b'{"model": "gpt-image-2", "prompt": "a fox", "size": "1024x1024", "quality": "auto", "n": 1}'), "1024x1024 'a fox'"),
    Case("Semantic Kernel: a generation", json(G, b'{"prompt": "a fox", "model": "gpt-image-1", "n": 1, "size": "1024x1024"}'), "1024x1024 'a fox'"),
    Case("Spring AI: its default model", json(G, b'{"prompt":"a fox","model":"gpt-image-1-mini"}', b"content-type: application/json\r\nuser-agent: OpenAI/Java 4.5.0\r\nx-stainless-lang: java\r\n"), "auto 'a fox'"),
    Case("openai-go: names in the order of the alphabet, a reader without a name", post(E, b"Content-Type: multipart/form-data; boundary=%s\r\nUser-Agent: OpenAI/Go 3.1.0\r\n" % GO_BOUNDARY, form(GO_BOUNDARY, file(b"image[]", b"a.png", b"image/png", RED), file(b"image[]", b"anonymous_file", OCTETS, GREEN), text(b"model", b"gpt-image-2"), text(b"prompt", b"a hat"))), "auto 'a hat'", (RED, GREEN)),
    Case("openai-php: a length in every part", post(E, b"content-type: multipart/form-data; boundary=%s\r\n" % PHP_BOUNDARY, form(PHP_BOUNDARY, text(b"model", b"gpt-image-2", b"\r\nContent-Length: 11"), text(b"prompt", b"a hat", b"\r\nContent-Length: 5"), part(b'Content-Disposition: form-data; name="image[]"; filename="a.png"\r\nContent-Length: %d\r\nContent-Type: image/png' % len(RED), RED))), "auto 'a hat'", (RED,)),
    # Applications.
    Case("Dify: the tool for dall-e-3", json(G, b'{"prompt": "a fox", "model": "dall-e-3", "size": "1024x1024", "n": 1, "response_format": "b64_json", "style": "vivid", "quality": "standard"}'), "1024x1024 'a fox'", ignored="style", quality="medium"),
    Case("Dify: the tool for gpt-image-2 sends what is not auto, and n", json(G, b'{"prompt":"a fox","model":"gpt-image-2","n":1}', PYTHON + b"Content-Type: application/json\r\n"), "auto 'a fox'"),
    Case("Dify: an edit with a mask", python_form(text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2"), text(b"n", b"1"), file(b"image[]", b"input_image.png", b"image/png", RED), file(b"mask", b"mask_image.png", b"image/png", CLEAR)), "auto 'a hat", (RED, CLEAR)),
    Case("n8n: a generation", json(G, b'{"prompt":"a fox","model":"gpt-image-1","quality":"medium","size":"1024x1024"}'), "1024x1024 'a fox'", quality="medium"),
    Case("LobeChat: a generation", json(G, b'{"model":"gpt-image-1","n":1,"prompt":"a fox"}'), "auto 'a fox'"),
    Case("Open WebUI: a double slash, an API version, its default size", json(b"/v1//images/generations?api-version=2025-04-01-preview", b'{"model": "gpt-image-2", "prompt": "a fox", "n": 1, "size": "512x512"}'), "1024x1024 'a fox'", size="512x512"),
    Case("Open WebUI: without a model it is dall-e-2, in base64", json(G, b'{"model": "dall-e-2", "prompt": "a fox", "n": 1, "size": "512x512", "response_format": "b64_json"}'), "1024x1024 'a fox'", size="512x512"),
    Case("Open WebUI: an edit, the type before the name in each part", post(E, b"Content-Type: multipart/form-data; boundary=%s\r\n" % AIOHTTP_BOUNDARY, form(AIOHTTP_BOUNDARY, part(b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="model"', b"gpt-image-2"), part(b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="prompt"', b"a hat"), part(b'Content-Type: image/png\r\nContent-Disposition: form-data; name="image[]"; filename="1b4e28ba-2fa1-11d2-883f-0016d3cca427.png"', RED))), "auto 'a hat'", (RED,)),
    Case("LibreChat: the image tool's defaults", json(G, b'{"model":"gpt-image-1","prompt":"a fox","n":1,"background":"auto","output_format":"png","quality":"auto","size":"auto"}'), "auto 'a fox'"),
    Case("LibreChat: a chunked edit", stream(E, b"content-type: multipart/form-data; boundary=--------------------------498105206734\r\n", form(b"--------------------------498105206734", text(b"model", b"gpt-image-1"), text(b"prompt", b"a hat"), text(b"quality", b"auto"), text(b"size", b"auto"), file(b"image[]", b"a.png", b"image/png", RED))), "auto 'a hat'", (RED,)),
    Case("LibreChat: the DALL-E 3 tool", json(G, b'{"model":"dall-e-3","quality":"standard","style":"vivid","size":"1024x1024","prompt":"a fox","n":1}'), "1024x1024 'a fox'", format="url", ignored="style", quality="medium"),
    Case("LobeChat: input_fidelity on every edit", post(E, b"content-type: multipart/form-data; boundary=B\r\n", form(b"B", text(b"model", b"gpt-image-1"), text(b"prompt", b"a hat"), text(b"n", b"1"), text(b"input_fidelity", b"high"), file(b"image", b"image.png", b"image/png", RED))), "auto 'a hat'", (RED,), ignored="input_fidelity"),
    Case("n8n: an edit with all its defaults", post(E, b"content-type: multipart/form-data; boundary=B\r\n", form(b"B", text(b"model", b"gpt-image-1"), text(b"prompt", b"a hat"), text(b"n", b"1"), text(b"size", b"1024x1024"), text(b"quality", b"auto"), file(b"image[]", b"data", b"image/png", RED))), "1024x1024 'a hat'", (RED,)),
    Case("Cherry Studio: the names of SiliconFlow", json(G, b'{"model":"gpt-image-2","prompt":"a fox","negative_prompt":"dogs","image_size":"1536x1024","batch_size":1,"seed":7,"num_inference_steps":20,"guidance_scale":7.5,"prompt_enhancement":false}'), "1536x1024 'a fox'", size="1536x1024", ignored="negative_prompt, batch_size, seed, num_inference_steps, guidance_scale, prompt_enhancement"),
    Case("Cherry Studio: image repeated without brackets", post(E, b"content-type: multipart/form-data; boundary=B\r\n", form(b"B", text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2"), file(b"image", b"a.png", b"image/png", RED), file(b"image", b"b.png", b"image/png", GREEN))), "auto 'a hat'", (RED, GREEN)),
    Case("NextChat: dall-e-3 in base64", json(G, b'{"model":"dall-e-3","prompt":"a fox","response_format":"b64_json","n":1,"size":"1024x1024","quality":"hd","style":"vivid"}', b"origin: https://chat.example\r\ncontent-type: application/json\r\n"), "1024x1024 'a fox'", ignored="style", quality="high"),
    Case("AnythingLLM: a JPEG that is called a PNG", post(E, b"content-type: multipart/form-data; boundary=B\r\n", form(b"B", text(b"model", b"gpt-image-1"), text(b"prompt", b"a hat"), file(b"image", b"reference-0.png", b"image/png", JPEG))), "auto 'a hat'", (JPEG,)),
    Case("a bot of old: another model, another count; a link that Limner keeps has the size that was asked for", json(G, b'{"prompt":"a fox","num_images":1,"model":"image-alpha-001","size":"512x512","response_format":"url"}'), "1024x1024 'a fox'", format="url", size="512x512", ignored="num_images"),
    Case("curl as the reference shows it", post(E, b"User-Agent: curl/8.5.0\r\nAccept: */*\r\nContent-Type: multipart/form-data; boundary=%s\r\n" % CURL_BOUNDARY, form(CURL_BOUNDARY, text(b"model", b"gpt-image-2"), file(b"image[]", b"a.png", b"image/png", RED), file(b"image[]", b"b.png", b"image/png", GREEN), text(b"prompt", b"a hat"))), "auto 'a hat'", (RED, GREEN)),
    Case("Codex CLI: the image tool leaves everything to the model", json(G, b'{"prompt":"a fox","background":"auto","model":"gpt-image-2","quality":"auto","size":"auto"}', CODEX), "auto 'a fox'"),
    Case("Codex CLI: an edit is JSON with data URLs", json(E, orjson.dumps({"images": [{"image_url": DATA_URL}, {"image_url": DATA_URL_OF_GREEN}], "prompt": "a hat", "background": "auto", "model": "gpt-image-2", "quality": "auto", "size": "auto"}), CODEX), "auto 'a hat'", (RED, GREEN)),
    Case("cc-switch: a generation that its local routing forwards", json(G, b'{"background":"auto","model":"gpt-image-2","prompt":"a fox","quality":"auto","size":"auto"}', CODEX + b"accept-encoding: identity\r\n"), "auto 'a fox'"),
    Case("gpt-image-2-skill: a generation, its fields in the order of the alphabet", json(G, b'{"background":"auto","model":"gpt-image-2","n":1,"output_format":"png","prompt":"a fox","quality":"high","size":"1536x1024"}', SKILL), "1536x1024 'a fox'", size="1536x1024", quality="high"),
    Case("gpt-image-2-skill: an edit with a mask", post(E, b"x-client-request-id: 1-1\r\ncontent-type: multipart/form-data; boundary=%s\r\n" % RUST_BOUNDARY, form(RUST_BOUNDARY, text(b"model", b"gpt-image-2"), text(b"prompt", b"a hat"), text(b"background", b"auto"), text(b"output_format", b"png"), text(b"n", b"1"), text(b"moderation", b"auto"), file(b"image[]", b"image-1.png", b"image/png", RED), file(b"mask", b"mask.png", b"image/png", CLEAR))), "auto 'a hat", (RED, CLEAR)),
    # Azure's paths contain the name of the model.
    Case("Azure: the deployment names the model", json(b"/openai/deployments/gpt-image-2/images/generations?api-version=2025-04-01-preview", b'{"prompt":"a fox","n":1}'), "auto 'a fox'"),
    Case("Azure: an edit", post(b"/openai/deployments/dall-e-2/images/edits?api-version=2025-04-01-preview", b"Content-Type: multipart/form-data; boundary=B\r\n", form(b"B", text(b"prompt", b"a hat"), file(b"image[]", b"a.png", b"image/png", RED))), "auto 'a hat'", (RED,), format="url"),
    Case("Azure: a model in the body comes first", json(b"/openai/deployments/dall-e-2/images/generations?api-version=2025-04-01-preview", b'{"prompt":"a fox","model":"gpt-image-2"}'), "auto 'a fox'"),
    # JSON edits.
    *(Case(f"a JSON edit with {name}", json(E, orjson.dumps({"model": "gpt-image-2", "prompt": "a hat"} | shape)), "auto 'a hat'", (RED,)) for name, shape in SHAPES.items()),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_client_gets_its_image(limner: RunningLimner, demo: RunningDemo, case: Case) -> None:
    demo.state.reset()
    reply = send_request(limner.url, case.raw)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply.body[:500]
    assert reply.headers.get("x-limner-ignored") == case.ignored
    size = check(reply.json(), case.format, limner)
    assert size == case.size
    (seen,) = demo.state.requests
    words, pictures = sent_upstream(seen.body)
    # A mask adds an instruction to the prompt.
    assert words.startswith(case.prompt) if CLEAR in case.sent else words == case.prompt
    assert pictures == case.sent
    assert seen.body.get("metadata", {}).get("quality") == case.quality


def check(answer: dict[str, Any], format: str, limner: RunningLimner) -> str:  # noqa: A002
    """Check everything in the response that clients need, and return the size of the image."""
    assert type(answer["created"]) is int
    (item,) = answer["data"]
    assert set(item) == {format}
    usage = answer["usage"]
    assert {type(usage[name]) for name in ("input_tokens", "output_tokens", "total_tokens")} == {int}
    # openai-php and openai-dotnet also read these, and only accept integers.
    details = usage["input_tokens_details"]
    assert set(details) == {"image_tokens", "text_tokens"}
    assert {type(tokens) for tokens in details.values()} == {int}
    if format == "b64_json":
        data = base64.b64decode(item["b64_json"], validate=True)
        assert answer["output_format"] == "png"
    else:
        url = item["url"].encode()
        path = b"/" + url.split(b"/", 3)[3]
        # The host is the one that the client named, so the recorded request decides it.
        data = send_request(limner.url, b"GET %s HTTP/1.1\r\nHost: HOST\r\n\r\n" % path).body
    with Image.open(io.BytesIO(data)) as image:
        return f"{image.width}x{image.height}"


def sent_upstream(body: dict[str, Any]) -> tuple[str, tuple[bytes, ...]]:
    """Return the prompt and the images that reached the upstream."""
    content = body["messages"][0]["content"]
    if isinstance(content, str):
        return content, ()
    urls = [item["image_url"]["url"] for item in content[1:]]
    return content[0]["text"], tuple(base64.b64decode(url.partition(",")[2]) for url in urls)


def test_curl_waits_for_100_continue_before_a_large_body(limner: RunningLimner) -> None:
    body = form(
        CURL_BOUNDARY,
        text(b"model", b"gpt-image-2"),
        file(b"image[]", b"a.png", b"image/png", RED),
        text(b"prompt", b"a hat"),
    )
    head = post(E, b"Expect: 100-continue\r\nContent-Type: multipart/form-data; boundary=%s\r\n" % CURL_BOUNDARY, body)
    with connect(limner.url) as wire:
        wire.send(head.removesuffix(body))
        assert wire.read_response().status == 100
        wire.send(body[:100], body[100:])
        reply = wire.read_response()
    assert reply.status == 200
    assert check(reply.json(), "b64_json", limner) == "1024x1024"


def http_1_0_request(body: bytes, path: bytes, kind: bytes) -> bytes:
    head = b"POST %s HTTP/1.0\r\nHost: HOST\r\n%sContent-Type: %s\r\nConnection: close\r\n" % (path, AUTH, kind)
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def send_http_1_0(
    limner: RunningLimner, body: bytes, path: bytes = G, kind: bytes = b"application/json"
) -> RawResponse:
    """Send an HTTP/1.0 request as nginx does by default, and check that the response ends with the connection."""
    with connect(limner.url) as wire:
        wire.send(http_1_0_request(body, path, kind).replace(b"HOST", wire.host.encode()))
        reply = wire.read_response()
        assert wire.read_to_end() == b""
    assert "transfer-encoding" not in reply.headers
    return reply


def test_an_http_1_0_client_gets_no_chunks(limner: RunningLimner) -> None:
    reply = send_http_1_0(limner, b'{"model":"gpt-image-2","prompt":"a fox"}')
    assert check(reply.json(), "b64_json", limner) == "1024x1024"


def test_an_http_1_0_client_edits(limner: RunningLimner) -> None:
    body = form(b"B", text(b"prompt", b"a hat"), text(b"model", b"gpt-image-2"), file(b"image", b"a.png", OCTETS, RED))
    reply = send_http_1_0(limner, body, E, b"multipart/form-data; boundary=B")
    assert check(reply.json(), "b64_json", limner) == "1024x1024"


def test_an_http_1_0_client_gets_no_chunks_even_for_a_stream(limner: RunningLimner) -> None:
    reply = send_http_1_0(limner, b'{"model":"gpt-image-2","prompt":"a fox","stream":true}')
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.startswith(b"event: image_generation.completed\ndata: {")
    assert reply.body.endswith(b"}\n\n")


def test_three_requests_sent_at_once_are_answered_in_order(limner: RunningLimner, demo: RunningDemo) -> None:
    bodies = [
        b'{"model":"gpt-image-2","prompt":"%d","size":"%s"}' % (number, size)
        for number, size in enumerate((b"1024x1024", b"1536x1024", b"1024x1536"))
    ]
    with connect(limner.url) as wire:
        wire.send(b"".join(json(G, body) for body in bodies).replace(b"HOST", wire.host.encode()))
        sizes = [check(wire.read_response().json(), "b64_json", limner) for _ in bodies]
    assert sizes == ["1024x1024", "1536x1024", "1024x1536"]


def test_a_stream_over_http_1_1_is_chunked_and_ends_each_event(limner: RunningLimner) -> None:
    body = b'{"model":"gpt-image-2","prompt":"a fox","stream":true,"partial_images":0}'
    reply = send_request(limner.url, json(G, body, PYTHON + b"Content-Type: application/json\r\n"))
    assert reply.headers["transfer-encoding"] == "chunked"
    assert reply.headers["content-type"].startswith("text/event-stream")
    *remarks, event, end = reply.body.split(b"\n\n")
    assert all(remark.startswith(b": x-limner-") for remark in remarks)
    event, data = event.split(b"\n")
    assert event == b"event: image_generation.completed"
    assert orjson.loads(data.removeprefix(b"data: "))["type"] == "image_generation.completed"
    assert end == b""


@pytest.mark.parametrize("text_type", [b"application/json", b"multipart/form-data; boundary=B"])
def test_an_edit_without_an_image_names_the_missing_field(limner: RunningLimner, text_type: bytes) -> None:
    body = form(b"B", text(b"prompt", b"a hat")) if b"form" in text_type else b'{"prompt":"a hat"}'
    reply = send_request(limner.url, post(E, b"Content-Type: %s\r\n" % text_type, body))
    param = "image" if b"form" in text_type else "images"
    error = reply.json()["error"]
    assert (reply.status, error["param"], error["code"]) == (400, param, "missing_required_parameter")
