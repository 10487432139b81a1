"""The command line: `alt compile|run|explain|check|bench|logs`.

The only place that reads the environment, sets up logging and draws progress. Results go to
standard output, progress and errors to standard error. Exit codes: 0 fine, 1 what was asked cannot
be done (or `alt check` says no), 2 the command line itself is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn, TextIO

from tqdm import tqdm

from alt import arguments, logs, verbs
from alt.errors import AltError

_INTRODUCTION = """\
ALT compiles neural networks. It takes an ONNX file and makes code for this machine's CPU, in
seconds, with nothing to tune. A compiled model is one file, an artifact, that runs without ONNX.

  alt check   resnet18.onnx                  can it be compiled? if not, what is in the way?
  alt compile resnet18.onnx -o resnet18.alt  compile once, save the artifact
  alt run     resnet18.alt --input x=x.npy   run it on your data, or on random numbers
  alt bench   resnet18.alt                   how fast is it?
  alt explain resnet18.alt                   where does the time go, kernel by kernel?

run, bench and explain take an ONNX file too and compile it first.
"""
_EXAMPLES = {
    "compile": """\
examples:
  alt compile model.onnx                                  writes model.alt
  alt compile model.onnx -o out.alt --verify              compares with ONNX Runtime first
  alt compile bert.onnx --shape input_ids=1,128 --shape attention_mask=1,128
  alt compile model.onnx --constant axes=[1,2] --constant scale=@scale.npy
  alt compile model.onnx --target '{"kind": "llvm", "mcpu": "x86-64-v3"}'
""",
    "run": """\
examples:
  alt run model.alt                                       random inputs
  alt run model.alt --input image=image.npy --output results
  alt run model.onnx --shape x=1,3,224,224 --json
""",
    "explain": """\
examples:
  alt explain model.alt --graph model.svg                 with a picture
  alt explain model.onnx --threads 1 --json
