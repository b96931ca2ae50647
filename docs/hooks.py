"""What the site is made of besides `docs`: pages of the repository's root, and the files that any page links to.

Links are written for readers of the repository, as `../src/lrpet/layers`. On the site they lead to a page that shows the file,
or to the file itself where a browser shows it. Equations in fences named math become MathML, which needs no script.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "COVERAGE.md", "RESULTS.md", "SECURITY.md")
#: The folder of the site that has the repository's other files.
OTHERS = "repository"
SHOWN = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".md": "markdown"}

LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
MATH = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOREIGN = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def on_files(files: Files, config: Any) -> Files:
    """Add pages of the root, and what they and the pages in `docs` link to."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    sources = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in PAGES)]
    linked = {path for source in sources for path in _linked(source) if _uri(path).startswith(OTHERS)}
    listed = {path for folder in linked if folder.is_dir() for path in _listing(folder)}
    aside = InclusionLevel.NOT_IN_NAV
    for path in sorted(linked | listed):
        if path.is_dir() or path.suffix in SHOWN:
            files.append(File.generated(config, _uri(path), content=_page(path), inclusion=aside))
        else:
            files.append(File.generated(config, _uri(path), abs_src_path=str(path), inclusion=aside))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point links at where things are on the site, and turn equations into MathML."""
    source = page.file.src_uri
    if source.startswith(f"{OTHERS}/"):
        return markdown
    base = ROOT if source in PAGES else (DOCS / source).parent

    def relinked(match: re.Match[str]) -> str:
        path = _resolved(base, match[1])
        if path is None:
            return match[0]
        return f"]({os.path.relpath(_uri(path), os.path.dirname(source) or '.')}{match[2] or ''})"

    return MATH.sub(lambda match: convert(match[1].strip(), display="block"), LINK.sub(relinked, markdown))


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Refuse what a browser would fetch from another host."""
    if found := FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri} takes something from another host: {found[0]}")
    return output


def _linked(source: Path) -> Iterable[Path]:
    base = source.parent
    found = (_resolved(base, match[1]) for match in LINK.finditer(source.read_text(encoding="utf-8")))
    return [path for path in found if path is not None]


def _resolved(base: Path, target: str) -> Path | None:
    """Return the file or folder of the repository that a link means; None for addresses, and what does not exist."""
    path = (base / target).resolve()
    return path if "://" not in target and path.exists() and path.is_relative_to(ROOT) else None


def _uri(path: Path) -> str:
    """Return where a file or folder of the repository is on the site, as the path of its source."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return name
    return f"{OTHERS}/{name}/index.md" if path.is_dir() else f"{OTHERS}/{name}{'.md' if path.suffix in SHOWN else ''}"


def _listing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "__init__")))


def _page(path: Path) -> str:
    """Return the page that shows a file, or that lists a folder."""
    head = f"---\ntitle: {path.relative_to(ROOT).as_posix()}\nsearch:\n  exclude: true\nhide: [toc]\n---\n"
    if path.is_dir():
        base = os.path.dirname(_uri(path))
        links = [f"- [{each.name}]({os.path.relpath(_uri(each), base)})" for each in _listing(path)]
        return f"{head}\n" + "\n".join(links) + "\n"
    return f"{head}\n~~~~~~{SHOWN[path.suffix]}\n{path.read_text(encoding='utf-8').rstrip()}\n~~~~~~\n"
