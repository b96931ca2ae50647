"""`python -m lrpet`: the command line."""

import sys

from lrpet.cli import main

if __name__ == "__main__":
    sys.exit(main())
