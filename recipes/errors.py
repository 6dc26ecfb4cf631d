"""Errors that the command line shows as one line, without a traceback."""


class RunError(Exception):
    """A run cannot start or go on; the message says what was got, what was expected, what to do."""


def one_line(error: Exception) -> str:
    """An error's message on one line, or its type where it has none.

    Args:
        error: any error.

    Returns:
        At most 200 characters.
    """
    return " ".join(str(error).split())[:200] or type(error).__name__


class RunStopped(Exception):
    """The user stopped the run; everything is saved."""
