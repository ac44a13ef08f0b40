"""Every block of code in the documents that no test runs is parsed by a reader for its language.

tests/repo/test_readme.py runs blocks of the README and of docs/, tests/e2e/test_recipes.py and `make clients` those of
docs/clients.md.
"""

import configparser
import hashlib
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
import tree_sitter
import tree_sitter_c_sharp
import tree_sitter_go
import tree_sitter_php
import tree_sitter_ruby
import yaml  # type: ignore[import-untyped]

from app.access.keys import parse_keys
from app.cli.main import limner, main
from app.config.field_types import variable
from app.config.settings import Settings
from tests.support.markdown import DOCUMENTS, ROOT, Block, blocks, without_blocks
from tests.support.nginx import NGINX, check_site

ALL_BLOCKS = [(path.relative_to(ROOT).as_posix(), block) for path in DOCUMENTS for block in blocks(path.read_text())]
PARSED_BLOCKS = [(name, block) for name, block in ALL_BLOCKS if not block.where]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_all_code_is_in_fenced_blocks(path: Path) -> None:
    """Indented code and other fences would not be found by the tests."""
    prose = without_blocks(path.read_text())
    assert "```" not in prose
    assert "~~~" not in prose
    assert not re.findall(r"^\n(?: {4}|\t)\S.*$", prose, re.MULTILINE)


#: Replaces programs that are not installed or would change the machine. Relative paths among its arguments must exist:
#: they are files of the project.
STUB = """\
#!/bin/bash
for argument in "$@"; do
  case "$argument" in
    -* | /* | *://* | *[!A-Za-z0-9._/-]*) ;;
    */*) [ -e "$argument" ] || { echo "$0: there is no $argument" >&2; exit 1; } ;;
  esac
done
if [ "$1" = clone ]; then mkdir "${@: -1}"; fi
"""
MAKE = f'#!/bin/bash\nexec {shutil.which("make")} --silent --dry-run --directory {ROOT} "$@" > /dev/null\n'
RECORDER = """#!/bin/bash\nprintf '%q ' "$@" >> "$CALLS"\necho >> "$CALLS"\n"""
STUBBED = (
    "curl",
    "docker",
    "git",
    "gpt-image-2-skill",
    "helm",
    "kubectl",
    "pbpaste",
    "pip",
    "pipx",
    "python",
    "sudo",
    "systemctl",
    "uv",
)


