"""Hooks of MkDocs that build the site from the pages of the repository.

Pages outside ``docs``, such as README.md, are added, and all keep their paths:
links between them work in the repository and on the site. Source files that
pages link to become pages with their code.
"""

import posixpath
import re
from pathlib import Path
from typing import Optional

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ('*.md', 'docs/**/*.md')
ASSETS = ('LICENSE', 'docs/images/*')
LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)#\s]+\.(?!md\b|png\b)\w+)(?=\))')
"""re.Pattern: The target of a Markdown link to a source file."""
ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):(?=<code>)')
"""re.Pattern: A role of reStructuredText, such as that of ``:func:`name```."""
RST_LINK = re.compile(r'<code>([^<]+?)\s+&lt;(https?:[^&]+)&gt;</code>_')
"""re.Pattern: A link of reStructuredText with its text."""


def source_file(page: str, target: str) -> Optional[str]:
    """Return the path in the repository of a link's target, if it exists.

    Args:
        page (str): Path of the page, in the repository.
        target (str): Target of the link, relative to the page.

    Returns:
        str, optional: The path; None if there is no such file.
    """
    name = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    return name if (ROOT / name).is_file() else None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files in ``docs`` by those of the repository."""

    def find(patterns: tuple) -> list:
        paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
        return [path.relative_to(ROOT).as_posix() for path in sorted(paths)]

    # Those of the theme and of plugins stay.
    docs = config.docs_dir
    site = Files([file for file in files if file.src_dir != docs])
    sources = set()
    for name in find(PAGES):
        text = (ROOT / name).read_text(encoding='utf-8')
        sources |= {source_file(name, link) for link in LINK.findall(text)}
        site.append(File.generated(config, name, content=text))
    for name in find(ASSETS):
        site.append(
            File.generated(config, name, abs_src_path=str(ROOT / name))
        )
    for name in sorted(sources - {None}):
        path = ROOT / name
        code = path.read_text(encoding='utf-8')
        text = f'# {path.name}\n\n````{path.suffix[1:]}\n{code}````\n'
        site.append(File.generated(config, f'{name}.md', content=text))
    return site


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Link to the pages of source files."""

    def link(match: re.Match) -> str:
        # MkDocs reports a link to a file that does not exist.
        exists = source_file(page.file.src_uri, match[1])
        return f'{match[1]}.md' if exists else match[1]

    return LINK.sub(link, markdown)


def on_page_content(
    html: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Convert the reStructuredText of docstrings into HTML."""
    return RST_LINK.sub(r'<a href="\2">\1</a>', ROLE.sub('', html))
