"""Corpora that can be downloaded: once, checked, into the cache."""

from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import pooch

from corpora.cache import cache_folder
from corpora.errors import CorpusError

SECONDS = 30  # without an answer


class Remote(NamedTuple):
    """A file to download.

    Args:
        url: where it is.
        checksum: as pooch writes it, ``"sha256:..."``.
        members: what to take out of it where it is a zip archive.
    """

    url: str
    checksum: str
    members: tuple[str, ...] = ()


def fetch(name: str, files: tuple[Remote, ...], remedy: str) -> Path:
    """The folder with a corpus's files, downloaded where they are not there yet.

    Args:
        name: of the corpus.
        files: of it.
        remedy: what the message tells the user to do without a network.

    Returns:
        A folder in the cache.

    Raises:
        CorpusError: no network, or the file there is not the one expected.
    """
    folder = cache_folder() / "downloads" / name
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=SECONDS)
    for file in files:
        file_name = file.url.rsplit("/", 1)[1]
        processor = None
        if file.members:
            processor = pooch.Unzip(members=list(file.members), extract_dir=".")
        try:
            pooch.retrieve(
                file.url,
                file.checksum,
                fname=file_name,
                path=folder,
                processor=processor,
                downloader=downloader,  # pyright: ignore[reportArgumentType]
            )
        except (OSError, ValueError, BadZipFile) as error:  # those of requests are OSErrors
            reason = " ".join(str(error).split())[:200]
            raise CorpusError(f"{name}: cannot download {file.url} ({reason}); {remedy}") from None
    return folder