""",
    "check": "examples:\n  alt check model.onnx\n  alt check model.onnx --shape x=1,3,224,224\n",
    "bench": "examples:\n  alt bench model.alt --repeats 200\n  alt bench model.onnx --threads 1\n",
}


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"alt: error: {message}; see {self.prog} --help\n")


class _Progress:
    """A bar on a terminal; elsewhere one line for each stage."""

    def __init__(self, stream: TextIO, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._stage = ""
        self._start = time.monotonic()
        self._bar: tqdm | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if self._stream.isatty():
            if self._bar is None:
                layout = "{desc:<10} |{bar:30}| {elapsed}"
                self._bar = tqdm(file=self._stream, leave=False, bar_format=layout)
            self._bar.total, self._bar.n = total, done
            self._bar.set_description_str(stage)
        elif stage != self._stage:
            seconds = time.monotonic() - self._start
            print(f"[{seconds:4.0f}s] {stage}", file=self._stream, flush=True)
        self._stage = stage

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="alt", description=_INTRODUCTION, formatter_class=style)
    version = f"alt {_version()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="verb", required=True, metavar="verb", title="verbs")

    def verb(
        name: str,
        action: Callable[[argparse.Namespace, verbs.Progress], verbs.Answer],
        summary: str,
        model: str = "an ONNX file, or an artifact (.alt)",
    ) -> argparse.ArgumentParser:
        parser = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=_EXAMPLES[name],
            formatter_class=style,
        )
        add = parser.add_argument
        add("model", type=Path, metavar="MODEL", help=model)
        add(
            "--shape",
            type=arguments.shape,
            action="append",
            default=[],
            metavar="NAME=1,3,224,224",
            help="shape of an input that the file leaves open; may be given again",
        )
        add(
            "--constant",
            type=arguments.constant,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="make an input part of the model: JSON ([1,2]) or @FILE.npy; may be given again",
        )
        add("--json", action="store_true", help="answer in JSON")
        add("--quiet", "-q", action="store_true", help="no progress")
        add("--verbose", "-v", action="store_true", help="show the log, and tracebacks of errors")
        parser.set_defaults(action=action)
        return parser

    def threads(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--threads",
            type=arguments.positive,
            metavar="N",
            help="default: one for each physical core",
        )

    def seed(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--seed", type=int, default=0, help="of random inputs; default: %(default)s"
        )

    only_onnx = "an ONNX file"
    add = verb("compile", verbs.compile_model, "compile a model and save it", only_onnx)
    add.add_argument(
        "-o", "--output", type=Path, metavar="FILE.alt", help="default: the model's name, here"
    )
    add.add_argument(
        "--target",
        type=arguments.target,
        default="llvm",
        help="llvm for this machine (the default), or a TVM target as JSON",
    )
    add.add_argument(
        "--verify",
        action="store_true",
        help="compare with ONNX Runtime (or ONNX's reference) on random inputs first",
    )
    add.add_argument(
        "--no-winograd",
        dest="winograd",
        action="store_false",
        help="sum 3x3 convolutions directly: slower, with a little less rounding",
    )
    threads(add)
    add = verb("run", verbs.run_model, "run a model once and describe what comes out")
    add.add_argument(
        "--input",
        type=arguments.input_file,
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="data for an input, or NAME=random, which is the default; may be given again",
    )
    add.add_argument(
        "--output", type=Path, metavar="FOLDER", help="save every output there, as NAME.npy"
    )
    threads(add)
    seed(add)
    add = verb("explain", verbs.explain_model, "say how every kernel runs and what it costs")
    what = "draw the layouts and conversions too: .svg, .png or .dot"
    add.add_argument("--graph", type=arguments.picture, metavar="FILE.svg", help=what)
    threads(add)
    verb(
        "check",
        verbs.check_model,
        "say whether a model can be compiled, and if not, why",
        only_onnx,
    )
    add = verb("bench", verbs.bench_model, "time a model on random inputs")
    add.add_argument(
        "--repeats",
        type=arguments.positive,
        default=50,
        metavar="N",
        help="calls; default: %(default)s",
    )
    threads(add)
    seed(add)
    summary = "look at logs of tuning, merge them, make them smaller"
    add = commands.add_parser("logs", help=summary, epilog=logs.EXAMPLES, formatter_class=style)
    logs.declare(add, _state_folder())
    return parser


def _state_folder() -> Path:
    """Where this user's state is kept, after the XDG base directory specification."""
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".local" / "state") / "alt"


def _version() -> str:
    try:
        return metadata.version("alt-compiler")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _for_command_line(message: str) -> str:
    """One line, with arguments of the Python interface spelled as options.

    Example:
        >>> _for_command_line("bind it with shapes={'x': (1, 3)}")
        'bind it with --shape x=1,3'
    """

    def option(match: re.Match[str]) -> str:
        return f"--shape {match[1]}={match[2].replace(' ', '').rstrip(',')}"

    line = "; ".join(part.strip() for part in message.splitlines() if part.strip())
    return re.sub(r"shapes=\{'([^']*)': \(([^)]*)\)\}", option, line)


def _fail(message: str) -> int:
    print(f"alt: error: {_for_command_line(message)}", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(argv)
    for name in ("shape", "constant", "input"):
        if hasattr(options, name):
            setattr(options, name, dict(getattr(options, name)))
    if options.verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    else:
        warnings.simplefilter("ignore")
    progress = _Progress(sys.stderr, options.quiet)
    try:
        answer = options.action(options, progress)
        progress.close()
        text = json.dumps(answer.data, indent=2) if options.json else answer.text
        print(text if options.json else _on_lines(text), flush=True)
    except AltError as error:
        progress.close()
        if options.verbose:
            logging.getLogger(__name__).exception("failed")
        return _fail(str(error))
    except KeyboardInterrupt:
        progress.close()
        print("alt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough: leave without complaint, also at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # a fault of ours; still no traceback unless asked
        progress.close()
        if options.verbose:
            raise
        return _fail(
            f"internal error, please report it with what -v shows: {type(error).__name__}: {error}"
        )
    return 0 if answer.ok else 1


def _on_lines(text: str) -> str:
    return "\n".join(
        _for_command_line(line) if "shapes={" in line else line for line in text.split("\n")
    )
