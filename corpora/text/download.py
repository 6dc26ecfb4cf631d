"""Corpora that can be downloaded: once, checked, into the cache."""

import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import pooch

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.cache import cache_folder

SECONDS = 30  # without an answer


class Remote(NamedTuple):
    """A file to download.

    Args:
        url: where it is.
        checksum: as pooch writes it, ``"sha256:..."``; None where it is not known.
        members: what to take out of it where it is a zip archive.
    """

    url: str
    checksum: str | None
    members: tuple[str, ...] = ()


def fetch(name: str, files: tuple[Remote, ...], remedy: str) -> Path:
    """The folder with a corpus's files, downloaded where they are not there yet.

    Args:
        name: of the corpus.
        files: of it.
        remedy: what the message tells the user to do without a network.

    Returns:
        A folder in the cache; the members of archives keep the folders that they have in them.

    Raises:
        CorpusError: no network, or the file there is not the one expected, or cannot be stored.
    """
    folder = cache_folder() / "downloads" / name
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=SECONDS)
    for file in files:
        if file.members and all((folder / member).exists() for member in file.members):
            continue
        file_name = file.url.rsplit("/", 1)[1]
        if file.members:  # an archive is this process's own, and goes whether it is good or not
            file_name = f"{uuid.uuid4().hex}-{file_name}"
        try:
            path = pooch.retrieve(
                file.url,
                file.checksum,
                fname=file_name,
                path=folder,
                downloader=downloader,  # pyright: ignore[reportArgumentType]
            )
            if file.members:
                _unpack(Path(path), folder, file.members)
        except (OSError, ValueError, KeyError, BadZipFile) as error:  # requests' are OSErrors
            reason = " ".join(str(error).split())[:200]
            raise CorpusError(f"{name}: cannot download {file.url} ({reason}); {remedy}") from None
        finally:
            if file.members:
                (folder / file_name).unlink(missing_ok=True)
    return folder


def _unpack(archive: Path, folder: Path, members: tuple[str, ...]) -> None:
    """Each member appears in the folder at once."""
    with ZipFile(archive) as zipped:
        for member in members:
            target = folder / member
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
            try:
                with zipped.open(member) as source, open(part, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
