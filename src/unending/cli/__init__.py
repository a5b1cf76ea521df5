"""The command line: `unending list | run | chat | serve | train | check | bench`."""

import os
import sys
from collections.abc import Callable, Sequence

from unending.core.errors import InputError, ModelNotFoundError, SystemNotFoundError, UnendingError

__all__ = ["main"]

_USAGE = """\
usage: unending COMMAND ...

  list                    the systems there are
  run SYSTEM SOURCE       a system on a stream: a file, - (standard input), or python:topics
  chat [SYSTEM]           an endless conversation in the terminal
  serve SYSTEM...         systems for many clients: OpenAI's protocols, sessions, a live page
  train SYSTEM            what a system learns before it runs: gates, adapters, small models
  check SYSTEM            all laws on a system of the catalogue, or on module:Operator
  bench SYSTEM            the benchmark of a system, and its rows

unending COMMAND --help says more. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""


def _command(name: str) -> Callable[[Sequence[str]], int] | None:
    # Each command brings its own imports; `unending list` must not wait for a framework.
    if name == "list":
        from unending.cli.listing import main as command
    elif name == "run":
        from unending.cli.run import main as command
    elif name == "chat":
        from unending.cli.chat import main as command
    elif name == "serve":
        from unending.cli.serve import main as command
    elif name == "train":
        from unending.cli.train import main as command
    elif name == "check":
        from unending.cli.check import main as command
    elif name == "bench":
        from unending.cli.bench import main as command
    else:
        return None
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; a user's mistake is one line on standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Read when torch is loaded: threads that spin while they wait cost a busy machine most of its speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not given or given[0] in ("-h", "--help", "help"):
        print(_USAGE)
        return 0 if given else 2
    if given[0] in ("-V", "--version"):
        from unending import __version__

        print(f"unending {__version__}")
        return 0
    command = _command(given[0])
    if command is None:
        print(f"unending: no command {given[0]!r}; see unending --help", file=sys.stderr)
        return 2
    try:
        code = command(given[1:])
        sys.stdout.flush()
        return code
    except (SystemNotFoundError, ModelNotFoundError, InputError) as error:
        print(f"unending: {error}", file=sys.stderr)
        return 2
    except UnendingError as error:
        print(f"unending: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("unending: interrupted", file=sys.stderr)
        return 130
    except SystemExit as end:  # of --help
        return int(end.code or 0)
    except BrokenPipeError:
        # The reader of our output went away (a pager, head); what is left goes nowhere, quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
