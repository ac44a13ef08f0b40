"""Which pictures of a growing reply are only on the way to the one asked for."""

from collections.abc import Sequence

from app.pure.replies import FoundImage


class Previews:
    """All but the newest picture, which may be the final one; each is named once, `limit` in all."""

    def __init__(self, limit: int) -> None:
        self.wanted = limit
        self._seen: dict[str, FoundImage] = {}

    def overtaken_by(self, images: Sequence[FoundImage]) -> list[FoundImage]:
        new = [image for image in images if image.url not in self._seen]
        if not new:
            return []
        overtaken = [*list(self._seen.values())[-1:], *new[:-1]][: self.wanted]
        self._seen.update((image.url, image) for image in new)
        self.wanted -= len(overtaken)
        return overtaken
