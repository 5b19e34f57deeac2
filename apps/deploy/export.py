"""Program: write an ensemble to one file (`ExportSpec` to `BundleFacts`)."""

from __future__ import annotations

import sys
from pathlib import Path

from gfm_pipeline.apps.deploy.bundle import export
from gfm_pipeline.apps.runtime.query_program import answer_query
from gfm_pipeline.core.contracts.deploy import BundleFacts, ExportSpec


def export_program(spec: ExportSpec) -> BundleFacts:
    """Write the file; errors as `gfm_pipeline.apps.deploy.bundle.export`."""
    return export(Path(spec.model), Path(spec.output), overwrite=spec.overwrite)


if __name__ == "__main__":
    sys.exit(answer_query(ExportSpec, export_program))
