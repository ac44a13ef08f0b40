"""Imitations of Google's and Azure's object stores, as far as Limner uses them.

No free implementation of these is available as a package. Objects are kept in memory. A request with neither a key nor a
signature is rejected; signatures are not verified, since the library that makes them is tested elsewhere.
"""

import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response


@dataclass(frozen=True, slots=True)
class StoredObject:
    data: bytes
    type: str
    cache: str
    modified: float


@dataclass(slots=True)
class Clouds:
    """The state of both.

    Attributes:
        objects: All objects by path.
        parts: The parts of unfinished uploads, by path.
        down: If set, every response is a 503 with this text.
    """

    objects: dict[str, StoredObject] = field(default_factory=dict)
    parts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    down: str = ""

    def put(self, path: str, data: bytes, http: Request, prefix: str = "") -> Response:
        headers = http.headers
        self.objects[path] = StoredObject(
            data, headers.get(f"{prefix}content-type", ""), headers.get(f"{prefix}cache-control", ""), time.time()
        )
        return Response(status_code=201 if prefix else 200, headers={"etag": '"1"'} | dated(self.objects[path]))

    def join(self, path: str, ids: list[str], http: Request, prefix: str = "") -> Response:
        parts = self.parts.pop(path)
        answer = self.put(path, b"".join(parts[id] for id in ids), http, prefix)  # noqa: A001
        answer.body = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
        answer.headers["content-length"] = str(len(answer.body))
        return answer


def dated(stored: StoredObject) -> dict[str, str]:
    return {"last-modified": formatdate(stored.modified, usegmt=True)}


def create_clouds() -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.state.clouds = clouds = Clouds()

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "PUT", "POST", "DELETE"])
    async def respond(path: str, http: Request) -> Response:
        if clouds.down:
            return Response(f"unavailable: {clouds.down}", status_code=503)
        query = http.query_params
        signed = {"X-Goog-Signature", "sig"} & query.keys()
        # A service account for tests gets no token, so it is recognized by its library.
        authorized = "authorization" in http.headers or "object_store" in http.headers.get("user-agent", "")
        if not (signed and http.method == "GET") and not authorized:
            return Response(status_code=403)
        body = await http.body()
        if "comp" in query or "x-ms-version" in http.headers:
            return azure(clouds, path, body, http)
        return google(clouds, path, body, http)

    return app


def google(clouds: Clouds, path: str, body: bytes, http: Request) -> Response:
    query = http.query_params
    if "uploads" in query:
        clouds.parts[path] = {}
        http.app.state.upload = http
        return Response("<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
    if "partNumber" in query:
        clouds.parts[path][query["partNumber"]] = body
        return Response(headers={"etag": f'"{query["partNumber"]}"'})
    if "uploadId" in query and http.method == "POST":
        return clouds.join(path, re.findall("<PartNumber>([^<]*)</PartNumber>", body.decode()), http.app.state.upload)
    if "list-type" in query:
        item = "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{:%FT%TZ}</LastModified></Contents>"
        return listing(clouds, path, query["prefix"], "<ListBucketResult>{}</ListBucketResult>", item)
    return answer_plain(clouds, path, http) or clouds.put(path, body, http)


def azure(clouds: Clouds, path: str, body: bytes, http: Request) -> Response:
    query = http.query_params
    if query.get("comp") == "block":
        clouds.parts.setdefault(path, {})[query["blockid"]] = body
        return Response(status_code=201)
    if query.get("comp") == "blocklist":
        return clouds.join(path, re.findall("<Uncommitted>([^<]*)</Uncommitted>", body.decode()), http, "x-ms-blob-")
    if query.get("comp") == "list":
        item = (
            "<Blob><Name>{}</Name><Properties><Content-Length>{}</Content-Length><Content-Type>image/png</Content-Type>"
            "<Last-Modified>{:%a, %d %b %Y %T GMT}</Last-Modified></Properties></Blob>"
        )
        whole = "<EnumerationResults><Blobs>{}</Blobs><NextMarker/></EnumerationResults>"
        return listing(clouds, path, query["prefix"], whole, item)
    if query.get("comp") == "batch":
        return remove_batch(clouds, body)
    return answer_plain(clouds, path, http) or clouds.put(path, body, http, "x-ms-blob-")


def answer_plain(clouds: Clouds, path: str, http: Request) -> Response | None:
    """Answer GET, HEAD and DELETE, which are the same for both providers."""
    if http.method == "PUT":
        return None
    if path not in clouds.objects:
        return Response(status_code=404)
    if http.method == "DELETE":
        del clouds.objects[path]
        return Response(status_code=204)
    stored = clouds.objects[path]
    headers = {"content-type": stored.type, "cache-control": stored.cache, "etag": '"1"', "x-ms-blob-type": "BlockBlob"}
    part = re.fullmatch("bytes=([0-9]+)-([0-9]+)", http.headers.get("range", ""))
    if part is None:
        return Response(stored.data, headers=headers | dated(stored))
    first, last = int(part[1]), min(int(part[2]), len(stored.data) - 1)
    headers["content-range"] = f"bytes {first}-{last}/{len(stored.data)}"
    return Response(stored.data[first : last + 1], 206, headers=headers | dated(stored))


def listing(clouds: Clouds, bucket: str, prefix: str, whole: str, item: str) -> Response:
    within = f"{bucket.strip('/')}/"
    found = {
        path.removeprefix(within): stored for path, stored in clouds.objects.items() if path.startswith(within + prefix)
    }
    times = {path: datetime.fromtimestamp(stored.modified, UTC) for path, stored in found.items()}
    items = "".join(item.format(path, len(stored.data), times[path]) for path, stored in found.items())
    return Response(whole.format(items), media_type="application/xml")


def remove_batch(clouds: Clouds, body: bytes) -> Response:
    """Delete several objects. Azure sends a multipart body with one request in each part, and expects the same back."""
    answers = []
    for number, path in enumerate(re.findall(rb"DELETE /([^ ]*) HTTP", body)):
        del clouds.objects[path.decode()]
        answers.append(
            f"--b\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n\r\n"
        )
    return Response("".join(answers) + "--b--\r\n", 202, {"content-type": "multipart/mixed; boundary=b"})
