"""Links of pages to files outside of `docs/`: a hook of mkdocs.

On GitHub a page may link to any file of the repository. The site holds only pages, so links to other files go to the
repository's address there, and pictures are copied. A link to a file that does not exist is a warning, and so an error
of `mkdocs build --strict`. Links to other sites are listed at the end, and not fetched.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURES = (".png", ".svg", ".jpg")
LINK = re.compile(r"(\]\()(\.\./[^)\s#]+)(#[^)\s]*)?\)")
EXTERNAL = re.compile(r"\]\((https?://[^)\s]+)\)")
LOG = logging.getLogger("mkdocs.hooks.outside_links")


def file_of(page: str, link: str) -> str | None:
    """The file that a page's link means, relative to the repository; None if it lies within `docs/`.

    Args:
        page: the page's path in `docs/`.
        link: as written in the page.
    """
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") else path


def rewritten(markdown: str, page: str, repository: str) -> tuple[str, list[str]]:
    """A page's text with links that lead outside of `docs/` made those of the site, and the files that do not exist.

    Args:
        markdown: text of the page.
        page: its path in `docs/`.
        repository: address of the repository.
    """
    missing = []

    def target(match: re.Match[str]) -> str:
        path = file_of(page, match[2])
        if path is None:
            return match[0]
        if not (ROOT / path).exists():
            missing.append(path)
        if path.endswith(PICTURES):
            return f"{match[1]}{posixpath.relpath(path, posixpath.dirname(page) or '.')})"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{match[1]}{repository.rstrip('/')}/{kind}/main/{path}{match[3] or ''})"

    return LINK.sub(target, markdown), missing


def on_files(files, config):
    """Add the pictures outside of `docs/` that pages show."""
    from mkdocs.structure.files import File

    shown = set()
    for page in files.documentation_pages():
        for match in LINK.finditer(page.content_string):
            path = file_of(page.src_uri, match[2])
            if path is not None and path.endswith(PICTURES):
                shown.add(path)
    for path in sorted(shown):
        if (ROOT / path).is_file():
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of one page."""
    text, missing = rewritten(markdown, page.file.src_uri, config.repo_url)
    for path in missing:
        LOG.warning("%s links to %s, which does not exist", page.file.src_uri, path)
    return text


def on_post_build(config):
    """List the links to other sites."""
    pages = sorted((ROOT / "docs").rglob("*.md"))
    found = sorted({address for page in pages for address in EXTERNAL.findall(page.read_text())})
    LOG.info("links to other sites, which were not fetched: %s", ", ".join(found) or "none")
