"""How fast a text of one's own becomes token ids, and how much memory that takes.

    python benchmarks/encode.py --megabytes 1000

A text of this size is made (words of a Zipf distribution, 20 words a line), and each kind of tokens
encodes it in a process of its own with an empty cache, then reads it from the cache. After that the
text is encoded once more with the vocabulary that was learned, so that the time without learning is
known: most of the time of subwords is sentencepiece's own learning, from at most 20 MB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

KINDS = ("char", "word", "subword")
TYPES = 200_000  # different words
BLOCKS = 8  # different blocks of text, in turn
BLOCK_WORDS = 500_000


def make_text(path: Path, megabytes: int) -> None:
    """Write a text of about this size.

    Args:
        path: of the file.
        megabytes: 10^6 bytes.
    """
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzé"))
    lengths = generator.integers(2, 10, TYPES)
    words = np.array(["".join(generator.choice(letters, length)) for length in lengths])
    blocks = []
    for _ in range(BLOCKS):
        drawn = words[np.minimum(generator.zipf(1.2, BLOCK_WORDS), TYPES) - 1].reshape(-1, 20)
        blocks.append("".join(" ".join(line) + "\n" for line in drawn.tolist()).encode())
    with open(path, "wb") as file:
        while file.tell() < megabytes * 1_000_000:
            file.write(blocks[generator.integers(BLOCKS)])


def encode(path: Path, kind: str, cache_dir: Path) -> dict[str, float]:
    """Encode a file and read it again from the cache, in this process.

    Args:
        path: of the text.
        kind: of tokens.
        cache_dir: an empty folder.

    Returns:
        Seconds, and the peak of the memory in MB.
    """
    import resource

    from seqdni.corpora import (
        Characters,
        KnownVocabulary,
        Subwords,
        Words,
        encode_splits,
        own_text,
    )

    tokens = {"char": Characters, "word": Words, "subword": Subwords}[kind]()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    encoded = encode_splits(own_text(path), tokens, cache_dir)
    middle, middle_cpu = time.perf_counter(), time.process_time()
    encode_splits(own_text(path), tokens, cache_dir)
    end = time.perf_counter()
    known = KnownVocabulary(encoded.vocabulary)
    known_cpu = time.process_time()
    encode_splits(own_text(path), known, cache_dir)
    known_cpu = time.process_time() - known_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return {
        "encode": middle - begin,
        "cpu": middle_cpu - begin_cpu,
        "known_cpu": known_cpu,
        "again": end - middle,
        "peak": peak / 1_000_000,
        "types": len(encoded.vocabulary),
        "tokens": len(encoded.train),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=100, help="size of the text")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["char", "word"])
    parser.add_argument("--folder", help="where to work; needs up to three times the size")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, kind, cache_dir = options.child
        print(json.dumps(encode(Path(path), kind, Path(cache_dir))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "text.txt")
        make_text(path, options.megabytes)
        size = path.stat().st_size / 1_000_000
        print(f"{size:.0f} MB of text")
        for kind in options.kinds:
            with tempfile.TemporaryDirectory(dir=folder) as cache_dir:
                child = [sys.executable, __file__, "--child", str(path), kind, cache_dir]
                done = subprocess.run(child, check=True, capture_output=True, text=True)
                result = json.loads(done.stdout)
            print(
                f"{kind:8} {size / result['encode']:6.1f} MB/s, "
                f"{size / result['cpu']:6.1f} MB per second of CPU, with a known vocabulary "
                f"{size / result['known_cpu']:6.1f}, from the cache "
                f"{size / result['again']:6.1f} MB/s, peak {result['peak']:.0f} MB, "
                f"{result['types']} types, {result['tokens']} training tokens",
                flush=True,
            )


if __name__ == "__main__":
    main()
