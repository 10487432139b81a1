"""The command line: `alt compile|tune|replay|report|run|explain|check|bench|logs`.

The only place that sets up logging. Results go to standard output, progress and errors to standard
error. Exit codes: 0 fine, 1 what was asked cannot be done (or
`alt check` says no), 2 the command line itself is wrong, 130 interrupted.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence

from alt.errors import AltError
from alt.state import state_folder
from alt.usage import parser_of
from alt.watch import Progress
from tuner.errors import TuningError


def _for_command_line(message: str) -> str:
    """One line, with arguments of the Python interface spelled as options.

    Example:
        >>> _for_command_line("bind it with shapes={'x': (1, 3)}")
        'bind it with --shape x=1,3'
    """

    def option(match: re.Match[str]) -> str:
        return f"--shape {match[1]}={match[2].replace(' ', '').rstrip(',')}"

    line = "; ".join(part.strip() for part in message.splitlines() if part.strip())
    line = line.replace("allow a partial replay", "give --allow-partial")
    return re.sub(r"shapes=\{'([^']*)': \(([^)]*)\)\}", option, line)


def _fail(message: str) -> int:
    print(f"alt: error: {_for_command_line(message)}", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code.
    """
    options = parser_of(state_folder()).parse_args(argv)
    for name in ("shape", "constant", "input"):
        if hasattr(options, name):
            setattr(options, name, dict(getattr(options, name)))
    if options.verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    else:
        logging.basicConfig(level=logging.WARNING, format="alt: warning: %(message)s")
        warnings.simplefilter("ignore")
    progress = Progress(sys.stderr, options.quiet)
    try:
        answer = options.action(options, progress)
        progress.close()
        text = json.dumps(answer.data, indent=2) if options.json else answer.text
        print(text if options.json else _on_lines(text), flush=True)
    except (AltError, TuningError) as error:
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
    return 130 if answer.interrupted else 0 if answer.ok else 1


def _on_lines(text: str) -> str:
    return "\n".join(
        _for_command_line(line) if "shapes={" in line else line for line in text.split("\n")
    )
