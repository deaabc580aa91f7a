"""`python -m kracauer`: the command line without its script."""

import sys

from kracauer.cli import main

if __name__ == "__main__":
    sys.exit(main())
