"""The site of `make docs`: the pages of the repository, and a reference made of the docstrings.

The folder of sources is the repository itself, so links between pages are those that people follow in it.
"""

from __future__ import annotations

import configparser
from collections import Counter
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).parents[2]
_SETUP = configparser.ConfigParser()
_SETUP.read(ROOT / "setup.cfg")

project = "gfm-pipeline"
author = _SETUP["metadata"]["author"]
copyright = f"2026, {author}"
release = _SETUP["metadata"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]
root_doc = "docs/site/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/site/*", "build/reference/*"]

exclude_patterns = [".*", "build/[!r]*", "campaigns"]  # folders that would be walked through for nothing
toc_object_entries = False  # a page lists its modules; every class in the navigation of every page doubles the time

html_theme = "furo"
html_title = f"{project} {release}"
html_theme_options = {"source_repository": _SETUP["metadata"]["url"], "source_branch": "main"}
html_copy_source = False

myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
myst_enable_extensions = ["colon_fence"]

autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_mock_imports = ["torch_sim"]  # an optional package whose classes are inherited from
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 100


def modules() -> list[str]:
    """Return the dotted name of every public module and package, in order, from ``setup.cfg``."""
    folders = dict(line.split(" = ") for line in _SETUP["options"]["package_dir"].strip().splitlines())
    found = []
    for package in _SETUP["options"]["packages"].split():
        root = max((name for name in folders if f"{package}.".startswith(f"{name}.")), key=len)
        folder = ROOT / folders[root] / package[len(root) + 1 :].replace(".", "/")
        names = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
        found += [package, *(f"{package}.{name}" for name in names)]
    return sorted(set(found))


def write_reference(folder: Path) -> None:
    """Write a page for each package that documents it and its modules, and one that lists the pages."""
    folder.mkdir(parents=True, exist_ok=True)
    names = modules()
    packages = sorted(_SETUP["options"]["packages"].split())
    wanted = {"index.rst": "Reference\n=========\n\nEvery module, as its docstrings describe it.\n\n"}
    wanted["index.rst"] += ".. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {name}\n" for name in packages)
    for package in packages:
        text = f"{package}\n{'=' * len(package)}\n\n.. automodule:: {package}\n"
        for name in (n for n in names if n.rpartition(".")[0] == package and n not in packages):
            text += f"\n{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n"
        wanted[f"{package}.rst"] = text
    for path in folder.glob("*.rst"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)


class TypeNames(SphinxPostTransform):
    """Links the bare name of a type in a signature to the one class of that name, and to nothing where there are more.

    Sphinx would link ``bytes`` to any field that is called so, and be unsure of ``Ranks``, which two modules have.
    """

    default_priority = 5  # before references are resolved

    def run(self, **kwargs: object) -> None:  # noqa: ARG002 - Sphinx's signature
        """Decide every bare name of this page."""
        objects = self.env.domains["py"].objects
        classes = [name for name, entry in objects.items() if entry.objtype in ("class", "exception")]
        count = Counter(name.rpartition(".")[2] for name in classes)
        full = {name.rpartition(".")[2]: name for name in classes}
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("refdomain") != "py" or "refspecific" not in node:
                continue
            name = node["reftarget"]
            here = f"{node.get('py:module')}.{name}"
            target = next((n for n in (name, here) if n in objects), full[name] if count[name] == 1 else None)
            if target is None:
                node.replace_self([child.deepcopy() for child in node.children] or [nodes.Text(name)])
            else:
                node["reftarget"] = target
                del node["refspecific"]


def setup(app: Sphinx) -> dict[str, bool]:
    """Take part in the build."""
    app.add_post_transform(TypeNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


write_reference(ROOT / "build" / "reference")
