"""Keys that were renamed: a file with the old names means the same, and both at once is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from workflow_cases import VALID

from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.workflow.former_keys import RENAMED
from gfm_pipeline.workflow.load import load_workflow

PRESENT = VALID.replace("      reader:", "      force_sign: gradients\n      reader:") + (
    "limits: {heartbeat_timeout_seconds: 7, wrapper_timeout_seconds: 9}\n"
)
FORMER = PRESENT
for pattern, name in RENAMED:
    FORMER = FORMER.replace(f"{name}:", f"{pattern[-1]}:")


def written(folder: Path, text: str) -> Path:
    path = folder / "w.yaml"
    path.write_text(text)
    return path


def test_a_file_with_former_keys_means_the_same(tmp_path):
    assert not any(name in FORMER for _, name in RENAMED)
    found, expected = (load_workflow(written(tmp_path, text)) for text in (FORMER, PRESENT))
    assert found.model == expected.model
    line = FORMER.splitlines().index("      forces_are: gradients") + 1
    assert found.place("data", "sources", "alloys", "force_sign") == line


def test_a_former_key_may_be_set_on_the_command_line(tmp_path):
    found = load_workflow(written(tmp_path, VALID), ["limits.lost_seconds=5", "data.sources.alloys.forces_are=none"])
    assert found.model.limits.wrapper_timeout_seconds == 5
    assert str(found.model.data.sources["alloys"].force_sign) == "none"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FORMER + "", None),
        (PRESENT.replace("{heartbeat", "{lost_seconds: 3, heartbeat"), "former name of wrapper_timeout_seconds"),
        (VALID + "limits: {lost_secondss: 3}\n", "Unknown key 'limits.lost_secondss'"),
        (VALID + "limits: {lost_seconds: 0}\n", "limits.wrapper_timeout_seconds"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_line(tmp_path, text, words):
    path = written(tmp_path, text)
    if words is None:
        load_workflow(path)
        return
    with pytest.raises(WorkflowError) as caught:
        load_workflow(path)
    assert words in str(caught.value)
    assert f"w.yaml:{len(text.splitlines())}" in str(caught.value)
