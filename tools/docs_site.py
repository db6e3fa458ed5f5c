"""Hooks of mkdocs.yml: pages kept elsewhere in the repository, lists of pages, diagrams, and `llms.txt`.

README.md, CHANGELOG.md and CONTRIBUTING.md become pages of the site. `DIR/*` in the navigation lists a directory. A
link to a file of the repository that is no page becomes its path as text: the site has no copy of the sources. A link
to a file that does not exist stays as it is, so that the strict build reports it. A page with Mermaid diagrams loads
the script that draws them from the site; without it Material would load it from another host. `docs_build` sets three
variables: NARTHEX_SITE_PICTURES, a directory whose pictures replace those of docs/images, in light and dark;
NARTHEX_SITE_RELEASE, the site's directory beside other versions; NARTHEX_SITE_WHOLE, unless pages of the navigation may
be missing.
"""

from __future__ import annotations

import gzip
import logging
import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

from tools.npm_packages import PackageUnavailable, npm_file

ROOT: Final = Path(__file__).resolve().parent.parent
PICTURES: Final = os.environ.get("NARTHEX_SITE_PICTURES", "")
RELEASE: Final = os.environ.get("NARTHEX_SITE_RELEASE", "")
WHOLE: Final = os.environ.get("NARTHEX_SITE_WHOLE", "1") == "1"
PAGES: Final = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
DATA: Final = {"src/narthex/web/api/openapi.json": "openapi.json"}
"""Files for programs that the site has, too: source → file of the site."""
LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
STYLE: Final = "assets/stylesheets/site.css"
MERMAID: Final = "assets/javascripts/mermaid.min.js"
SCRIPTS: Final = {
    MERMAID: ("mermaid", "dist/mermaid.min.js"),
    "assets/javascripts/iframe-worker.js": ("iframe-worker", "shim/index.js"),
}
"""Scripts of the site that npm has: path → package and file."""
log: Final = logging.getLogger("mkdocs.hooks.narthex")
IMAGE: Final = re.compile(r"(!\[[^\]]*\]\()docs/")
PICTURE: Final = re.compile(r"!\[([^\]]+)\]\(([\w./-]*images/([\w-]+))\.png\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace `DIR/*` in the navigation by the pages of that directory, README.md first; turn on the switcher."""
    config.nav = _expanded(config.nav)
    if RELEASE:
        config.site_url = f"{config.site_url}{RELEASE}/"
        config.extra["version"] = {"provider": "mike", "default": "latest"}
    return config


def _expanded(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: _expanded(below) for title, below in entry.items()}
    if not isinstance(entry, list):
        return entry
    listed: list[Any] = []
    for item in entry:
        if isinstance(item, str) and item.endswith("/*"):
            pages = sorted(
                (ROOT / "docs" / item[:-2]).glob("*.md"),
                key=lambda page: (page.name != "README.md", page.name),
            )
            listed += [f"{item[:-2]}/{page.name}" for page in pages]
        elif WHOLE or not isinstance(item, str) or _is_page(item):
            listed.append(_expanded(item))
    return listed


def _is_page(name: str) -> bool:
    return (ROOT / "docs" / name).is_file() or name in PAGES.values()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose source is in the root of the repository."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for source, name in DATA.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    for picture in sorted(Path(PICTURES).glob("*.png")) if PICTURES else ():
        if (old := files.get_file_from_path(f"images/{picture.name}")) is not None:
            files.remove(old)
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    files.append(File.generated(config, STYLE, abs_src_path=str(ROOT / "tools" / "site.css")))
    try:
        for path, (package, file) in SCRIPTS.items():
            files.append(File.generated(config, path, abs_src_path=str(npm_file(package, file))))
    except PackageUnavailable as fault:
        log.warning("The site lacks a script: %s", fault)  # a strict build fails by it
    return files


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Load the script that draws diagrams where there are some."""
    if 'class="mermaid"' not in output:
        return output
    script = f'<script src="{get_relative_url(MERMAID, page.url)}"></script>'
    return output.replace("</head>", f"{script}</head>", 1)


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Point each link to the page of the site, or write the path of the repository's file."""
    origin = next(
        (source for source, name in PAGES.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}"
    )

    def replaced(match: re.Match[str]) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        if "://" in target or target.startswith(("mailto:", "/")):
            return match.group(0)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        name = PAGES.get(path) or DATA.get(path) or path.removeprefix("docs/")
        if files.get_file_from_path(name) and (path in (*PAGES, *DATA) or path.startswith("docs/")):
            return f"[{text}]({os.path.relpath(name, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"
        if not (ROOT / path).exists():
            return match.group(0)
        return f"`{path}`" if text.strip("`") == path else f"{text} (`{path}`)"

    if origin in PAGES:
        markdown = IMAGE.sub(r"\1", markdown)

    def in_both_schemes(match: re.Match[str]) -> str:
        text, path, name = match.groups()
        if not files.get_file_from_path(f"images/{name}-dark.png"):
            return match.group(0)
        return f"![{text}]({path}.png#only-light)![{text}]({path}-dark.png#only-dark)"

    return _outside_code(markdown, lambda part: LINK.sub(replaced, PICTURE.sub(in_both_schemes, part)))


def _outside_code(markdown: str, changed: Callable[[str], str]) -> str:
    """Change prose; fenced blocks stay as they are."""
    parts = re.split(r"(^```.*?^```[ ]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else changed(part) for part in parts)


def on_nav(nav: Navigation, **_: Any) -> Navigation:
    """Keep the navigation for `llms.txt`."""
    _NAVIGATION[:] = [nav]
    return nav


_NAVIGATION: Final[list[Navigation]] = []


def on_post_build(config: MkDocsConfig) -> None:
    """Write `llms.txt` (llmstxt.org): every page of the navigation with its address, under its section. Complete the
    sitemap.
    """
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for item in _NAVIGATION[0].items:
        lines += ["", f"## {item.title}", ""]
        pages = [page for page in _NAVIGATION[0].pages if item in page.ancestors]
        lines += [f"- [{page.title}]({page.canonical_url})" for page in pages]
    (Path(config.site_dir) / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # The switcher stays on the page only where the sitemap has the site's root.
    sitemap = Path(config.site_dir) / "sitemap.xml"
    home = f"<loc>{config.site_url}"
    text = sitemap.read_text(encoding="utf-8").replace(f"{home}index.html<", f"{home}<")
    sitemap.write_text(text, encoding="utf-8")
    sitemap.with_name("sitemap.xml.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
