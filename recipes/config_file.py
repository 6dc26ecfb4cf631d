"""Reads a file of options in YAML: plain values by name. It may come from anybody; no code runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from seqdni.recipes.errors import RunError

DEEPEST = 4  # nested levels of YAML; an option's value is a number, a name or a list of these


class _Loader(yaml.SafeLoader):
    """A loader of plain YAML values that refuses anchors, merges, and a key that is there twice."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError("it has an anchor (& or *), which no config needs")
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError("it has brackets in brackets in brackets, expected plain values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        names: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError("it has a merge (<<), which no config needs")
            if isinstance(key.value, str) and key.value in names:
                raise yaml.YAMLError(f"{key.value!r} is there twice; leave one of them out")
            if isinstance(key.value, str):
                names.add(key.value)
        return super().construct_mapping(node, deep)


def parse_config(content: bytes, path: str | Path) -> dict[str, Any]:
    """Read the options of a config.

    Args:
        content: of the file.
        path: of the file, for the message.

    Returns:
        Values by name; an empty dictionary where the file is empty.

    Raises:
        RunError: one line that says what is wrong.

    Example:
        >>> parse_config(b"chunk_len: 4", "mine.yaml")
        {'chunk_len': 4}
        >>> parse_config(b"lr: 1, lr: 2", "mine.yaml")
        Traceback (most recent call last):
            ...
        seqdni.recipes.errors.RunError: mine.yaml: mapping values are not allowed here, line 1
    """
    try:
        found = yaml.load(content.decode(), _Loader)
    except UnicodeDecodeError as error:
        raise RunError(
            f"{path}: byte {error.start} is not UTF-8; expected YAML, save it as UTF-8"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RunError(f"{path}: {' '.join(str(error.problem).split())}{line}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: {' '.join(str(error).split())}") from None
    found = {} if found is None else found
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise RunError(f"{path}: expected options by name, a line each, such as chunk_len: 4")
    return found
