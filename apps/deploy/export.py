"""Program: write an ensemble to one file (`ExportSpec` to `BundleFacts`)."""

from __future__ import annotations

import sys
from pathlib import Path

from gfm_pipeline.apps.deploy.bundle import export, open_ensemble
from gfm_pipeline.apps.runtime.query_program import answer_query
from gfm_pipeline.core.contracts.deploy import PACKAGE_SUFFIX, BundleFacts, ExportSpec
from gfm_pipeline.core.errors import ConfigError, ModelError
from gfm_pipeline.core.publish import file_sha256


def export_program(spec: ExportSpec) -> BundleFacts:
    """Write the file, in the format of its suffix.

    Raises
    ------
    ConfigError
        When the output cannot be written, or the ensemble cannot be compiled.
    IntegrityError
        When the model cannot be opened.
    """
    output = Path(spec.output)
    if output.suffix == PACKAGE_SUFFIX:
        return _compile(spec, output)
    return export(Path(spec.model), output, overwrite=spec.overwrite, decisions=spec.decisions)


def _compile(spec: ExportSpec, output: Path) -> BundleFacts:
    from gfm_pipeline.apps.deploy.compiled import compile_package
    from gfm_pipeline.apps.deploy.predictor import Predictor

    ensemble = open_ensemble(spec.model)
    try:
        predictor = Predictor(ensemble, spec.dataset, dtype=spec.dtype, device=spec.device)
        compile_package(predictor, output, overwrite=spec.overwrite)
    except ModelError as error:  # the fault of the request
        hint = error.hint and error.hint.replace("dataset=NAME", "--dataset NAME")
        raise ConfigError(error.message, hint) from error
    names = tuple(target.name for target in predictor.targets)
    members, size = ensemble.calibration.members, output.stat().st_size
    return BundleFacts(str(output), file_sha256(output), size, members, (predictor.dataset,), names)


if __name__ == "__main__":
    sys.exit(answer_query(ExportSpec, export_program))
