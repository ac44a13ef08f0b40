"""Where settings come from besides variables: files that hold one secret each, and the TOML configuration file.

Each source also returns, under the key `ORIGINS`, where its values were found, for messages.
"""

import tomllib
from collections.abc import Callable, Collection, Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, InitSettingsSource

from app.config.field_types import PREFIX, read_secret_file, variable
from app.config.spellings import decode_file, encoding_of

#: The configuration file that is read when no variable names another one.
CONFIG_FILE = "limner.toml"
#: The file of variables, in the folder where Limner is started.
DOT_ENV = ".env"

#: A key beside the settings; with its spaces it cannot be the name of one. Its value maps fields to their `Origin`.
ORIGINS = "origins of settings"


class Origin(NamedTuple):
    """Where a setting is written: a variable, or a key of the configuration file."""

    name: str
    file: Path | None = None

    def locate(self, inside: str = "") -> str:
        """Return this for messages, like `port in limner.toml`; `inside` leads into the value, like `[0].name`."""
        return f"{self.name}{inside}" if self.file is None else f"{self.name}{inside} in {self.file}"


def origin_of(field: str, origins: Mapping[str, Origin]) -> Origin:
    """Return where a setting is written: its own variable if nothing else is known."""
    return origins.get(field) or Origin(variable(field))


def dot_env_source(settings_type: type[BaseSettings]) -> DotEnvSettingsSource:
    """Return the source that reads `.env`, in UTF-8, or in UTF-16 as shells of Windows write files.

    Raises:
        ValidationError: The file is neither.
    """
    try:
        start = Path(DOT_ENV).read_bytes()[:2] if Path(DOT_ENV).is_file() else b""
        return DotEnvSettingsSource(settings_type, env_file=DOT_ENV, env_file_encoding=encoding_of(start))
    except UnicodeDecodeError:
        raise _invalid(f"{DOT_ENV}: is not UTF-8") from None


class FileSecretsSource(InitSettingsSource):
    """Read secrets from the files that `LIMNER_<NAME>_FILE` variables name.

    `secrets` are the fields that may come from a file.

    Raises:
        ValidationError: A file cannot be read or is empty, or the secret itself is set too.
    """

    def __init__(self, settings_type: type[BaseSettings], secrets: Collection[str]) -> None:
        super().__init__(settings_type, _variables(settings_type))
        self._secrets = secrets

    def __call__(self) -> dict[str, Any]:
        found = _read_secrets(self.init_kwargs, self._secrets, lambda field: Origin(variable(field)))
        return _without_set(found, self.current_state.keys())


def _variables(settings_type: type[BaseSettings]) -> dict[str, str | None]:
    """Return all variables of the environment and `.env` that are not empty, in lower case and without prefix."""
    given = {**dot_env_source(settings_type).env_vars, **EnvSettingsSource(settings_type).env_vars}
    prefix = PREFIX.lower()
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


class ConfigFileSource(InitSettingsSource):
    """Read settings from the TOML file that `LIMNER_CONFIG` names, or from `limner.toml` if that exists.

    pydantic-settings' own TOML source is of no use here: it ignores a file that does not exist, and wants to know the
    name before the variables have been read.

    Raises:
        ValidationError: The file cannot be read, is not TOML, or holds a key that is not a setting.
    """

    def __init__(self, settings_type: type[BaseSettings], secrets: Collection[str]) -> None:
        super().__init__(settings_type, {})
        self._secrets = secrets

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config")
        path = Path(named or CONFIG_FILE)
        if not named and not path.is_file():
            return {}
        # A variable that names one upstream replaces the list in a file that only happens to be in this folder.
        replaced = {"upstreams"} if not named and "upstream_base_url" in self.current_state else set()
        return _without_set(self._read(path), self.current_state.keys() | replaced) | {"config": path}

    def _read(self, path: Path) -> dict[str, Any]:
        """Return what the file sets, and under `ORIGINS` where."""
        try:
            table = tomllib.loads(decode_file(path.read_bytes()))
        except OSError as error:
            raise _invalid(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise _invalid(f"{path}: is not UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            # The message names line and column, and quotes no values.
            raise _invalid(f"{path}: is not TOML: {error}") from None
        secret_files = {f"{field}_file" for field in self._secrets}
        names = self.settings_cls.model_fields.keys() - {"config"} | secret_files
        if unknown := [f"{path}: unknown setting {key!r}" for key in table if key not in names]:
            raise _invalid(*unknown)
        secrets = _read_secrets(table, self._secrets, lambda field: Origin(field, path))
        values = {field: value for field, value in table.items() if field not in secret_files}
        origins = {field: Origin(field, path) for field in values}
        return values | secrets | {ORIGINS: origins | secrets[ORIGINS]}


def _without_set(found: Mapping[str, Any], fields: Container[str]) -> dict[str, Any]:
    """Leave out the fields that an earlier source has set, and their origins."""
    origins = {field: origin for field, origin in found[ORIGINS].items() if field not in fields}
    return {field: found[field] for field in origins} | {ORIGINS: origins}


def _read_secrets(
    given: Mapping[str, Any], secrets: Collection[str], origin: Callable[[str], Origin]
) -> dict[str, Any]:
    """Return the content of each file that is named in `given` as `<field>_file`, by field, and the origins.

    `origin` returns where a key of `given` is written.
    """
    found: dict[str, Any] = {ORIGINS: {}}
    for field in secrets:
        path = given.get(f"{field}_file")
        if path is None:
            continue
        found[ORIGINS][field] = file_setting = origin(f"{field}_file")
        if field in given:
            raise _invalid(
                f"{file_setting.locate()}: set together with {origin(field).locate()}; one of them is enough"
            )
        try:
            found[field] = read_secret_file(str(path))
        except PydanticCustomError as error:
            detail = InitErrorDetails(type=error, loc=(file_setting.locate(),), input=None)
            raise ValidationError.from_exception_data("Settings", [detail]) from None
    return found


def _invalid(*messages: str) -> ValidationError:
    problems = (PydanticCustomError("source", "{message}", {"message": message}) for message in messages)
    return ValidationError.from_exception_data(
        "Settings", [InitErrorDetails(type=problem, loc=(), input=None) for problem in problems]
    )
