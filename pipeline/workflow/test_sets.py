"""Named test sets of a source: read as the source is, judged on their own, never trained on."""

from __future__ import annotations

from gfm_pipeline.core.contracts.data import Duplicates
from gfm_pipeline.workflow.schema import WorkflowModel
from gfm_pipeline.workflow.source_schema import ReadingModel, SourceModel, TestSetModel

_OWN = frozenset(("shards",))  # never that of the source
_OF_READER = frozenset(("options",))  # only if the reader is that of the source, too


def test_sets(model: WorkflowModel) -> list[tuple[str, str]]:
    """Return the name and the source of each test set, sorted by source."""
    return [(name, source) for source, given in sorted(model.data.sources.items()) for name in sorted(given.test_sets)]


def as_source(source: SourceModel, given: TestSetModel) -> SourceModel:
    """Return a test set as a source that keeps all records: its own keys, and those of ``source`` for the others."""
    inherited = source.model_fields_set & ReadingModel.model_fields.keys() - _OWN
    if given.reader not in (None, source.reader):
        inherited -= _OF_READER
    plain = {key: getattr(source, key) for key in inherited} | {"reader": source.reader}
    plain |= {key: getattr(given, key) for key in given.model_fields_set if key != "reader" or given.reader is not None}
    return SourceModel.model_validate({**plain, "duplicates": Duplicates.KEEP})
