"""What the tests of the README and of the docs share: their code and their commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from seqdni.recipes.cli import RECIPES, _parser
from seqdni.recipes.parsing import parse, recipe_parser

ROOT = Path(__file__).parents[2]


def python_blocks(page: str) -> list[str]:
    """The ```python blocks of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The ``seqdni`` commands of a page's indented blocks."""
    return re.findall(r"^    (seqdni .*)$", page, re.MULTILINE)


def check_command(command: str) -> None:
    """Parse a command, and a recipe's options with that recipe's parser."""
    words = shlex.split(command)[1:]
    if words[0] == "--print-completion":
        assert words[1] in ("bash", "zsh", "tcsh")
    elif words[0] != "run":
        _parser().parse_args(words)
    elif words[1].startswith("-"):
        assert words[1] == "--resume"  # of any recipe
    else:
        recipe = RECIPES[words[1]]
        parser = recipe_parser(words[1], recipe.summary, recipe.options)
        # what prints and leaves
        rest = [w for w in words[2:] if w not in ("--print_config", "--help", "--help-all")]
        parse(parser, rest)
