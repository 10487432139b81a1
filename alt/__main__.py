"""`python -m alt`: the command line."""

import sys

from alt.cli import main

if __name__ == "__main__":
    sys.exit(main())
