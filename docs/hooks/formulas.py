r"""MkDocs hook: draws every formula at build time, so that a page needs no script and no font.

``pymdownx.arithmatex`` marks the formulas; here each becomes an SVG with its TeX as the label
that a screen reader says. Sizes are in em, so that a formula grows with the text around it.
"""

import html
import re
from xml.etree import ElementTree

from ziamath.config import config
from ziamath.zmath import Latex

MARKED = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
POINTS = 16.0  # what one em is while a formula is drawn

config.precision = 2


def drawn(tex: str, inline: bool) -> str:
    r"""A formula as SVG.

    Args:
        tex: without the delimiters, e.g. ``s_0``.
        inline: in a line of text, rather than on a line of its own.

    Returns:
        An ``<svg>`` in the colour of the text around it.
    """
    formula = Latex(tex, size=POINTS, color="currentColor", inline=inline)
    svg = formula.svgxml()
    for side in ("width", "height"):
        svg.set(side, f"{float(svg.get(side, 0)) / POINTS:.3f}em")
    svg.set("role", "img")
    svg.set("aria-label", tex)
    svg.set("style", f"vertical-align: {formula.getyofst() / POINTS:.3f}em")
    return ElementTree.tostring(svg, encoding="unicode")


def with_formulas(page: str) -> str:
    """A page's HTML with its formulas drawn.

    Args:
        page: HTML in which arithmatex has marked the formulas.

    Returns:
        The same with an SVG in each mark.
    """

    def replaced(found: re.Match[str]) -> str:
        tex = " ".join(html.unescape(found[2]).split())
        return f'<{found[1]} class="formula">{drawn(tex, found[1] == "span")}</{found[1]}>'

    return MARKED.sub(replaced, page)


def on_page_content(content: str, **kwargs: object) -> str:
    """Draw the formulas of a page."""
    return with_formulas(content)
