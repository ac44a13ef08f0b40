"""Google's and Azure's object stores as far as Limner asks them: no free server of theirs can be had as a package.

Objects are kept in memory. Whoever comes with neither a key nor a signature is turned away; signatures are not
recomputed, that is the business of the library which makes them.
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
class Thing:
    data: bytes
    type: str
    cache: str
    modified: float


@dataclass(slots=True)
class Clouds:
    """`things` by path; `parts` of uploads under way by path; `down` makes every answer a 503 that says it."""

    things: dict[str, Thing] = field(default_factory=dict)
    parts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    down: str = ""

    def put(self, path: str, data: bytes, http: Request, prefix: str = "") -> Response:
        told = http.headers
        self.things[path] = Thing(
            data, told.get(f"{prefix}content-type", ""), told.get(f"{prefix}cache-control", ""), time.time()
        )
        return Response(status_code=201 if prefix else 200, headers={"etag": '"1"'} | dated(self.things[path]))

    def join(self, path: str, ids: list[str], http: Request, prefix: str = "") -> Response:
        parts = self.parts.pop(path)
        answer = self.put(path, b"".join(parts[id] for id in ids), http, prefix)  # noqa: A001
        answer.body = b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>"
        answer.headers["content-length"] = str(len(answer.body))
        return answer


def dated(thing: Thing) -> dict[str, str]:
    return {"last-modified": formatdate(thing.modified, usegmt=True)}


def create_clouds() -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.state.clouds = clouds = Clouds()

    @app.api_route("/{path:path}", methods=["GET", "HEAD", "PUT", "POST", "DELETE"])
    async def answer(path: str, http: Request) -> Response:
        if clouds.down:
            return Response(f"away, said {clouds.down}", status_code=503)
        asked = http.query_params
        signed = {"X-Goog-Signature", "sig"} & asked.keys()
        # A service account for tests gets no token: it is known by its library.
        known = "authorization" in http.headers or "object_store" in http.headers.get("user-agent", "")
        if not (signed and http.method == "GET") and not known:
            return Response(status_code=403)
        body = await http.body()
        if "comp" in asked or "x-ms-version" in http.headers:
            return azure(clouds, path, body, http)
        return google(clouds, path, body, http)

    return app


def google(clouds: Clouds, path: str, body: bytes, http: Request) -> Response:
    asked = http.query_params
    if "uploads" in asked:
        clouds.parts[path] = {}
        http.app.state.upload = http
        return Response("<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
    if "partNumber" in asked:
        clouds.parts[path][asked["partNumber"]] = body
        return Response(headers={"etag": f'"{asked["partNumber"]}"'})
    if "uploadId" in asked and http.method == "POST":
        return clouds.join(path, re.findall("<PartNumber>([^<]*)</PartNumber>", body.decode()), http.app.state.upload)
    if "list-type" in asked:
        item = "<Contents><Key>{}</Key><Size>{}</Size><LastModified>{:%FT%TZ}</LastModified></Contents>"
        return listing(clouds, path, asked["prefix"], "<ListBucketResult>{}</ListBucketResult>", item)
    return plain(clouds, path, http) or clouds.put(path, body, http)


def azure(clouds: Clouds, path: str, body: bytes, http: Request) -> Response:
    asked = http.query_params
    if asked.get("comp") == "block":
        clouds.parts.setdefault(path, {})[asked["blockid"]] = body
        return Response(status_code=201)
    if asked.get("comp") == "blocklist":
        return clouds.join(path, re.findall("<Uncommitted>([^<]*)</Uncommitted>", body.decode()), http, "x-ms-blob-")
    if asked.get("comp") == "list":
        item = (
            "<Blob><Name>{}</Name><Properties><Content-Length>{}</Content-Length><Content-Type>image/png</Content-Type>"
            "<Last-Modified>{:%a, %d %b %Y %T GMT}</Last-Modified></Properties></Blob>"
        )
        whole = "<EnumerationResults><Blobs>{}</Blobs><NextMarker/></EnumerationResults>"
        return listing(clouds, path, asked["prefix"], whole, item)
    if asked.get("comp") == "batch":
        return remove_batch(clouds, body)
    return plain(clouds, path, http) or clouds.put(path, body, http, "x-ms-blob-")


def plain(clouds: Clouds, path: str, http: Request) -> Response | None:
    """GET, HEAD and DELETE are alike."""
    if http.method == "PUT":
        return None
    if path not in clouds.things:
        return Response(status_code=404)
    if http.method == "DELETE":
        del clouds.things[path]
        return Response(status_code=204)
    thing = clouds.things[path]
    headers = {"content-type": thing.type, "cache-control": thing.cache, "etag": '"1"', "x-ms-blob-type": "BlockBlob"}
    part = re.fullmatch("bytes=([0-9]+)-([0-9]+)", http.headers.get("range", ""))
    if part is None:
        return Response(thing.data, headers=headers | dated(thing))
    first, last = int(part[1]), min(int(part[2]), len(thing.data) - 1)
    headers["content-range"] = f"bytes {first}-{last}/{len(thing.data)}"
    return Response(thing.data[first : last + 1], 206, headers=headers | dated(thing))


def listing(clouds: Clouds, bucket: str, prefix: str, whole: str, item: str) -> Response:
    within = f"{bucket.strip('/')}/"
    found = {
        path.removeprefix(within): thing for path, thing in clouds.things.items() if path.startswith(within + prefix)
    }
    times = {path: datetime.fromtimestamp(thing.modified, UTC) for path, thing in found.items()}
    items = "".join(item.format(path, len(thing.data), times[path]) for path, thing in found.items())
    return Response(whole.format(items), media_type="application/xml")


def remove_batch(clouds: Clouds, body: bytes) -> Response:
    """Azure's way to delete many: requests as parts of a form, answered in kind."""
    answers = []
    for number, path in enumerate(re.findall(rb"DELETE /([^ ]*) HTTP", body)):
        del clouds.things[path.decode()]
        answers.append(
            f"--b\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n\r\n"
        )
    return Response("".join(answers) + "--b--\r\n", 202, {"content-type": "multipart/mixed; boundary=b"})
