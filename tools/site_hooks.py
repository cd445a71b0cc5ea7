"""What `mkdocs build` can't do by itself: links out of docs/ work on the site as on the code host, notebooks are pages.

README.md is the first page. Each file outside docs/ that a page links to comes with the site: Markdown as a page, any
other as it is. A notebook becomes the page of the same name.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the first page, the notebooks as pages, and what pages outside docs/ link to."""
    for notebook in sorted(DOCS.glob("notebooks/*.ipynb")):
        exporter = MarkdownExporter()  # type: ignore[no-untyped-call]
        text, resources = exporter.from_filename(str(notebook), {"unique_key": notebook.stem})
        files.append(File.generated(config, _uri(notebook), content=text))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    for page in pages:  # it grows
        uri = _uri(page)
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(page)))
        if page.suffix == ".md":
            pages += [target for target in _linked(page) if DOCS not in target.parents and target not in pages]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to where its targets are on the site."""
    source = Path(page.file.abs_src_path or DOCS / page.file.src_uri)
    here = Path(page.file.src_uri).parent

    def on_site(link: re.Match[str]) -> str:
        target = (source.parent / link[1]).resolve()
        return os.path.relpath(_uri(target), here) if target.is_file() else link[1]

    return _LINK.sub(on_site, markdown)


def _linked(page: Path) -> Iterator[Path]:
    targets = ((page.parent / link).resolve() for link in _LINK.findall(page.read_text(encoding="utf-8")))
    return (target for target in targets if target.is_file())


def _uri(file: Path) -> str:
    """Return where a file of the repository is on the site, as the path of its source."""
    if file == ROOT / "README.md":
        return "index.md"
    uri = file.relative_to(DOCS if DOCS in file.parents else ROOT).as_posix()
    return uri.replace(".ipynb", ".md")
