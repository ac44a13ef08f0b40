"""URLs of images: unguessable, public, limited in number, and failing where configured."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from app.demo.image_host import HostedImage, ImageHost
from tests.support.servers import serve


def test_names_cannot_be_guessed() -> None:
    image_host = ImageHost()
    names = {image_host.add(HostedImage(b"x", "image/png"), ".png") for _ in range(20)}
    assert len(names) == 20
    assert all(len(name) >= 26 and name.endswith(".png") for name in names)


def test_the_oldest_images_are_dropped_first() -> None:
    image_host = ImageHost(max_images=3, max_bytes=10)
    for _ in range(5):
        image_host.add(HostedImage(b"x", "image/png"), "")
    assert len(image_host) == 3
    image_host.add(HostedImage(b"x" * 9, "image/png"), "")
    assert len(image_host) == 2
    image_host.add(HostedImage(b"x" * 99, "image/png"), "")
    assert len(image_host) == 1


def test_urls_that_work_and_urls_that_fail_at_first() -> None:
    image_host = ImageHost()
    png, missing, moved, cut = (
        "/images/" + image_host.add(image, ".png")
        for image in (
            HostedImage(b"image!!", "image/png"),
            HostedImage(b"image!!", "image/png", not_found_count=2),
            HostedImage(b"image!!", "image/png", redirect_count=2),
            HostedImage(b"image!!", "image/png", truncated_count=1),
        )
    )
    app = Starlette(routes=[Route("/images/{name}", image_host.serve)])
    with serve(app) as url, httpx.Client(base_url=url) as client:
        answer = client.get(png)
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"image!!", "image/png")
        assert answer.headers["access-control-allow-origin"] == "*"
        head = client.head(png)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "7")
        assert image_host.downloads == 1
        assert [client.get(missing).status_code for _ in range(3)] == [404, 404, 200]
        followed = client.get(moved, follow_redirects=True)
        assert (len(followed.history), followed.content) == (2, b"image!!")
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(cut)
        assert client.get(cut).content == b"image!!"
        assert client.get("/images/guess.png").status_code == 404
    image_host.clear()
    assert (len(image_host), image_host.downloads) == (0, 0)
