"""Commands: a thin shell over a stage's `run(config)`.

    def run(config: ScoreConfig) -> Result: ...

    main = command("prune.score", ScoreConfig, run)

    if __name__ == "__main__":
        execute(main)

What a user can put right is one line and exit code 2, never a traceback.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from core.errors import UserError
from core.settings import parse

C = TypeVar("C")


def command(
    name: str, config: type[C], run: Callable[[C], Any], description: str = ""
) -> Callable[[Sequence[str] | None], int]:
    """The `main(argv)` of `python -m name`: parse the flags into `config`, and call `run` with it.

    `run`'s docstring is the description that --help shows, unless another is given. main returns
    the exit code: what `run` returns if that is a number, else its result's `exit_code`.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        given = parse(
            config,
            argv,
            prog=f"python -m {name}",
            description=description or inspect.getdoc(run) or "",
        )
        result = run(given)
        return result if isinstance(result, int) else getattr(result, "exit_code", 0)

    return main



_FULL = "make room and run the same command again to continue"
_PATH = "choose another path, or remove what is in its way"
_DISK = "the disk or the network drive failed; run the same command again to continue"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f) and run the same command again",
    errno.EMFILE: "raise the limit on open files (ulimit -n) and run the same command again",
    errno.EACCES: "give yourself the permission, or choose another path",
    errno.EPERM: "give yourself the permission, or choose another path",
    errno.EROFS: "choose a path that can be written",
    errno.ENOENT: "was it moved or deleted meanwhile?",
    errno.EEXIST: _PATH,
    errno.EISDIR: _PATH,
    errno.ENOTDIR: _PATH,
    errno.ELOOP: _PATH,
    errno.ENAMETOOLONG: _PATH,
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
}
"""What the system may refuse and the user can mend, and how."""


def _refusal(error: OSError) -> str | None:
    """What to tell the user about an error of the system; None where it is not theirs to mend."""
    number = error.errno
    if number is None and " requested and " in str(error):  # NumPy's words for a full disk
        number = errno.ENOSPC
    if number not in _REMEDIES:
        return None
    where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
    return f"{where}{os.strerror(number)}; {_REMEDIES[number]}"


def execute(main: Callable[..., int | None]) -> None:
    """Run a command's main: UserError becomes 'error: ...' and exit code 2.

    So does what the system refuses and the user can mend: a full disk, a missing permission.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
        if sys.stdout is not None:  # closed by who started this
            sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # `... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        if (refusal := _refusal(error)) is None:
            raise
        print(f"error: {refusal}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
