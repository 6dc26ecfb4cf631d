"""MkDocs hook: refuses a site whose pages would ask another host for something when opened."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

HOST = r"""["']?\s*(?:https?:)?//"""
ASKED = (
    re.compile(rf"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\ssrc={HOST}[^>]*>", re.I),
    re.compile(
        rf"<link\b(?=[^>]*\srel=[\"']?(?:stylesheet|icon|preload|preconnect|modulepreload))"
        rf"[^>]*\shref={HOST}[^>]*>",
        re.I,
    ),
    re.compile(rf"url\(\s*{HOST}[^)]*\)|@import\s+{HOST}[^;]*;", re.I),
    re.compile(r"class=\"mermaid\""),  # the theme would load a library for it
)


def asked_of_other_hosts(text: str) -> list[str]:
    """The scripts, styles, fonts and pictures that a page or a style sheet takes from elsewhere.

    Args:
        text: HTML or CSS.

    Returns:
        What asks for them, as it stands there; links that a reader follows are not among it.
    """
    return [found[0] for pattern in ASKED for found in pattern.finditer(text)]


def on_post_build(config: MkDocsConfig) -> None:
    """Look through the built site."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css") and (asks := asked_of_other_hosts(path.read_text())):
            raise PluginError(
                f"{path.relative_to(config.site_dir)} asks another host: got {asks[0]}, expected "
                "files of the site alone; put the file under docs/ and link it from there"
            )
