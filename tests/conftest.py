"""Check every jaxtyping annotation of the library while the tests run."""

from jaxtyping import install_import_hook

install_import_hook(["seqdni", "corpora"], "beartype.beartype")
