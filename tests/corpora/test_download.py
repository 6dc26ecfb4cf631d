"""Downloads from a server on this machine: no network is needed."""

import hashlib
import io
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from seqdni.corpora import CorpusError, Words, encode_splits, ptb_text, wikitext_text
from seqdni.corpora.text import penn_treebank as ptb_module
from seqdni.corpora.text import wikipedia
from seqdni.corpora.text.download import Remote, fetch

MEMBERS = ("clock/a.txt", "clock/b.txt")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder and the address under which its files are served."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDNI_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def zip_of(texts: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_archive(site, cache):
    folder, address = site
    content = zip_of({"clock/a.txt": "tick", "clock/b.txt": "tock", "clock/c.txt": "not wanted"})
    (folder / "clock.zip").write_bytes(content)
    remote = Remote(f"{address}/clock.zip", sha256(content), MEMBERS)
    place = fetch("clock", (remote,), "")
    assert place == cache / "downloads" / "clock"
    assert (place / "clock/a.txt").read_text() == "tick"
    assert sorted(path.name for path in place.rglob("*.*")) == ["a.txt", "b.txt"]
    (folder / "clock.zip").unlink()
    assert fetch("clock", (remote,), "") == place  # not downloaded again


def test_what_was_interrupted_goes_on(site, cache):
    folder, address = site
    content = zip_of({"clock/a.txt": "tick", "clock/b.txt": "tock"})
    (folder / "clock.zip").write_bytes(content)
    (cache / "downloads/clock/clock").mkdir(parents=True)
    (cache / "downloads/clock/clock/a.txt").write_text("tick")
    place = fetch("clock", (Remote(f"{address}/clock.zip", sha256(content), MEMBERS),), "")
    assert (place / "clock/b.txt").read_text() == "tock"


def test_wrong_checksum(site, cache):
    folder, address = site
    (folder / "a.txt").write_text("tack")
    with pytest.raises(CorpusError, match=r"clock: cannot download http.*/a\.txt \(.*; get it"):
        fetch("clock", (Remote(f"{address}/a.txt", sha256(b"tick")),), "get it elsewhere")
    assert not list(cache.rglob("a.txt"))


@pytest.mark.parametrize("content", [b"no archive", zip_of({"clock/a.txt": "tick"})])
def test_wrong_archive(site, content):
    folder, address = site
    (folder / "clock.zip").write_bytes(content)
    with pytest.raises(CorpusError, match=r"cannot download http.*/clock\.zip \(.*zip|archive"):
        fetch("clock", (Remote(f"{address}/clock.zip", sha256(content), MEMBERS),), "get it")


def test_file_missing_on_the_server(site):
    with pytest.raises(CorpusError, match=r"cannot download .*404.*; get it elsewhere"):
        fetch("clock", (Remote(f"{site[1]}/a.txt", None),), "get it elsewhere")


def test_no_server():
    with pytest.raises(
        CorpusError, match=r"cannot download http://127\.0\.0\.1:9/a\.txt \(.*"
    ) as e:
        fetch("clock", (Remote("http://127.0.0.1:9/a.txt", None),), "get it elsewhere")
    assert "\n" not in str(e.value)


def test_wikitext(site, monkeypatch, tmp_path):
    folder, address = site
    content = zip_of(
        {f"wikitext-2/wiki.{s}.tokens": " tick \n" for s in ("train", "valid", "test")}
    )
    (folder / "wikitext-2-v1.zip").write_bytes(content)
    monkeypatch.setattr(wikipedia, "WIKITEXT_SITE", address)
    monkeypatch.setitem(wikipedia.WIKITEXT_CHECKSUM, "wikitext-2", sha256(content))
    monkeypatch.setitem(wikipedia.LINES, "wikitext-2", dict.fromkeys(("train", "valid", "test"), 1))
    monkeypatch.setitem(wikipedia.WORDS, "wikitext-2", dict.fromkeys(("train", "valid", "test"), 2))
    encoded = encode_splits(wikitext_text("wikitext-2"), Words())
    assert encoded.vocabulary.decode(encoded.valid) == "tick\n"


def test_ptb(site, monkeypatch, ptb_dir):
    folder, address = site
    files = []
    for remote in ptb_module.FILES:
        name = remote.url.rsplit("/", 1)[1]
        (folder / name).write_bytes((ptb_dir / name).read_bytes())
        files.append(Remote(f"{address}/{name}", remote.checksum))
    monkeypatch.setattr(ptb_module, "FILES", tuple(files))
    assert ptb_text(None) == ptb_text(ptb_dir)
