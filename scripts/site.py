"""What the documentation's site needs besides docs/: pages that lie elsewhere in the repository,
the leaderboard, and the files that pages link to. A hook of mkdocs; knows Markdown links and paths.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = PurePosixPath("docs")
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "scripts/builtin/README.md": "builtin-recipe.md",
}
"""Path in the repository -> page of the site."""
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of `PAGES`, and every file of the repository that a page links to."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "leaderboard.md", content=_leaderboard()))
    for file in list(files.documentation_pages()):
        for match in LINK.finditer(file.content_string):
            target = _target(file.src_uri, match["path"])
            site = _on_site(target)
            if files.get_file_from_path(site) is None and (ROOT / target).is_file():
                content = (ROOT / target).read_bytes()
                files.append(File.generated(config, site, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links pointing to where things are on the site."""
    here = PurePosixPath(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        site = _on_site(_target(here.as_posix(), match["path"]))
        return os.path.relpath(site, here.parent) + (match["anchor"] or "")

    return LINK.sub(moved, markdown)


def _leaderboard() -> str:
    """mkdocs runs this file by itself, with no package around it."""
    sys.path.insert(0, str(ROOT))
    try:
        from scripts.leaderboard import leaderboard, results
    finally:
        sys.path.remove(str(ROOT))
    return leaderboard(results())


def _target(page: str, link: str) -> str:
    """The path in the repository that a link on a page of the site means."""
    source = next((path for path, name in PAGES.items() if name == page), (DOCS / page).as_posix())
    return os.path.normpath(PurePosixPath(source).parent / link)


def _on_site(path: str) -> str:
    """Where a file of the repository is on the site."""
    if path in PAGES:
        return PAGES[path]
    pure = PurePosixPath(path)
    return (pure.relative_to(DOCS) if pure.is_relative_to(DOCS) else "repository" / pure).as_posix()
