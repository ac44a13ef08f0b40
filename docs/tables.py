"""Writes the tables of README.md that come from the code: settings and parameters."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from app.config.field_types import variable
from app.config.settings import SECRETS, Settings
from app.images.transcode import InputLimits
from app.protocol.image_request import PARAMETERS
from app.protocol.parameters import BOTH, ONLY_EDIT, ONLY_GENERATION, Parameter

README = Path(__file__).parents[1] / "README.md"

_OPERATIONS = {BOTH: "both", ONLY_GENERATION: "generations", ONLY_EDIT: "edits"}

#: Defaults that depend on the user who runs the server.
_COMPUTED_DEFAULTS = {"image_store": "`~/.local/state/limner/images`, or below `XDG_STATE_HOME`"}


def settings_table() -> str:
    return _table(("variable", "default", "meaning"), _setting_rows())


def _setting_rows() -> Iterator[tuple[str, str, str | None]]:
    """Yield a row for each variable; that of a secret is followed by that of the file with the secret."""
    for name, field in Settings.model_fields.items():
        yield f"`{variable(name)}`", _default(name, field), field.description
        if name in SECRETS:
            yield f"`{variable(f'{name}_file')}`", "unset", f"A file that contains `{variable(name)}`, in its place."


def _default(name: str, field: FieldInfo) -> str:
    """Return the default as one would write it into `.env`, where it is copied to."""
    if name in _COMPUTED_DEFAULTS:
        return _COMPUTED_DEFAULTS[name]
    if field.is_required():
        return "required"
    match field.default:
        case None | ():
            return "unset"
        case bool(value):
            return f"`{str(value).lower()}`"
        case ByteSize() as size:
            return f"`{size.human_readable().replace('.0', '')}`"
        case InputLimits(int(max_bytes), max_edge):
            return f"`{ByteSize(max_bytes).human_readable().replace('.0', '')},{max_edge}`"
        case tuple(values):
            return f"`{','.join(map(str, values))}`"
    return f"`{field.default}`"


def parameters_table() -> str:
    rows = (
        (
            _names(parameter),
            _OPERATIONS[parameter.operations],
            parameter.type.describe(),
            parameter.destination.value,
            parameter.description,
        )
        for parameter in PARAMETERS
    )
    return _table(("parameter", "of", "values", "where it goes", "meaning"), rows)


def _names(parameter: Parameter) -> str:
    name = ", ".join(f"`{name}`" for name in dict.fromkeys((*parameter.names(form=False), *parameter.names(form=True))))
    return f"{name} (required)" if parameter.required else name


def _table(head: Iterable[str], rows: Iterable[Iterable[str | None]]) -> str:
    head = tuple(head)
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join((cell or '').replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


TABLES: dict[str, Callable[[], str]] = {"settings": settings_table, "parameters": parameters_table}


def with_tables(text: str) -> str:
    """Replace each table in the text of the README, between its two comments."""
    for name, make in TABLES.items():
        above, opening, rest = text.partition(f"<!-- {name}: made by `make docs-tables` -->\n")
        _, closing, below = rest.partition(f"<!-- end of {name} -->")
        if not closing:
            raise SystemExit(f"README.md has no place for the table of {name}")
        text = f"{above}{opening}\n{make()}\n\n{closing}{below}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
