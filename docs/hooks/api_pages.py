"""MkDocs hook: the API pages, one for each purpose, with the public names of each package.

A name that a package exports and that stands in no group stops the build.
"""

import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
LINKS = ROOT / "build/docs"  # read by mkdocstrings, see mkdocs.yml
GROUPS = {
    "seqdni": {
        "Training": "Trainer Learner DataParallel SyntheticGradients Chunk ChunkLike "
        "whole_episodes Model RunningSums",
        "Synthetic gradients": "Boundary Audit cut target_grad bootstrap_term controls",
        "Synthesizers": "Critic LeastSquares MLPSynthesizer ConvSynthesizer Whitening Synthesizer "
        "CapturableSynthesizer",
        "Other ways past a boundary": "Influence UnitwiseCore UnitSteps Source Overlap "
        "look_ahead RandomTruncation Reweighted Checkpointed",
        "Models": "SequenceModel OneHot TorchCore LRU Stack LockedDropout without_dropout "
        "AdaptiveReadout Core unroll TraceableCore unroll_traced Trace",
        "State": "State LSTMState state_size pack unpack detach leaves map_state reset_rows",
        "Losses": "cross_entropy squared_error masked_sum to_bits to_perplexity",
        "Measuring the horizon": "measure_horizon Horizon Agreement Lag",
        "Hierarchies": "Hierarchy Level HierarchyTrainer LevelTraining HierarchyChunk "
        "train_levels_in_processes Waited",
        "Feed-forward nets": "LayerTrainer SyntheticInput train_in_threads train_in_processes Span",
        "Finished runs": "load",
    },
    "seqdni.corpora": {
        "Streams": "TokenStream evaluation_chunks LockstepEpisodes BackToBackEpisodes "
        "ShuffledImages Batch",
        "Tasks": "CopyTask RepeatCopyTask AddingTask RecallTask CopyMemoryTask MnistTask "
        "WholeImage CountDigits Difficulty next_difficulty Episode EpisodicTask",
        "Digits": "read_mnist Mnist Images pixel_order read_small_digits Digits COUNTED "
        "render_digits",
        "Texts": "Text pydoc_text ptb_text ptb_lines wikitext_text enwik8_text text8_text "
        "own_text own_splits Source Stretch blocks remarks CorpusError",
        "Tokens": "encode_splits Encoded Characters Words Subwords Tokens Vocabulary "
        "CharVocabulary WordVocabulary SubwordVocabulary KnownVocabulary vocabulary_from Size "
        "scored_size size_of",
        "torchtext": "from_torchtext import_torchtext torchtext_vocabulary",
    },
}
OVERVIEW = "api/index.md"


def pages() -> dict[str, str]:
    """The text of every page, by its path.

    Returns:
        The overview, with one line for each name, and a page for each group.

    Raises:
        PluginError: a package exports a name that is in no group.
    """
    overview = ["# API", "", "**These are the public names, by what they are for.**", ""]
    found = {}
    with TemporaryDirectory() as folder:
        link_packages(folder)
        for package, groups in GROUPS.items():
            module = griffe.load(package, search_paths=[folder])
            grouped = [name for names in groups.values() for name in names.split()]
            if missing := sorted({str(name) for name in module.exports or ()} - set(grouped)):
                raise PluginError(
                    f"{package} exports {', '.join(missing)}, expected each name in one group of "
                    "docs/hooks/api_pages.py; add it there"
                )
            overview += [f"## {package}", "", first_line(module), ""]
            for title, names in groups.items():
                path = page_of(package, title)
                link = path.removeprefix("api/")
                overview += [f"### [{title}]({link})", "", "| name | what it is |", "|---|---|"]
                for name in names.split():
                    where = f"[`{name}`]({link}#{package}.{name})"
                    overview.append(f"| {where} | {first_line(module[name])} |")
                overview.append("")
                shown = "\n\n".join(f"::: {package}.{name}" for name in names.split())
                found[path] = f"# {title}\n\n{shown}\n"
    return {OVERVIEW: "\n".join(overview), **found}


def link_packages(folder: str | Path) -> None:
    """Make links to the packages in a folder, as they are installed."""
    subprocess.run([ROOT / ".ci/links", folder], check=True)


def page_of(package: str, title: str) -> str:
    """Where the page of a group lies."""
    return f"api/{package.split('.')[-1]}/{title.lower().replace(' ', '-')}.md"


def first_line(thing: griffe.Object | griffe.Alias) -> str:
    """The first line of a docstring, with names as code, for a cell of a table."""
    line = thing.docstring.value.splitlines()[0] if thing.docstring else ""
    return re.sub(r":\w+:(`[^`]+`)", r"\1", line).replace("|", r"\|")


def on_startup(command: str, dirty: bool) -> None:
    """Make the links before any plugin looks for the packages."""
    shutil.rmtree(LINKS, ignore_errors=True)
    link_packages(LINKS)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages in the navigation, after those of mkdocs.yml."""
    assert config.nav is not None
    nav: list = [{"Overview": OVERVIEW}]
    for package, groups in GROUPS.items():
        nav.append({package: [{title: page_of(package, title)} for title in groups]})
    config.nav.append({"API": nav})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the pages; mkdocstrings fills them from the docstrings."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
