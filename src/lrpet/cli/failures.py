"""How a command ends that does not end well: one message, and an exit status that says whose fault it was."""

from __future__ import annotations

import dis
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from lrpet.planning.text import printable

PACKAGE = Path(__file__).parents[1]
EXTRAS = (
    "this command needs more packages: pip install 'lrpet[train]' (search: 'lrpet[search]', in a database: "
    "'lrpet[postgresql]', data: 'lrpet[data]', plots: 'lrpet[plot]', ONNX Runtime: 'lrpet[onnx]', OpenVINO: "
    "'lrpet[openvino]', ExecuTorch: 'lrpet[executorch]')"
)
#: Control characters that messages of several lines have; any other is escaped, since names in files may hold it.
LINES = "\n\t"
FAILED, BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


def reported(command: Callable[[], None], *, debug: bool = False, interrupted: str = "interrupted") -> int:
    """Run a command and return its exit status, 0 or that of the failure; a message on stderr says what was wrong.

    With `debug`, the traceback stands before the message. `interrupted` is said after Ctrl+C, unless the exception itself
    says more.
    """
    try:
        with _warnings_printable():
            command()
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        return _ended(INTERRUPTED, str(error) or interrupted, debug=debug)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and stdout_is_broken("\n"):
            return BROKEN_PIPE
        return _ended(*_judged(error), debug=debug)
    return 0


@contextmanager
def _warnings_printable() -> Iterator[None]:
    """Escape inside the block what warnings may hold of files."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda *args, **kwargs: printable(before(*args, **kwargs), kept=LINES)
    try:
        yield
    finally:
        warnings.formatwarning = before


def on_purpose(error: ValueError | ImportError) -> bool:
    """Tell whether a `raise` statement of lrpet raised the error, so that its message is meant for the user."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    return innermost is not None and _is_raise_of_lrpet(innermost)


def _is_raise_of_lrpet(frame: TracebackType) -> bool:
    code = frame.tb_frame.f_code
    ours = Path(code.co_filename).is_relative_to(PACKAGE)
    return ours and dis.opname[code.co_code[frame.tb_lasti]] == "RAISE_VARARGS"


def _judged(error: Exception) -> tuple[int, str]:
    """Return the exit status and the message of an error."""
    if (status := getattr(error, "exit_status", None)) is not None:
        return int(status), str(error)
    if isinstance(error, OSError):
        return BAD_INPUT, str(error)
    if isinstance(error, ValueError | ImportError) and on_purpose(error):
        return BAD_INPUT, str(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("lrpet"):
        return BAD_INPUT, f"no module {error.name!r}: {EXTRAS}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return FAILED, f"out of memory ({error}): lower --batch-size, or choose a smaller network"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return FAILED, (
        f"this looks like a bug in lrpet: {type(error).__name__}: {error} (at {last.filename}, line {last.lineno}). "
        "Run the command again with --debug for the traceback, and report it."
    )


def _ended(status: int, message: str, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"lrpet: {printable(message, kept=LINES)}", file=sys.stderr)
    return status


def stdout_is_broken(probe: str = "") -> bool:
    """Write `probe` to stdout and tell whether nobody reads it; what is left to write then goes nowhere."""
    try:
        sys.stdout.write(probe)
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        return True
    return False
