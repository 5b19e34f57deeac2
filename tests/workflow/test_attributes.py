"""Graph attributes of a workflow: those of the page, those of another package, and how settings write them."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from workflow_cases import VALID, workflow

from gfm_pipeline.core.contracts.properties.attributes import Attribute
from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.engine.stages.trials import learned
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_source
from gfm_pipeline.workflow.schema import WorkflowModel

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
(DECLARED,) = re.findall(r"```yaml\n(attributes:.*?)```", PAGE, re.DOTALL)
HUMIDITY = Attribute("humidity", text="relative humidity", neutral=0.5)
MISNAMED = Attribute("other")
CONTRARY = Attribute("contrary", "parsecs")


def loaded(folder: Path, attributes: str, values: str = "{}"):
    text = VALID.replace("sizes: [4]}", f"sizes: [4]}}\n      attributes: {values}", 1)
    (folder / "w.yaml").write_text(f"{text}attributes: {attributes}\n")
    return load_workflow(folder / "w.yaml")


def test_the_attributes_of_the_page_are_declared_and_written_as_they_were() -> None:
    page = YAML(typ="safe", pure=True).load(DECLARED)
    model = workflow(attributes=page["attributes"], search__space__condition_on=page["search"]["space"]["condition_on"])
    assert model.attributes == (
        Attribute("electronic_temperature", "K", "electronic temperature", neutral=300.0),
        Attribute("pressure", "GPa", "pressure", keys=("pressure_GPa", "pressure")),
        Attribute("solvent", text="solvent", categories=("gas", "water", "toluene")),
    )
    assert (
        WorkflowModel.model_validate(model.model_dump(mode="json", exclude_unset=True)).attributes == model.attributes
    )
    assert model.search.space.compile().shared["condition_on"].values == ("none", "pressure", "charge_and_solvent")
    assert "attributes" in learned(model)
    assert learned(workflow()) == {}


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "gfm_pipeline.attributes"
    points = [
        importlib.metadata.EntryPoint(name, f"{__name__}:{value}", group)
        for name, value in (("humidity", "HUMIDITY"), ("misnamed", "MISNAMED"), ("contrary", "CONTRARY"))
    ]
    monkeypatch.setattr(
        "gfm_pipeline.core.contracts.extensions.entry_points",
        lambda group, name=None: [p for p in points if p.group == group and name in (None, p.name)],
    )


@pytest.mark.usefixtures("_installed")
def test_an_attribute_of_another_package_is_named(tmp_path: Path) -> None:
    source = resolve_source(loaded(tmp_path, "{humidity: {}}", "{humidity: 0.25}"), "alloys")
    assert (source.attributes, source.attribute_values) == ((HUMIDITY,), {"humidity": 0.25})
    for attributes, words in (
        ("{humidity: {unit: K}}", "declares humidity, which is registered"),
        ("{misnamed: {}}", "calls itself 'other'"),
        ("{contrary: {}}", "'parsecs' in it is not a unit"),
    ):
        with pytest.raises(WorkflowError, match=words):
            loaded(tmp_path, attributes)
