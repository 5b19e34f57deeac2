"""A section that the file must have."""

from __future__ import annotations

import pytest
from workflow_cases import VALID

from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.workflow.load import load_workflow


def test_a_missing_section_is_named_with_what_may_stand_in_its_place(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text(VALID[: VALID.index("search:")] + VALID[VALID.index("converge:") :])
    with pytest.raises(WorkflowError, match=r"'search' is missing\. Add it, or write fine_tune in its place\."):
        load_workflow(path)
    path.write_text("name: small\n")
    with pytest.raises(WorkflowError, match=r"'data' is missing\. Add it\. \(1 more"):
        load_workflow(path)
