"""Puts pages of the repository that are not under docs/ into the site, and leads links to them there."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"benchmarks/README.md": "benchmarks.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository, and their names in the site."""

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages, and the pictures beside them."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    for picture in (ROOT / "benchmarks").glob("*.png"):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links between files of the repository to their pages; leave those to code as words."""
    names = {name: source for source, name in PAGES.items()}
    here = ROOT / names.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    up = "../" * (len(PurePosixPath(page.file.src_uri).parts) - 1)

    def led(match: re.Match) -> str:
        picture, text, target, anchor = match.groups()
        if not target or ":" in target:
            return match[0]
        path = (here.parent / target).resolve()
        if not path.is_relative_to(ROOT):
            return match[0]
        source = path.relative_to(ROOT).as_posix()
        if source in PAGES or source.startswith("docs/") or picture:
            name = PAGES.get(source) or source.removeprefix("docs/").removeprefix("benchmarks/")
            return f"{picture}[{text}]({up}{name}{anchor or ''})"
        return text

    return LINK.sub(led, markdown)
