"""The pages for Python users, run as they stand: docs/python.md and the notebook."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import runs

ROOT = Path(__file__).parents[2]


def test_the_page_and_the_notebook_run_as_they_stand(tmp_path):
    (tmp_path / "small.yaml").write_text(runs.SMALL)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    assert len(blocks) >= 7
    page = run(tmp_path, "page.py", "\n".join(blocks))
    assert "ingest run" in page
    assert "StageStatus.DONE" in page
    assert "report.html" in page
    assert "budget" in page
    assert "DatasetErrors" in page

    notebook = json.loads((ROOT / "examples" / "campaign.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    wide = "import pandas\npandas.set_option('display.max_columns', None, 'display.width', 300)"
    code = "\n".join([wide, *map(shown, cells)])
    told = run(tmp_path, "notebook.py", code, CAMPAIGN="campaigns/small", MPLBACKEND="agg")
    assert "force MAE (meV/A)" in told
    assert "selected" in told


def shown(cell: str) -> str:
    """Return a cell that prints what a notebook shows of it: its last expression, unless that ends with a semicolon."""
    tree = ast.parse(cell)
    if isinstance(tree.body[-1], ast.Expr) and not cell.rstrip().endswith(";"):
        tree.body[-1] = ast.parse(f"print({ast.unparse(tree.body[-1])})").body[0]
    return ast.unparse(tree)


def run(folder: Path, name: str, code: str, **variables: str) -> str:
    (folder / name).write_text(code)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, name], cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
