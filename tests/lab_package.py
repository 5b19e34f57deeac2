"""The package that docs/add-an-algorithm.md shows, installed as pip does: modules beside their metadata."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "add-an-algorithm.md"


def install(site: Path) -> None:
    """Write the package into a folder, which has to be on the path of every program that uses it."""
    for language, name, text in re.findall(r"```(python|toml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        target = site / (name if language == "python" else "lab_models-1.0.dist-info/entry_points.txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        if language == "toml":
            text = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", text).replace('"', "")
        target.write_text(text)
    (site / "lab_models-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lab-models\nVersion: 1.0\n"
    )
