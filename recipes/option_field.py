"""An option: a dataclass field that knows its help, its limits and when it has an effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, field, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from seqdni.recipes.errors import RunError
from seqdni.recipes.memory import check_memory

MOST = 2**63 - 1  # of a whole number: what 64 bits hold
LIMITS = ("updates", "max_seconds", "max_tokens", "epochs")  # what ends a run


def option(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    only: Callable[[Any], bool] | None = None,
    when: str = "",
) -> Any:
    """Make a dataclass field with all that the command line needs to know about an option.

    Args:
        default: the default value.
        help: the text that ``--help`` shows.
        at_least: smallest allowed value.
        at_most: largest allowed value.
        above: all allowed values are larger.
        only: takes all options, and returns whether this one has an effect. If it has none, a value
            for it is refused.
        when: the condition of ``only`` in words, for the error.

    Returns:
        The field.
    """
    limits = {"at_least": at_least, "at_most": at_most, "above": above}
    return field(default=default, metadata={"help": help, **limits, "only": only, "when": when})


def same_option(
    options_type: type,
    name: str,
    default: Any = MISSING,
    only: Callable[[Any], bool] | None = None,
    when: str = "",
) -> Any:
    """Repeat an option of another dataclass, perhaps with another default or one more condition.

    Args:
        options_type: the other dataclass.
        name: of its field.
        default: the other default; if it is not given, the default stays.
        only: one more condition for an effect, besides that of the other option; None: no more.
        when: that condition in words.

    Returns:
        The field.
    """
    other = options_type.__dataclass_fields__[name]
    metadata = dict(other.metadata)
    if only is not None:
        first = metadata["only"]
        metadata["only"] = lambda options: only(options) and (first is None or first(options))
        metadata["when"] = f"{when} and {metadata['when']}" if first else when
    return field(default=other.default if default is MISSING else default, metadata=metadata)


def flag(name: str) -> str:
    """The spelling of an option on the command line.

    Args:
        name: of the dataclass's field.

    Returns:
        E.g. ``--chunk-len``.
    """
    return "--" + name.replace("_", "-")


def check_kinds(options: Any) -> None:
    """Refuse null where a value must be, and true or false where a number must be.

    Args:
        options: a recipe's options, as a config has them.

    Raises:
        RunError: an option cannot be used; the message names it.
    """
    hints = get_type_hints(type(options))
    for each in fields(options):
        value, hint = getattr(options, each.name), hints[each.name]
        kinds = (hint,) if get_origin(hint) is None else get_args(hint)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        if value is None and NoneType not in kinds:
            expected = ", ".join(map(str, choices)) if choices else f"a {hint.__name__}"
            raise RunError(f"{flag(each.name)} is null, expected {expected}")
        if isinstance(value, bool) and bool not in kinds:
            raise RunError(f"{flag(each.name)} is {str(value).lower()}, expected a number")
        if isinstance(value, int) and abs(value) > MOST:
            shown = value if abs(value) < 10**40 else "a number of more than 40 digits"
            raise RunError(f"{flag(each.name)} is {shown}, expected at most {MOST}")
        if isinstance(value, str) and "\0" in value:
            raise RunError(f"{flag(each.name)} has a character of number 0; leave it out")


def check_values(options: Any) -> None:
    """Refuse values out of range, options without an effect, and a run without an end.

    Args:
        options: a recipe's options.

    Raises:
        RunError: an option cannot be used; the message names it.
    """
    check_kinds(options)
    for each in fields(options):
        value = getattr(options, each.name)
        least, most = each.metadata.get("at_least"), each.metadata.get("at_most")
        above = each.metadata.get("above")
        if isinstance(value, (int, float)):
            if least is not None and not value >= least:
                raise RunError(f"{flag(each.name)} is {value}, expected at least {least}")
            if most is not None and not value <= most:
                raise RunError(f"{flag(each.name)} is {value}, expected at most {most}")
            if above is not None and not value > above:
                raise RunError(f"{flag(each.name)} is {value}, expected more than {above}")
    changed = {each.name for each in fields(options) if getattr(options, each.name) != each.default}
    check_effect(options, changed)
    if all(getattr(options, name, None) is None for name in LIMITS):
        raise RunError("nothing says when to stop; give --updates or --max-seconds")
    check_memory(options)


def check_effect(options: Any, given: set[str]) -> None:
    """Refuse options that have no effect, even if they were given with their default value.

    Args:
        options: a recipe's options.
        given: names of the options that the user has set.

    Raises:
        RunError: there is such an option; the message names the first.
    """
    for each in fields(options):
        only = each.metadata.get("only")
        if only is not None and each.name in given and not only(options):
            raise RunError(
                f"{flag(each.name)} has no effect here; it needs {each.metadata['when']}"
            )
