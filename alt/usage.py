"""What can be typed: the verbs of the command line, their options, their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from alt import arguments, logs, tuning_verbs, verbs
from alt.cuda.gpu import PRECISIONS
from alt.messages import Timing
from alt.policies import JOINT, POLICIES
from alt.watch import Progress
from tuner.log import default_log_path
from tuner.options import SEARCHERS, Options

_INTRODUCTION = """\
ALT compiles neural networks. It takes an ONNX file and makes code for this machine's CPU, in
seconds, with nothing to tune. A compiled model is one file, an artifact, that runs without ONNX.
Tuning measures layouts and loops on this machine, and what it writes down is compiled with.

  alt check   resnet18.onnx                  can it be compiled? if not, what is in the way?
  alt compile resnet18.onnx -o resnet18.alt  compile once, save the artifact
  alt run     resnet18.alt --input x=x.npy   run it on your data, or on random numbers
  alt bench   resnet18.alt                   how fast is it?
  alt explain resnet18.alt                   where does the time go, kernel by kernel?
  alt tune    resnet18.onnx --minutes 10     measure what is faster, write it into a log
  alt replay  resnet18.onnx --log LOG        compile with what the log says
  alt report  LOG                            a page that shows what tuning did

run, bench and explain take an ONNX file too and compile it first.
"""
_EXAMPLES = {
    "compile": """\
examples:
  alt compile model.onnx                                  writes model.alt
  alt compile model.onnx -o out.alt --verify              compares with ONNX Runtime first
  alt compile bert.onnx --shape input_ids=1,128 --shape attention_mask=1,128
  alt compile model.onnx --constant axes=[1,2] --constant scale=@scale.npy
  alt compile model.onnx --log model.jsonl                with what alt tune has found
  alt compile model.onnx --target '{"kind": "llvm", "mcpu": "x86-64-v3"}'
  alt compile model.onnx --target cuda                    for the GPU of this machine
""",
    "run": """\
examples:
  alt run model.alt                                       random inputs
  alt run model.alt --input image=image.npy --output results
  alt run model.onnx --shape x=1,3,224,224 --json
  alt run model.onnx --device cuda                        on the GPU
""",
    "explain": """\
examples:
  alt explain model.alt --graph model.svg                 with a picture
  alt explain model.onnx --threads 1 --json
""",
    "tune": """\
examples:
  alt tune model.onnx --minutes 10                        into a log that all models share
  alt tune model.onnx --trials 1000 --log model.jsonl     again: goes on where it ended
  alt tune model.onnx --minutes 5 --layouts NHWC --joint-share 0      loops only
  alt tune model.onnx --layout-search ppo --agent agent.pt            learns from run to run
Ctrl-C ends the search; the best so far is then built and timed.
""",
    "replay": """\
examples:
  alt replay model.onnx --log model.jsonl                 does the log cover the model?
  alt replay model.onnx --log model.jsonl -o model.alt    compile it, save the artifact