def rehearse(code: str, folder: Path) -> None:
    """Run a block with Bash: arguments of `limner` are parsed, `make` finds its target, other programs are stubs."""
    programs = folder / "programs"
    programs.mkdir()
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    (folder / "dist").mkdir()
    (folder / "dist" / "limner-1.2.3-py3-none-any.whl").touch()
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(programs)
    for name, script in ({"make": MAKE, "limner": RECORDER} | dict.fromkeys(STUBBED, STUB)).items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    own = {"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(calls)}
    done = subprocess.run(
        ("bash", "-euc", code), cwd=folder, env=own, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patch:
        for command in commands(limner):
            patch.setattr(command, "callback", lambda **_: 0)
        for call in calls.read_text().splitlines():
            assert main(shlex.split(call)) == 0


def commands(group: click.Group) -> Iterator[click.Command]:
    """Yield all commands of `limner`, those inside of others too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command) if isinstance(command, click.Group) else [command]


def read_variables(code: str, folder: Path) -> None:
    """Read a file of variables: ours must be settings with valid values, the others only need to be well-formed."""
    code = re.sub(r"/var/(?:log|lib)/limner\b", str(folder), code)
    parser = configparser.ConfigParser(delimiters="=", interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(f"[all]\n{code}")
    ours = {name: value for name, value in parser["all"].items() if name.startswith("LIMNER_")}
    fields = {variable(field): field for field in Settings.model_fields}
    values: dict[str, Any] = {fields[name]: value for name, value in ours.items()}
    Settings(**{"upstream_base_url": "https://upstream.invalid/v1"} | values)


def read_tables(code: str, folder: Path) -> None:
    (folder / "key").write_text("sk-1")
    code = re.sub(r"/run/secrets/\w+", f"{folder}/key", code)
    code = code.replace('"9f86d0…"', f'"{hashlib.sha256(b"test").hexdigest()}"')
    tables = tomllib.loads(code)
    if "model_provider" in tables:
        # The configuration of Codex.
        assert {"base_url", "env_key", "http_headers"} <= tables["model_providers"][tables["model_provider"]].keys()
        return
    if isinstance(tables.get("upstreams"), dict):
        # A part of an upstream's table that the page shows on its own.
        code = f'[[upstreams]]\nname = "main"\nbase_url = "https://upstream.invalid/v1"\napi_key = "sk-1"\n{code}'
    (folder / "limner.toml").write_text(code)
    (kind,) = tables
    assert kind in {"keys", "upstreams"}
    assert parse_keys(code) if kind == "keys" else Settings(config=folder / "limner.toml").effective_upstreams


def read_document(code: str, folder: Path) -> None:
    orjson.loads(code)


def read_locations(code: str, folder: Path) -> None:
    """Let nginx check a part of a site, with this machine in place of the other ones."""
    if NGINX is None:
        pytest.skip("needs nginx")
    site = re.sub(r"(proxy_pass https?://)[^;/]+", r"\g<1>127.0.0.1:9", code)
    assert check_site(site, folder) == ""


GRAMMARS = {
    "csharp": tree_sitter_c_sharp.language,
    "go": tree_sitter_go.language,
    "php": tree_sitter_php.language_php_only,
    "ruby": tree_sitter_ruby.language,
}


def errors(language: str, code: str) -> bool:
    # Go code is a fragment of a function, code in other languages the top level of a file.
    complete = f"package main\nfunc main() {{\n{code}}}\n" if language == "go" else code
    parser = tree_sitter.Parser(tree_sitter.Language(GRAMMARS[language]()))
    return parser.parse(complete.encode()).root_node.has_error


def read_grammar(language: str) -> Callable[[str, Path], None]:
    def read(code: str, _: Path) -> None:
        assert not errors(language, code)

    return read


def read_yaml(code: str, _: Path) -> None:
    assert isinstance(yaml.safe_load(code), dict | list)


def leave(_code: str, _folder: Path) -> None:
    """Accept any block: a drawing, or the output of a program, which the test that runs the program compares."""


READERS: dict[str, Callable[[str, Path], None]] = {
    "sh": rehearse,
    "ini": read_variables,
    "toml": read_tables,
    "yaml": read_yaml,
    "json": read_document,
    "nginx": read_locations,
    "text": leave,
    **{language: read_grammar(language) for language in GRAMMARS},
}


@pytest.mark.parametrize(
    ("name", "block"), PARSED_BLOCKS, ids=[f"{name}: {block.code.splitlines()[0]}" for name, block in PARSED_BLOCKS]
)
def test_every_other_block_is_valid(name: str, block: Block, tmp_path: Path) -> None:
    assert block.language in READERS, f"{name}: run this block (`<!-- run -->`), or give its language a reader"
    READERS[block.language](block.code, tmp_path)


INVALID = {
    "sh": (
        "make no-such-target",
        "limner paint",
        "mkdir a; cd a; limner check --all",
        "no-such-program",
        "docker compose -f deploy/none.yaml up",
        "if",
    ),
    "ini": ("LIMNER_PORTS=1", "LIMNER_PORT=none", "no line of settings"),
    "toml": (
        "model_provider = 'a'\n[model_providers.a]\nname = 'a'",
        "[[keys]]\nname = 1",
        "[[upstreams]]\nname = 'main'",
        "[other]",
        "=",
    ),
    "yaml": ("a: b: c", "no mapping"),
    "json": ("{", "{'id': 1}"),
    "nginx": ("location /v1/ { proxy_pass", "location / { proxy_passes http://limner:8000; }"),
    "csharp": ("var options = new Options {",),
    "go": ("client := openai.NewClient(",),
    "php": ("$client = OpenAI::factory(;",),
    "ruby": ("client = OpenAI::Client.new(uri_base: ",),
}


@pytest.mark.parametrize(
    ("language", "code"), [(language, code) for language, codes in INVALID.items() for code in codes]
)
def test_a_reader_rejects_invalid_code(language: str, code: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, KeyError, SystemExit, ValueError, configparser.Error, yaml.YAMLError)):
        READERS[language](f"{code}\n", tmp_path)
