"""`python -m lrpet`, and the script `lrpet`: the command line."""

import sys

INTERRUPTED = 130


def main() -> int:
    """Run the command line and return its exit status; Ctrl+C counts from the first moment, before anything is loaded."""
    try:
        from lrpet.cli import main as run

        status = run()
    except KeyboardInterrupt:
        print("lrpet: interrupted", file=sys.stderr)
        status = INTERRUPTED
    if status == INTERRUPTED:
        _leave(status)
    return status


def _leave(status: int) -> None:
    """End the process with this status, whatever Python remembers of the interruption, and however often it comes."""
    import atexit
    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
