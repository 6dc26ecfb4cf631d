"""Check every jaxtyping annotation of the library while the tests run; the recipes have none."""

from pathlib import Path

from hypothesis import settings
from jaxtyping import install_import_hook

library = [path.stem for path in (Path(__file__).parents[1] / "seqdni").glob("[!_]*")]
install_import_hook([f"seqdni.{name}" for name in [*library, "corpora"]], "beartype.beartype")
settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")
