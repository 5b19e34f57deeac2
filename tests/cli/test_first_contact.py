"""What a new user reads first is true: figures agree, commands exist, every key is explained."""

import re
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

from gfm_pipeline.workflow import schema
from gfm_pipeline.workflow.reference import page
from gfm_pipeline.workflow.schema import WorkflowModel

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
DEMO = (ROOT / "workflow.yaml").read_text()


def test_the_page_of_keys_is_up_to_date():
    assert (ROOT / "docs" / "workflow.md").read_text() == page(), (
        "write it anew: python -m gfm_pipeline.workflow.reference > docs/workflow.md"
    )
    command = [sys.executable, "-m", "gfm_pipeline.workflow.reference"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == page()


def models(found: dict) -> list[dict]:
    return [one for one in (found, *found["$defs"].values()) if "properties" in one]


def test_every_key_of_the_file_has_a_sentence():
    whole = WorkflowModel.model_json_schema()
    shown = page()
    for model in models(whole):
        for key, field in model["properties"].items():
            if model.get("title") == "RangeModel":
                continue  # {low, high, scale}, explained where ranges are
            assert f"| `{key}` |" in shown, key
            inner = "$ref" in field or "patternProperties" in field or "additionalProperties" in field
            assert inner or field.get("description"), f"{model.get('title')}.{key}"
    assert issubclass(schema.WorkflowModel, BaseModel)


def test_the_time_of_the_demo_is_said_once_and_the_same():
    said = re.findall(r"about (\d+) minutes? on 2 cores", README + MAKEFILE + DEMO)
    assert len(said) >= 4
    assert len(set(said)) == 1
    assert not re.search(r"ten minutes|about 10 minutes", README + MAKEFILE + DEMO)


def test_readme_says_where_the_program_is_before_it_uses_it():
    assert "BIN := $(VENV)/bin" in MAKEFILE
    assert "VENV ?= .venv" in MAKEFILE
    place = README.index(".venv/bin/gfm-pipeline")
    activated = README.index("    source .venv/bin/activate")
    first = README.index("    gfm-pipeline status")
    assert place < activated < first


def test_the_numbers_of_the_demo_are_those_of_its_workflow():
    members = re.search(r"members: (\d+)", DEMO)
    candidates = re.search(r"candidates: (\d+)", DEMO)
    assert members is not None
    assert candidates is not None
    assert f"is done: {members[1]} members, chosen from {candidates[1]} candidates." in README


def test_the_demo_ends_with_where_the_program_is():
    recipe = MAKEFILE.split("\ndemo: ", 1)[1].split("\n\n", 1)[0]
    assert "The program is $(BIN)/gfm-pipeline" in recipe.splitlines()[-1]
