"""``python -m seqdni``: the command line, as ``seqdni``."""

from seqdni.recipes.cli import entry

if __name__ == "__main__":
    entry()