""",
    "report": "examples:\n  alt report model.jsonl\n  alt report model.jsonl -o report.html\n",
    "check": "examples:\n  alt check model.onnx\n  alt check model.onnx --shape x=1,3,224,224\n",
    "bench": "examples:\n  alt bench model.alt --repeats 200\n  alt bench model.onnx --threads 1\n",
}


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, like every other error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"alt: error: {message}; see {self.prog} --help\n")


Action = Callable[[argparse.Namespace, Progress], verbs.Answer]


def parser_of(state: Path) -> argparse.ArgumentParser:
    """What parses the command line.

    Args:
        state: the folder of the user's own log, which is meant where none is named.

    Returns:
        A parser whose result has an `action` that does what was asked.
    """
    style = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="alt", description=_INTRODUCTION, formatter_class=style)
    version = f"alt {_version()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="verb", required=True, metavar="verb", title="verbs")

    def verb(name: str, action: Action, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=_EXAMPLES[name],
            formatter_class=style,
        )
        added.set_defaults(action=action)
        return added

    def of_model(
        name: str, action: Action, summary: str, model: str = "an ONNX file"
    ) -> argparse.ArgumentParser:
        added = verb(name, action, summary)
        _model(added, model)
        _said(added)
        return added

    either = "an ONNX file, or an artifact (.alt)"
    add = of_model("compile", verbs.compile_model, "compile a model and save it")
    _output(add, "default: the model's name, here")
    _target(add)
    _device(add)
    verify = "compare with ONNX Runtime (or ONNX's reference) on random inputs first"
    add.add_argument("--verify", action="store_true", help=verify)
    _tuned(add)
    summary = "measure layouts and loops on this machine, write what is faster into a log"
    _tune(of_model("tune", tuning_verbs.tune_model, summary), default_log_path(state))
    summary = "compile a model with what a log says, and say how much of it that is"
    add = of_model("replay", tuning_verbs.replay_model, summary)
    _output(add, "save the compiled model, too")
    _target(add)
    _device(add)
    _tuned(add, required=True)
    add = of_model("run", verbs.run_model, "run a model once and describe what comes out", either)
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
    _threads(add)
    _device(add)
    _precision(add)
    _seed(add, "random inputs")
    _tuned(add)
    summary = "say how every kernel runs and what it costs"
    add = of_model("explain", verbs.explain_model, summary, either)
    what = "draw the layouts and conversions too: .svg, .png or .dot"
    add.add_argument("--graph", type=arguments.picture, metavar="FILE.svg", help=what)
    _threads(add)
    _device(add)
    _precision(add)
    _tuned(add)
    of_model("check", verbs.check_model, "say whether a model can be compiled, and if not, why")
    add = of_model("bench", verbs.bench_model, "time a model on random inputs", either)
    repeats = "calls; default: %(default)s"
    add.add_argument("--repeats", type=arguments.positive, default=50, metavar="N", help=repeats)
    _threads(add)
    _device(add)
    _precision(add)
    _seed(add, "random inputs")
    _tuned(add)
    add = verb("report", tuning_verbs.report_log, "draw what tuning did: one page of HTML")
    _log(add.add_argument, "log", default_log_path(state), nargs="?")
    page = "default: the log's name, here"
    add.add_argument("-o", "--output", type=Path, metavar="FILE.html", help=page)
    _said(add)
    summary = "look at logs of tuning, merge them, make them smaller"
    add = commands.add_parser("logs", help=summary, epilog=logs.EXAMPLES, formatter_class=style)
    logs.declare(add, state)
    return parser


def _model(parser: argparse.ArgumentParser, model: str) -> None:
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


def _said(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--json", action="store_true", help="answer in JSON")
    add("--quiet", "-q", action="store_true", help="no progress")
    add("--verbose", "-v", action="store_true", help="show the log, and tracebacks of errors")


def _output(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.alt", help=what)


def _target(parser: argparse.ArgumentParser) -> None:
    """What is compiled for, and which algorithms there are."""
    add = parser.add_argument
    target = "llvm for this machine (the default), cuda for its GPU, or a TVM target as JSON"
    add("--target", type=arguments.target, default="llvm", help=target)
    add(
        "--no-winograd",
        dest="winograd",
        action="store_false",
        help="sum 3x3 convolutions directly: slower, with a little less rounding",
    )
    _precision(parser)
    _threads(parser)


def _precision(parser: argparse.ArgumentParser) -> None:
    what = f"what a GPU may multiply: {', '.join(PRECISIONS)}; default: %(default)s"
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", metavar="NAME", help=what
    )


def _device(parser: argparse.ArgumentParser) -> None:
    what = "the GPU to run on: its number, or cuda for the first one"
    parser.add_argument("--device", type=arguments.device, metavar="N", help=what)


def _threads(parser: argparse.ArgumentParser) -> None:
    threads = "default: one for each physical core"
    parser.add_argument("--threads", type=arguments.positive, metavar="N", help=threads)


def _seed(parser: argparse.ArgumentParser, of: str) -> None:
    parser.add_argument("--seed", type=int, default=0, help=f"of {of}; default: %(default)s")


def _layouts(parser: argparse.ArgumentParser) -> None:
    layouts = f"which layouts there are: {', '.join(POLICIES)}; default: %(default)s"
    parser.add_argument(
        "--layouts", choices=list(POLICIES), default=JOINT.name, metavar="POLICY", help=layouts
    )


def _tuned(parser: argparse.ArgumentParser, required: bool = False) -> None:
    add = parser.add_argument
    what = "use the layouts and loops that alt tune has found"
    add("--log", type=Path, metavar="LOG", required=required, help=what)
    partial = "compile what the log does not know without it, instead of refusing"
    add("--allow-partial", action="store_true", help=partial)
    _layouts(parser)


def _log(add: Callable[..., object], name: str, usual: Path, **kind: object) -> None:
    default = f"default: {usual}".replace("%", "%%")
    add(name, type=Path, metavar="LOG", default=usual, help=default, **kind)


def _tune(parser: argparse.ArgumentParser, usual: Path) -> None:
    add = parser.add_argument
    whole = "how long to search; default: until nothing moves any more"
    add("--minutes", type=arguments.minutes, metavar="M", help=whole)
    most = "how many candidates to measure; of two bounds, the first one reached counts"
    add("--trials", type=arguments.positive, metavar="N", help=most)
    _log(add, "--log", usual)
    parser.set_defaults(usual_log=usual)
    others = "more logs to learn from what is fast"
    add(
        "--also-learn-from",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="LOG",
        help=others,
    )
    tracker = "measure on the servers of TVM's RPC tracker there; --target says what they are"
    add("--rpc", metavar="HOST:PORT", help=tracker)
    add("--key", default="", help="that these servers were started with")
    _target(parser)
    _device(parser)
    _layouts(parser)
    add = parser.add_argument_group("measuring").add_argument
    repeats = "samples of a candidate; default: %(default)s"
    add("--repeats", type=arguments.positive, default=Timing.repeats, metavar="N", help=repeats)
    calls = f"so long the calls of a sample take together; default: {1e3 * Timing.min_seconds:g}"
    add("--min-milliseconds", type=arguments.milliseconds, metavar="X", help=calls)
    flush = "time single calls, each after as much memory as the last cache holds was written"
    add("--flush-cache", action="store_true", help=flush)
    methods = parser.add_argument_group("methods")
    add = methods.add_argument
    for name, what in (("layouts", "layout"), ("loops", "loop")):
        add(
            f"--{what}-search",
            choices=SEARCHERS,
            default=getattr(Options, name),
            help=f"who proposes {name}; default: %(default)s",
        )
    learnt = "the agent of ppo: loaded if the file is there, kept there in the end"
    add("--agent", type=Path, metavar="FILE", help=learnt)
    share = "part of the rounds that goes to layouts; default: %(default)s"
    add(
        "--joint-share",
        type=arguments.share,
        default=Options.joint_share,
        metavar="PART",
        help=share,
    )
    batch = "candidates that are measured together; default: %(default)s"
    add("--batch", type=arguments.positive, default=Options.batch, metavar="N", help=batch)
    add("--seed", type=int, default=Options.seed, help="of the search; default: %(default)s")
    verify = "do not compare the tuned network with ONNX Runtime"
    add("--no-verify", dest="verify", action="store_false", help=verify)


def _version() -> str:
    try:
        return metadata.version("alt-compiler")
    except metadata.PackageNotFoundError:
        return "(not installed)"
