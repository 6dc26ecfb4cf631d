"""The command line: ``seqdni ls``, ``run``, ``eval``, ``sample``, ``horizon``, ``plot``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

import shtab

import seqdni
from seqdni.corpora import CorpusError
from seqdni.recipes.commands.plot import AXES
from seqdni.recipes.commands.run import run
from seqdni.recipes.completion import add_recipes
from seqdni.recipes.errors import RunError
from seqdni.recipes.launched import launched
from seqdni.recipes.memory import is_out_of_memory, too_large
from seqdni.recipes.parsing import CONFIGS, did_you_mean
from seqdni.recipes.registry import RECIPES


class Words(argparse.ArgumentParser):
    """A parser that raises :class:`RunError` for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        known = list(self._option_string_actions)
        unknown = [word.split("=")[0] for word in message.split() if word.startswith("--")]
        hint = "".join(did_you_mean(word, known) for word in unknown[:1] if word not in known)
        raise RunError(f"{message}{hint or f'; see: {self.prog} --help'}")

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Parse the words, and let each command refuse those that it does not know."""
        found, rest = super().parse_known_args(args, namespace)
        if rest and self._subparsers is None:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def entry() -> NoReturn:
    """The process of the command ``seqdni``: run :func:`main`, and end with its status."""
    status = main()
    if launched() > 1:  # threads of Gloo can abort a process that ends in the usual way
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words of the command line; None takes those of the process.

    Returns:
        The exit status: 0, 1 if the command was refused or failed, 130 if the user stopped it.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may write what a terminal cannot show
    try:
        if words[:1] == ["run"] and words[1:] not in ([], ["-h"], ["--help"]):
            return run(words[1:])
        options = _parser("--print-completion" in words).parse_args(words)
        return options.command(options)
    except (RunError, CorpusError) as error:
        print(f"seqdni: error: {error}", file=sys.stderr)
    except BrokenPipeError:  # the program that read the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"seqdni: error: {where}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("seqdni: stopped at once", file=sys.stderr)
        return 130
    except (RuntimeError, MemoryError, OverflowError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"seqdni: error: {too_large(error)}", file=sys.stderr)
    return 1


def _ls(_options: argparse.Namespace) -> int:
    width = max(map(len, RECIPES))
    for name, recipe in RECIPES.items():
        print(f"{name:<{width}}  {recipe.summary}")
    print("\nConfigs that come with it, for seqdni run RECIPE --config NAME:")
    for path in sorted(CONFIGS.glob("*.yaml")):
        what, measured = path.read_text().splitlines()[:2]
        print(f"{path.stem}\n  {what.removeprefix('# ')}\n  {measured.removeprefix('# ')}")
    return 0


def _run(options: argparse.Namespace) -> int:
    return run([options.recipe, *options.options])


def _finished() -> ModuleType:
    """The commands that read finished runs; they need torch, which help does not."""
    from seqdni.recipes.commands import finished

    return finished


def _parser(completing: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands; it has the options of the recipes only for shell completion."""
    parser = Words(
        prog="seqdni",
        description="Train RNNs by truncated BPTT with synthetic gradients at chunk boundaries.",
        epilog="Try: seqdni run lm --updates 300, then seqdni sample on the folder it names.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"seqdni {seqdni.__version__}")
    shtab.add_argument_to(
        parser, "--print-completion", help="print a script that completes words in this shell"
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    ls = commands.add_parser("ls", help="list the recipes")
    ls.set_defaults(command=_ls)

    run_ = commands.add_parser(
        "run",
        help="run a recipe, or resume a run",
        description="Run a recipe. Its options are shown by: seqdni run RECIPE --help. A run that "
        "was stopped is continued by: seqdni run --resume DIR",
    )
    if completing:
        add_recipes(run_, RECIPES)
    else:
        run_.add_argument(
            "recipe", metavar="RECIPE", choices=list(RECIPES), help=", ".join(RECIPES)
        )
        run_.add_argument(
            "options", nargs=argparse.REMAINDER, metavar="...", help="options of the recipe"
        )
    run_.set_defaults(command=_run)

    eval_ = commands.add_parser("eval", help="compute a run's result again from its checkpoint")
    eval_.add_argument("dir", metavar="DIR", help="folder of the run")
    eval_.add_argument("--text", metavar="FILE", help="lm: score this text, not the run's corpus")
    eval_.add_argument(
        "--split", choices=["train", "valid", "test"], help="lm: score only this split"
    )
    eval_.add_argument(
        "--unknown",
        choices=["refuse", "replace"],
        help="lm by character: what to do with characters of --text that the model does not know "
        "(default: refuse)",
    )
    eval_.add_argument(
        "--data-dir",
        metavar="DIR",
        help="mnist, count-digits, lm: folder of the data, if it has moved",
    )
    eval_.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    eval_.set_defaults(command=lambda given: _finished().evaluate(given))

    export_ = commands.add_parser(
        "export", help="write a run's weights as safetensors, with its config and vocabulary"
    )
    export_.add_argument("dir", metavar="DIR", help="folder of the run")
    export_.add_argument(
        "--data-dir", metavar="DIR", help="mnist: folder of the data, if it has moved"
    )
    export_.add_argument("--out", metavar="DIR", help="folder to write (default: DIR/export)")
    export_.add_argument("--device", default="cpu", help=argparse.SUPPRESS)
    export_.set_defaults(command=lambda given: _finished().export(given))

    horizon_ = commands.add_parser(
        "horizon", help="compare a run's synthetic gradients with the true ones"
    )
    horizon_.add_argument("dir", metavar="DIR", help="folder of the run")
    horizon_.add_argument(
        "--length",
        type=int,
        help="length of the episode, or number of chunks of text (default: the recipe's)",
    )
    horizon_.add_argument(
        "--data-dir", metavar="DIR", help="mnist, lm: folder of the data, if it has moved"
    )
    horizon_.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    horizon_.set_defaults(command=lambda given: _finished().horizon(given))

    plot_ = commands.add_parser(
        "plot",
        help="draw learning curves of several runs",
        description="Draw learning curves from the metrics of runs. Runs that differ only in their "
        "seed become one line, their mean, in a band from the smallest to the largest value.",
    )
    plot_.add_argument("dirs", metavar="DIR", nargs="+", help="folders of runs")
    plot_.add_argument(
        "--metric", help="a name in metrics.jsonl (default: one that all the runs have)"
    )
    plot_.add_argument(
        "--against",
        choices=list(AXES),
        default="updates",
        help="what the horizontal axis shows (default: updates)",
    )
    plot_.add_argument(
        "--out",
        metavar="FILE",
        help="picture to write, .png or .svg (default: METRIC-by-AGAINST.png in this folder)",
    )
    plot_.set_defaults(command=lambda given: _finished().plot(given))

    sample = commands.add_parser("sample", help="print what a trained model generates")
    sample.add_argument("dir", metavar="DIR", help="folder of the run")
    sample.add_argument("--length", type=int, help="number of symbols (default: the recipe's)")
    sample.add_argument(
        "--data-dir", metavar="DIR", help="mnist, count-digits: folder of the data, if it has moved"
    )
    sample.add_argument(
        "--seed", type=int, default=0, help="seed of the random choices (default: 0)"
    )
    sample.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        help="lm: divides the scores; below 1 likely symbols are chosen more often, 0 always takes "
        "the likeliest (default: 1)",
    )
    sample.add_argument(
        "--top-k", type=int, help="lm: choose among the k likeliest symbols (default: all)"
    )
    sample.add_argument("--prompt", default="", help="lm: text to continue")
    sample.add_argument("--device", default="auto", help="cpu, cuda ... (default: auto)")
    sample.set_defaults(command=lambda given: _finished().sample(given))
    return parser


if __name__ == "__main__":
    sys.exit(main())
