"""Progress and images on terminals, and elsewhere."""

import base64
import io
import re

import pytest

from app.cli.terminal import TERMINAL_PROTOCOLS, Progress, kitty_sequences, show_image
from tests.support.sample_images import noise, saved
from tests.support.terminal import Terminal

PNG, JPEG = saved(noise((120, 90)), "PNG"), saved(noise((120, 90)), "JPEG")


def test_on_a_terminal_one_line_is_drawn_again_and_again() -> None:
    now = [10.0]
    terminal = Terminal()
    progress = Progress(terminal, lambda: now[0])
    progress.update("waiting")
    now[0] = 12.34
    progress.draw()
    progress.clear()
    assert terminal.getvalue() == "\r\x1b[K   0.0 s  waiting\r\x1b[K   2.3 s  waiting\r\x1b[K"


def test_elsewhere_each_new_message_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(clock=lambda: 3.0)
    progress.update("waiting")
    progress.draw()
    progress.clear()
    assert capsys.readouterr().err == "   0.0 s  waiting\n"


@pytest.mark.parametrize("name", TERMINAL_PROTOCOLS)
def test_an_image_is_shown_in_the_protocol_of_the_terminal(name: str) -> None:
    terminal = Terminal()
    show_image(PNG, ("xterm-256color", name), terminal)
    written = terminal.getvalue()
    assert written.endswith("\n")
    if TERMINAL_PROTOCOLS[name] == "iterm2":
        head, _, data = written.rstrip("\a\n").partition(":")
        assert head == f"\x1b]1337;File=inline=1;width=60;size={len(PNG)}"
        assert base64.b64decode(data) == PNG
    else:
        chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", written)
        assert chunks[0][0] == "a=T,f=100,q=2,c=60,m=1"
        assert {control for control, _ in chunks[1:-1]} == {"m=1"}
        assert chunks[-1][0] == "m=0"
        assert max(len(data) for _, data in chunks) == 4096
        assert base64.b64decode("".join(data for _, data in chunks)) == PNG


def test_a_small_image_is_one_chunk() -> None:
    assert list(kitty_sequences(b"\x89PNG")) == ["\x1b_Ga=T,f=100,q=2,c=60,m=0;iVBORw==\x1b\\"]


def test_nothing_is_shown_if_the_terminal_cannot() -> None:
    for image, names, stream in (
        (PNG, ("xterm-256color",), Terminal()),
        (PNG, ("xterm-kitty",), io.StringIO()),
        (JPEG, ("xterm-256color", "Apple_Terminal"), Terminal()),
    ):
        show_image(image, names, stream)
        assert stream.getvalue() == ""
    terminal = Terminal()
    show_image(JPEG, ("xterm-kitty",), terminal)
    assert terminal.getvalue() == ""
