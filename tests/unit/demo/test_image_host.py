"""Links to pictures: unguessable, open to all, bounded, odd where they are told to be."""

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from app.demo.image_host import HostedImage, ImageHost
from tests.support.servers import serve


def test_names_cannot_be_guessed() -> None:
    gallery = ImageHost()
    names = {gallery.add(HostedImage(b"x", "image/png"), ".png") for _ in range(20)}
    assert len(names) == 20
    assert all(len(name) >= 26 and name.endswith(".png") for name in names)


def test_the_oldest_go_first() -> None:
    gallery = ImageHost(max_images=3, max_bytes=10)
    for _ in range(5):
        gallery.add(HostedImage(b"x", "image/png"), "")
    assert len(gallery) == 3
    gallery.add(HostedImage(b"x" * 9, "image/png"), "")
    assert len(gallery) == 2
    gallery.add(HostedImage(b"x" * 99, "image/png"), "")
    assert len(gallery) == 1


def test_links() -> None:
    gallery = ImageHost()
    png, missing, moved, cut = (
        "/images/" + gallery.add(exhibit, ".png")
        for exhibit in (
            HostedImage(b"picture", "image/png"),
            HostedImage(b"picture", "image/png", not_found_count=2),
            HostedImage(b"picture", "image/png", redirect_count=2),
            HostedImage(b"picture", "image/png", truncated_count=1),
        )
    )
    app = Starlette(routes=[Route("/images/{name}", gallery.serve)])
    with serve(app) as url, httpx.Client(base_url=url) as client:
        answer = client.get(png)
        assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"picture", "image/png")
        assert answer.headers["access-control-allow-origin"] == "*"
        head = client.head(png)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "7")
        assert gallery.downloads == 1
        assert [client.get(missing).status_code for _ in range(3)] == [404, 404, 200]
        followed = client.get(moved, follow_redirects=True)
        assert (len(followed.history), followed.content) == (2, b"picture")
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(cut)
        assert client.get(cut).content == b"picture"
        assert client.get("/images/guess.png").status_code == 404
    gallery.clear()
    assert (len(gallery), gallery.downloads) == (0, 0)
