r"""Griffe extension: Sphinx's roles and maths in the docstrings as what MkDocs understands.

The docstrings read well in an editor as they are, so they are converted here and not rewritten.
"""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|attr):`([^`]+)`")
MODULE = re.compile(r":mod:`([^`]+)`")  # the pages are of names, not of modules: no link
MATHS = re.compile(r":math:`([^`]+)`", re.DOTALL)
BLOCK = re.compile(r"^( *)\.\. math:: (.*(?:\n\1 +.*)*)", re.MULTILINE)
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)  # griffe's section has a plural


def converted(docstring: str) -> str:
    r"""A docstring with its roles and maths in Markdown.

    Args:
        docstring: without common indentation.

    Returns:
        ``:class:`X``` as a link, ``:mod:`x``` as code,
        ``:math:`x``` as \(x\), ``.. math::`` as a block.
    """
    text = ROLE.sub(r"[`\1`][\1]", docstring)
    text = MODULE.sub(r"`\1`", text)
    text = MATHS.sub(r"\\(\1\\)", text)
    text = BLOCK.sub(lambda found: _block(found[1], found[2]), text)
    return EXAMPLE.sub(r"\1Examples:", text)


def _block(indent: str, maths: str) -> str:
    lines = [line.strip() for line in maths.splitlines()]
    return "\n".join(indent + line for line in [r"\[", *lines, r"\]"])


class SphinxRoles(griffe.Extension):
    """Converts every docstring as it is collected."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = converted(obj.docstring.value)
