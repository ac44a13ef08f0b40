"""An upstream that answers with images of any size and format, whatever was requested."""

import base64
import random
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from tests.support.sample_images import exif, gradient, saved

FORMATS = [
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "L", {}),
    ("PNG", "P", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"exif": exif(6)}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {}),
    ("GIF", "P", {}),
]


def random_image(numbers: random.Random) -> bytes:
    """Return a small file of any format and shape."""
    image_format, mode, options = numbers.choice(FORMATS)
    size = numbers.choice([(numbers.randint(1, 90), numbers.randint(1, 90)), (40, 30), (48, 48), (200, 3)])
    return saved(gradient(mode, size), image_format, **options)


@dataclass
class WaywardUpstream:
    """Answers what it likes: an image of any size, in the reply or behind a link. `sent` are the requested sizes."""

    numbers: random.Random = field(default_factory=lambda: random.Random(5))
    images: list[bytes] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    answer: bytes | None = None

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/chat/completions")
        async def complete(http: Request) -> dict[str, Any]:
            body = await http.json()
            content = body["messages"][0]["content"]
            text = content if isinstance(content, str) else content[0]["text"]
            self.sent.append(text.partition(" ")[0])
            data = random_image(self.numbers) if self.answer is None else self.answer
            self.images.append(data)
            link = str(http.url_for("image", number=len(self.images) - 1))
            url = f"data:image/png;base64,{base64.b64encode(data).decode()}" if self.numbers.random() < 0.5 else link
            return {"choices": [{"message": {"content": f"![image]({url})"}, "finish_reason": "stop"}]}

        @app.get("/image/{number}.png")
        async def image(number: int) -> Response:
            return Response(self.images[number], media_type="image/png")

        return app
