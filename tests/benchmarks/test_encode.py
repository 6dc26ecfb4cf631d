import resource

import encode
import pytest


@pytest.mark.parametrize("kind", ["char", "word"])
def test_a_text_of_about_the_size_is_encoded(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(encode, "BLOCK_WORDS", 10_000)
    monkeypatch.setattr(encode, "TYPES", 1000)
    path = tmp_path / "text.txt"
    encode.make_text(path, 1)
    assert 1_000_000 <= path.stat().st_size < 1_200_000
    result = encode.encode(path, kind, tmp_path / "cache")
    assert result["types"] in ((29,) if kind == "char" else range(900, 1003))
    assert 0.1e6 < result["tokens"] < 1.1e6
    assert result["again"] > 0
    assert result["peak"] <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 + 1
