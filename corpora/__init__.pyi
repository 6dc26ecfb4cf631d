"""Data for the recipes: episodic tasks, and text as streams of characters, words or subwords."""

from .batch import Batch
from .errors import CorpusError
from .tasks.adding import AddingTask
from .tasks.copy_memory import CopyMemoryTask
from .tasks.copying import CopyTask, RepeatCopyTask
from .tasks.count_digits import (
    COUNTED,
    CountDigits,
    Digits,
    read_small_digits,
    render_digits,
)
from .tasks.curriculum import next_difficulty
from .tasks.episodes import BackToBackEpisodes, LockstepEpisodes
from .tasks.mnist import Images, Mnist, MnistTask, pixel_order, read_mnist
from .tasks.recall import RecallTask
from .tasks.shuffled_images import ShuffledImages
from .tasks.task import Difficulty, Episode, EpisodicTask
from .tasks.whole_image import WholeImage
from .text.cache import Encoded, encode_splits
from .text.characters import Characters, CharVocabulary
from .text.from_torchtext import (
    from_torchtext,
    import_torchtext,
    torchtext_vocabulary,
)
from .text.penn_treebank import ptb_lines, ptb_text
from .text.remarks import remarks
from .text.size import Size, scored_size, size_of
from .text.source import Source, Stretch, blocks
from .text.stream import TokenStream, evaluation_chunks
from .text.subwords import Subwords, SubwordVocabulary
from .text.text import Text, own_splits, own_text, pydoc_text
from .text.vocabulary import KnownVocabulary, Tokens, Vocabulary, vocabulary_from
from .text.wikipedia import enwik8_text, text8_text, wikitext_text
from .text.words import Words, WordVocabulary

__all__ = [
    "COUNTED",
    "AddingTask",
    "BackToBackEpisodes",
    "Batch",
    "CharVocabulary",
    "Characters",
    "CopyMemoryTask",
    "CopyTask",
    "CorpusError",
    "CountDigits",
    "Difficulty",
    "Digits",
    "Encoded",
    "Episode",
    "EpisodicTask",
    "Images",
    "KnownVocabulary",
    "LockstepEpisodes",
    "Mnist",
    "MnistTask",
    "RecallTask",
    "RepeatCopyTask",
    "ShuffledImages",
    "Size",
    "Source",
    "Stretch",
    "SubwordVocabulary",
    "Subwords",
    "Text",
    "TokenStream",
    "Tokens",
    "Vocabulary",
    "WholeImage",
    "WordVocabulary",
    "Words",
    "blocks",
    "encode_splits",
    "enwik8_text",
    "evaluation_chunks",
    "from_torchtext",
    "import_torchtext",
    "next_difficulty",
    "own_splits",
    "own_text",
    "pixel_order",
    "ptb_lines",
    "ptb_text",
    "pydoc_text",
    "read_mnist",
    "read_small_digits",
    "remarks",
    "render_digits",
    "scored_size",
    "size_of",
    "text8_text",
    "torchtext_vocabulary",
    "vocabulary_from",
    "wikitext_text",
]
