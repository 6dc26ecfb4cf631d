"""``python -m seqdni``: the command line, as ``seqdni``."""

import sys

from seqdni.recipes.cli import main

if __name__ == "__main__":
    sys.exit(main())
