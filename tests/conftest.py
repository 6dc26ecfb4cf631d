"""Check every jaxtyping annotation of the library while the tests run; the recipes have none."""

import os
from pathlib import Path

from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks, and two processes of tests
library = [path.stem for path in (Path(__file__).parents[1] / "seqdni").glob("[!_]*")]
install_import_hook([f"seqdni.{name}" for name in [*library, "corpora"]], "beartype.beartype")
settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")
