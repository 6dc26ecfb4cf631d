"""MkDocs hook: an API page for every public module, so that a new module has one by being there."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGES = ("seqdni", "corpora")


def pages() -> dict[str, str]:
    """Modules by the path of their page, packages first."""
    found = {}
    for package in PACKAGES:
        found[f"api/{package}/index.md"] = package
        for path in sorted((ROOT / package).glob("[!_]*.py")):
            found[f"api/{package}/{path.stem}.md"] = f"{package}.{path.stem}"
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages in the navigation, after those of mkdocs.yml."""
    assert config.nav is not None
    for package in PACKAGES:
        here = [{name: path} for path, name in pages().items() if name.split(".")[0] == package]
        config.nav.append({f"API: {package}": here})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the pages, from what mkdocstrings finds in the docstrings."""
    for path, name in pages().items():
        # A package's page lists its names with links; what they are is on their modules' pages.
        members = "      members: false\n      show_submodules: false\n" * (name in PACKAGES)
        text = f"# {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n{members}"
        if name in PACKAGES:
            text += "\n" + names(name)
        files.append(File.generated(config, path, content=text))
    return files


def names(package: str) -> str:
    """What a package exports, from its ``__all__``, as links to the modules' pages."""
    scope: dict = {}
    text = (ROOT / package / "__init__.py").read_text()
    exec(text[text.index("__all__") :], scope)
    return "\n".join(f"- [`{package}.{name}`][{package}.{name}]" for name in scope["__all__"])
