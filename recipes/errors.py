"""What the command line shows as one line, without a traceback."""


class RunError(Exception):
    """A run cannot start or go on; the message says what was got, what was expected, what to do."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type where it has none.

    Args:
        error: any.

    Returns:
        At most 200 characters.
    """
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


class RunStopped(Exception):
    """The user stopped the run; everything is saved."""
