"""Downloads the files of corpora into the cache, once, and checks them."""

import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile, ZipFile

import pooch

from seqdni.corpora.errors import CorpusError
from seqdni.corpora.text.cache import cache_folder

SECONDS = 30  # to wait for an answer


class Remote(NamedTuple):
    """A file to download.

    Args:
        url: of the file.
        checksum: in the form of pooch, ``"sha256:..."``; None if it is not known.
        members: the files to take out of it, if it is a zip archive.
    """

    url: str
    checksum: str | None
    members: tuple[str, ...] = ()


def fetch(name: str, files: tuple[Remote, ...], remedy: str) -> Path:
    """Download the files of a corpus that are not in the cache yet.

    Args:
        name: of the corpus.
        files: of the corpus.
        remedy: the part of an error message that says what to do without a network.

    Returns:
        The folder of the files in the cache; members of archives keep their paths.

    Raises:
        CorpusError: there is no network, the file is not the one expected, or it cannot be stored.
    """
    folder = cache_folder() / "downloads" / name
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=SECONDS)
    for file in files:
        if file.members and all((folder / member).exists() for member in file.members):
            continue
        file_name = file.url.rsplit("/", 1)[1]
        if file.members:  # each process has an archive of its own, and removes it in the end
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
    """Take the members out of an archive; each one is renamed into its place when it is whole."""
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
