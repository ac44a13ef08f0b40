"""A hook of MkDocs: pages of the project outside `docs/`, and the site's copies for language models.

The site also has a few documents from outside `docs/`, and beside each HTML page the page's Markdown and one `llms.txt`
(https://llmstxt.org) that lists them. Links into the source code, which is not on the site, become plain text.
"""

import os.path
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

#: Documents from outside `docs/`, by their name on the site.
IMPORTED = {
    "deployment-files.md": "deploy/README.md",
    "security-policy.md": "SECURITY.md",
    "contributing.md": "CONTRIBUTING.md",
}

#: A link or an image: text and target.
_LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the imported documents to the files of the site."""
    from mkdocs.structure.files import File  # type: ignore[import-not-found]  # noqa: PLC0415  only in the docs' venv

    for name, source in IMPORTED.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return for_site(markdown, page.file.src_uri)


def on_post_build(config: Any) -> None:
    site = Path(config["site_dir"])
    for _, _, name in entries(config["nav"]):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(for_site(source_of(name).read_text(), name))
    (site / "llms.txt").write_text(llms_txt(config["site_name"], config["site_description"], config["nav"]))


def source_of(name: str) -> Path:
    """Return the file of a page of the site."""
    return ROOT / IMPORTED[name] if name in IMPORTED else ROOT / "docs" / name


def for_site(markdown: str, name: str) -> str:
    """Turn the links of a page to where the targets are on the site. What is not there becomes plain text."""
    folder = source_of(name).parent.relative_to(ROOT)
    on_site = {source: name for name, source in IMPORTED.items()}

    def turn(link: re.Match[str]) -> str:
        text, target = link.groups()
        path, hash_sign, anchor = target.partition("#")
        if "://" in target or not path:
            return link[0]
        path = os.path.normpath(folder / path)
        path = on_site.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if not path:
            return text
        return link[0].replace(f"({target})", f"({os.path.relpath(path, Path(name).parent)}{hash_sign}{anchor})")

    return _LINK.sub(turn, markdown)


def entries(nav: list[dict[str, Any]], section: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield section, title and file of each page of the navigation."""
    for entry in nav:
        ((title, value),) = entry.items()
        if isinstance(value, str):
            yield section, title, value
        else:
            yield from entries(value, section or title)


def llms_txt(name: str, description: str, nav: list[dict[str, Any]]) -> str:
    lines, current = [f"# {name}", "", f"> {description}"], None
    for section, title, file in entries(nav):
        if section != current:
            lines += ["", f"## {section}", ""]
            current = section
        lines.append(f"- [{title}]({file})")
    return "\n".join(lines) + "\n"
