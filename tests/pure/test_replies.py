"""Every reply form of the two tables, every row of FORMS, hostile texts."""

import pytest

from app.errors import UpstreamBroken
from app.pure.chat import read_reply
from app.pure.replies import find_images
from tests.replies import Row, read_rows

ROWS = read_rows("replies.jsonl")


def urls_of(row: Row) -> tuple[str, ...]:
    try:
        reply = read_reply(row.body)
    except UpstreamBroken:
        return ()
    return tuple(image.url for image in find_images(reply, row.sent))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_known_reply_form_gives_exactly_its_images(row: Row) -> None:
    assert urls_of(row) == row.expected
