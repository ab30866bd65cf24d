"""Hooks of MkDocs that build the site from the pages of the repository.

Pages outside ``docs``, such as README.md, are added, and all keep their paths:
links between them work in the repository and on the site. Python files that
pages link to become pages with their code.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = ('*.md', 'docs/**/*.md')
ASSETS = ('LICENSE', 'docs/images/*')
LINKED_CODE = re.compile(r'\]\((?!\w+:)([^)#\s]+\.py)\)')
"""re.Pattern: The target of a Markdown link to a Python file."""
ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):(?=<code>)')
"""re.Pattern: A role of reStructuredText, such as that of ``:func:`name```."""
RST_LINK = re.compile(r'<code>([^<]+?)\s+&lt;(https?:[^&]+)&gt;</code>_')
"""re.Pattern: A link of reStructuredText with its text."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files in ``docs`` by those of the repository."""

    def find(patterns: tuple) -> list:
        paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
        return [path.relative_to(ROOT).as_posix() for path in sorted(paths)]

    site = Files([file for file in files if file.generated_by])
    linked = set()
    for name in find(PAGES):
        text = (ROOT / name).read_text(encoding='utf-8')
        folder = posixpath.dirname(name)
        for target in LINKED_CODE.findall(text):
            linked.add(posixpath.normpath(posixpath.join(folder, target)))
        site.append(File.generated(config, name, content=text))
    for name in find(ASSETS):
        site.append(
            File.generated(config, name, abs_src_path=str(ROOT / name))
        )
    for name in sorted(linked):
        code = (ROOT / name).read_text(encoding='utf-8')
        text = f'# {Path(name).name}\n\n```python title="{name}"\n{code}```\n'
        site.append(File.generated(config, f'{name}.md', content=text))
    return site


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Link to the pages of Python files."""
    return LINKED_CODE.sub(r'](\1.md)', markdown)


def on_page_content(
    html: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Turn what docstrings have of reStructuredText into HTML."""
    return RST_LINK.sub(r'<a href="\2">\1</a>', ROLE.sub('', html))
