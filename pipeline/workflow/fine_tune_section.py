"""The section ``fine_tune:`` of the workflow file, in place of ``search:``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.contracts.hyperparameters import Group
from gfm_pipeline.core.contracts.training import HYPERPARAMETERS
from gfm_pipeline.core.errors import Refused
from gfm_pipeline.core.strict import WITHOUT_NULL, Strict

SECTION = "fine_tune"
OPTIMISER = {name: one for name, one in HYPERPARAMETERS.items() if one.group is not Group.MODEL}
#: The search of a workflow that has none, until the members of the earlier ensemble are read.
_NO_SEARCH = {"candidates": 10**6, "wave": 1, "asynchronous": False, "stopping": "none", "proposals": "random"}


def _settings(given: Any) -> dict[str, Any]:
    """Return the checked hyperparameters of the optimiser that replace those of the members."""
    if not isinstance(given, Mapping):
        raise Refused("must hold hyperparameters", "Write for instance {learning_rate: 0.0005}.")
    checked = {}
    for name, value in given.items():
        if (name in HYPERPARAMETERS and name not in OPTIMISER) or name == "algorithm":
            raise Refused(
                f"names {name}, which belongs to the architecture of the earlier members",
                "Leave it out, or search new models: write search instead of fine_tune.",
                (str(name),),
            )
        if name not in OPTIMISER:
            raise Refused("is not a hyperparameter of the training", suggestion(str(name), OPTIMISER), (str(name),))
        checked[str(name)] = OPTIMISER[name].one(value, (str(name),))
    return checked


_SCHEMA = {
    "type": "object",
    "properties": {name: one.json_schema()["anyOf"][0] for name, one in OPTIMISER.items()},
    "additionalProperties": False,
}


class FineTuneModel(Strict):
    """Members that start from the weights of an earlier ensemble; the section stands in place of `search`."""

    model: Annotated[str, Field(min_length=1, max_length=4096, pattern=WITHOUT_NULL)] = Field(
        description="Exported file (.gfm), campaign, or folder of an ensemble, beside this file. Its members keep "
        "their architecture."
    )
    branches: dict[str, str] = Field(
        default={},
        description="Dataset of the earlier ensemble whose branch a source starts from, by source; left out: that of "
        "the same name, or the only one.",
    )
    settings: Annotated[dict[str, Any], BeforeValidator(_settings), WithJsonSchema(_SCHEMA)] = Field(
        default={}, description="Hyperparameters of the training that replace those of the members: learning_rate, ..."
    )
    graphs: Annotated[int, Field(ge=1, le=10**12)] = Field(
        default=10_000,
        description="Training graphs of each member of the earlier ensemble, before `converge` goes on with the best.",
    )
    validation_limit: Annotated[int, Field(ge=1, le=10**12)] | None = Field(
        default=None, description="Validation graphs per dataset; null: all."
    )


def with_search(plain: Any) -> Any:
    """Return a workflow as read, with a search in place of the section, whose members are not known yet."""
    if not isinstance(plain, Mapping) or plain.get(SECTION) is None or plain.get("search") is not None:
        return plain
    given = plain[SECTION]
    graphs = given.get("graphs") if isinstance(given, Mapping) else None
    rungs = [graphs if isinstance(graphs, int) and graphs > 0 else 1]
    return {**plain, "search": {**_NO_SEARCH, "rungs": rungs, "space": {"algorithm": "SchNet"}}}
