"""What there is to know about one parameter of the Images API: its kind, where it goes, who has it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from app.pure.kinds import Boolean, Choice, Integer, Object, Pairs, Schema, Text
from app.pure.pictures import OnePicture, PictureList
from app.pure.sizes import SizeText


class Operation(StrEnum):
    GENERATION = "image_generation"
    EDIT = "image_edit"


class Goes(StrEnum):
    """Where a parameter goes, in the words of the README."""

    MESSAGE = "upstream, in the message"
    PREFIX = "upstream, in front of the prompt"
    METADATA = "upstream, in `metadata`"
    TOP_LEVEL = "upstream, top level"
    HERE = "handled here"
    NOWHERE = "no effect"


BOTH = frozenset(Operation)
ONLY_GENERATION = frozenset({Operation.GENERATION})
ONLY_EDIT = frozenset({Operation.EDIT})


@dataclass(frozen=True, slots=True)
class Parameter:
    """`in_json` and `in_form` are the names that clients use, `name` where empty; the first one given counts."""

    kind: Text | Integer | Boolean | Choice | Object | Pairs | SizeText | OnePicture | PictureList
    goes: Goes
    description: str
    operations: frozenset[Operation] = BOTH
    required: bool = False
    examples: tuple[Any, ...] = ()
    in_json: tuple[str, ...] = ()
    in_form: tuple[str, ...] = ()
    name: str = ""

    @property
    def is_picture(self) -> bool:
        return isinstance(self.kind, OnePicture | PictureList)

    def names(self, form: bool) -> tuple[str, ...]:
        return (self.in_form if form else self.in_json) or (self.name,)

    def schema(self, form: bool) -> Schema:
        """JSON has a null that means absent; a form has not."""
        own = self.kind.schema(form)
        described: Schema = own if form or self.required else {"anyOf": [own, {"type": "null"}]}
        examples = {"examples": list(self.examples)} if self.examples else {}
        return described | {"description": self.description} | examples
