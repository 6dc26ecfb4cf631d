"""What the command line shows as one line, without a traceback."""


class RunError(Exception):
    """A run cannot start or go on; the message says what was got, what was expected, what to do."""


class RunStopped(Exception):
    """The user stopped the run; everything is saved."""
