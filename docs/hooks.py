"""What the site takes from the rest of the repository: READMEs as pages, their pictures, and links into the source.

A page links to other files relative to itself, as the repository's browser shows them. Links to what is a page of the
site are kept, links to other files that exist become plain text, and all others fail the strict build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
INCLUDED = (
    "pretrained/*/README.md",
    "pretrained/*/LICENSE*",
    "recipes/*/README.md",
    "recipes/*/*.png",
    "examples/*.png",
)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add what the repository has outside of docs/, at the same path."""
    for pattern in INCLUDED:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links relative to the repository -> links relative to the site."""
    inside = (ROOT / "docs" / page.file.src_uri).is_file()
    folder = (Path("docs") / page.file.src_uri if inside else Path(page.file.src_uri)).parent

    def resolve(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        path, hash_mark, anchor = link.partition("#")
        if not path or ":" in path:
            return match.group()
        target = os.path.normpath(folder / path)
        uri = target.removeprefix("docs/") if target.startswith("docs/") else target
        if files.get_file_from_path(uri):
            relative = os.path.relpath(uri, Path(page.file.src_uri).parent)
            return f"{mark}[{text}]({Path(relative).as_posix()}{hash_mark}{anchor})"
        return text if (ROOT / target).exists() else match.group()

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(resolve, part) for part in parts)
