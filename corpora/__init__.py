"""Data for the recipes: episodic tasks, and text as streams of characters, words or subwords."""

import lazy_loader

# The public names are listed in __init__.pyi. Each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
