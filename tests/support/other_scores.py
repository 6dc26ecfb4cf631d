"""The command line in a process that measures another held-out error than the first process does.

In all processes but the first the error never becomes better.
"""

from __future__ import annotations

import sys

from seqdni.recipes.cli import main
from seqdni.recipes.launched import rank
from seqdni.recipes.lm import recipe

score = recipe.score

if __name__ == "__main__":
    recipe.score = lambda *given: 9.0 if rank() else score(*given)
    sys.exit(main(sys.argv[1:]))
