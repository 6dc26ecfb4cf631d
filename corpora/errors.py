"""The one exception for bad data."""


class CorpusError(ValueError):
    """Data from the user that cannot be used: one line with what was got and what to do.

    Example:
        >>> raise CorpusError("notes.txt is empty; give a file with text in it")
        Traceback (most recent call last):
            ...
        seqdni.corpora.errors.CorpusError: notes.txt is empty; give a file with text in it
    """
