"""The search space of a workflow: its keys are the declared hyperparameters, its algorithms the declared ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from gfm_pipeline.core.contracts.algorithms import ALGORITHMS, BUILT_IN, PREFIX, AlgorithmDescription
from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.contracts.hyperparameters import Hyperparameter
from gfm_pipeline.core.contracts.properties.attributes import Attribute, names_in
from gfm_pipeline.core.contracts.targets import ENERGY, Origin, Target
from gfm_pipeline.core.contracts.training import HYPERPARAMETERS, ForceHead
from gfm_pipeline.core.errors import ConfigError, Refused
from gfm_pipeline.core.strict import Strict
from gfm_pipeline.search.space import Choice, Dimension, Range, SearchSpace
from gfm_pipeline.workflow.attributes import check_conditioning
from gfm_pipeline.workflow.target_space import (
    DATASETS_SCHEMA,
    PER_DATASET_KEY,
    PER_TARGET_KEY,
    TARGETS_SCHEMA,
    flat_targets,
    read_datasets_space,
    read_targets_space,
)


def _algorithms(given: Any) -> list[str]:
    """Return the names of algorithms, after checking that they exist; one name needs no list."""
    names = given if isinstance(given, list) else [given]
    if not names:
        raise Refused("is an empty list", f"Choose from: {', '.join(ALGORITHMS.names())}.")
    for index, name in enumerate(names):
        at = (index,) if isinstance(given, list) else ()
        if not isinstance(name, str):
            raise Refused(f"holds {name!r}, which is not a name", f"Choose from: {', '.join(ALGORITHMS.names())}.", at)
        if name in names[:index]:
            raise Refused(f"lists {name} twice", "Leave one out.", at)
        try:
            _describe(name, at).check_installed(name)
        except Refused as error:
            raise Refused(error.message, error.hint, at) from error
    return [str(name) for name in names]


def _describe(name: str, at: tuple[str | int, ...]) -> AlgorithmDescription:
    try:
        return ALGORITHMS.describe(name)
    except ConfigError as error:
        missing = f"cannot be {name}: {error.message[0].lower()}{error.message[1:].rstrip('.')}"
        elsewhere = "" if name in ALGORITHMS.names() else " If a package has it, install that here and on the nodes."
        hint = f"{error.hint or ''}{elsewhere}".strip()
        raise Refused(missing, hint, at) from error


def _own_schema() -> dict[str, Any]:
    """Return the JSON schema of ``per_algorithm``: shared hyperparameters, and the options of each algorithm."""
    shared = {name: declared.json_schema() for name, declared in HYPERPARAMETERS.items()}
    properties = {
        name: {
            "type": "object",
            "properties": shared | {f"{PREFIX}{option.name}": option.json_schema() for option in about.options},
            "additionalProperties": False,
        }
        for name, about in BUILT_IN.items()
    }
    return {"type": "object", "properties": properties, "additionalProperties": {"type": "object"}}


class _Space(Strict):
    """A list is a choice, {low, high, scale} a range, a single value is fixed."""

    algorithm: Annotated[
        list[str],
        BeforeValidator(_algorithms),
        WithJsonSchema({"type": "array", "items": {"type": "string", "examples": list(BUILT_IN)}, "minItems": 1}),
    ] = Field(description="Message passing algorithms; those of other packages included.")
    per_algorithm: Annotated[dict[str, dict[str, Any]], WithJsonSchema(_own_schema())] = Field(
        default={}, description="Ranges for one algorithm only; they replace or extend the shared ones."
    )

    per_target: Annotated[
        dict[str, dict[str, Any]] | None, BeforeValidator(read_targets_space), WithJsonSchema(TARGETS_SCHEMA)
    ] = Field(default=None, description="Loss, weight and final_weight of single targets, by name.")
    per_dataset: Annotated[
        dict[str, dict[str, dict[str, Any]]] | None,
        BeforeValidator(read_datasets_space),
        WithJsonSchema(DATASETS_SCHEMA),
    ] = Field(default=None, description="As per_target, of single datasets, by name.")

    forbidden: list[dict[str, Any]] | None = Field(
        default=None,
        max_length=1000,
        description="Forbidden combinations. Each maps hyperparameters to values (one, a list, or a range); no "
        "candidate has all of them together.",
    )

    @field_validator("per_algorithm", mode="before")
    @classmethod
    def _own(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, Mapping):
            raise Refused("must hold the names of algorithms", "Write for instance {PNA: {hidden: [16, 32]}}.")
        return {str(name): _own_dimensions(str(name), own, info.data.get("algorithm")) for name, own in given.items()}

    @model_validator(mode="after")
    def _heads_are_served(self) -> _Space:
        """Check that every algorithm supports every chosen force head."""
        for index, name in enumerate(self.algorithm):
            served = ALGORITHMS.describe(name).force_heads
            own = self.per_algorithm.get(name, {})
            key = ("per_algorithm", name, "force_head") if "force_head" in own else ("force_head",)
            heads = own.get("force_head", getattr(self, "force_head", None))
            heads = heads if isinstance(heads, list) else [heads]
            for head in heads:
                if head is not None and head not in served:
                    raise Refused(
                        f"asks for a {head} force head, which {name} does not serve",
                        f"Write per_algorithm: {{{name}: {{force_head: {served[0]}}}}}, or leave algorithm {name} out.",
                        key if "force_head" in self.model_fields_set or "force_head" in own else ("algorithm", index),
                    )
            repulsion = own.get("repulsion", getattr(self, "repulsion", None))
            values = repulsion if isinstance(repulsion, list) else [repulsion]
            if True in values and any(
                head == ForceHead.DIRECT for head in (heads if isinstance(heads, list) else [heads])
            ):
                raise Refused(
                    f"asks for repulsion of {name}, which needs conservative forces",
                    "Write force_head: conservative, or repulsion: false.",
                    ("per_algorithm", name, "repulsion") if "repulsion" in own else ("repulsion",),
                )
        return self

    def check_targets(self, targets: Sequence[Target]) -> None:
        """Refuse an algorithm that gives only energies if a target needs its features.

        Raises
        ------
        Refused
            With the algorithm, and the use of its features.
        """
        heads = [t.name for t in targets if t.origin is Origin.HEAD and t.name != ENERGY.name]
        for index, name in enumerate(self.algorithm):
            if ALGORITHMS.describe(name).features:
                continue
            own = self.per_algorithm.get(name, {})
            settings = {key: own.get(key, getattr(self, key, None)) for key in ("condition_on", "global_attention")}
            wanted = heads + [
                key
                for key, values in settings.items()
                if any(v not in (None, False, "none") for v in (values if isinstance(values, list) else [values]))
            ]
            if wanted:
                raise Refused(
                    f"is {name}, which gives energies and no features for {' and '.join(wanted)}",
                    f"Leave {name} or {' and '.join(wanted)} out.",
                    ("algorithm", index),
                )

    def check_conditioning(self, attributes: Sequence[Attribute]) -> None:
        """Refuse an attribute that models are told of and that nothing declares; raises `Refused` with its place."""
        for at, value in self._conditioning():
            check_conditioning(value, attributes, at)

    def _conditioning(self) -> list[tuple[tuple[str, ...], Any]]:
        """Return each entry of ``condition_on`` that is not null, with its place in the search space."""
        key = "condition_on"
        own = [(("per_algorithm", name, key), own.get(key)) for name, own in self.per_algorithm.items()]
        return [(at, value) for at, value in [((key,), getattr(self, key, None)), *own] if value is not None]

    def condition_names(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the attributes that some models are told of, with a place in the workflow."""
        return {
            name: ("search", "space", *at)
            for at, values in self._conditioning()
            for value in (values if isinstance(values, list) else [values])
            for name in names_in(value)
        }

    @model_validator(mode="after")
    def _something_is_left(self) -> _Space:
        """Check that forbidden combinations name known hyperparameters and leave settings of every algorithm."""
        if self.forbidden is None:
            return self
        for index, combination in enumerate(self.forbidden):
            if not combination:
                raise Refused("is empty, which forbids everything", "Name hyperparameters.", ("forbidden", index))
            for key, value in combination.items():
                combination[key] = self._values(key, value, ("forbidden", index, key))
        space = self.compile()
        for index, forbidden in enumerate(space.forbidden):
            for key, values in forbidden.items():
                if not any(values.meets(dimension) for dimension in space.dimensions(key)):
                    raise Refused(
                        f"is never {values}, so that this combination forbids nothing",
                        f"Name values that search.space.{key} has, or leave the combination out.",
                        ("forbidden", index, key),
                    )
        from gfm_pipeline.search.encoding import Encoding  # here: it needs numpy

        for name in Encoding(space).algorithms_without_any():
            raise Refused(
                f"leaves next to nothing of {name}",
                f"Forbid less, or leave {name} out of search.space.algorithm.",
                ("forbidden",),
            )
        return self

    def _values(self, key: str, value: Any, at: tuple[str | int, ...]) -> Any:
        """Return the checked values of a hyperparameter in a combination."""
        if key == "algorithm":
            names = value if isinstance(value, list) else [value]
            for name in names:
                if name not in self.algorithm:
                    raise Refused(f"names {name!r}, which is not searched", suggestion(str(name), self.algorithm), at)
            return names
        for name in self.algorithm:
            about = ALGORITHMS.describe(name)
            if key in HYPERPARAMETERS or key.removeprefix(PREFIX) in {option.name for option in about.options}:
                return _read(_declared(name, about, key), value, at)
        known = [*HYPERPARAMETERS, "algorithm"]
        raise Refused("is not a hyperparameter of the algorithms that are searched", suggestion(key, known), at)

    def written(self) -> dict[str, Any]:
        """Return the space as plain data for a campaign's settings, without hyperparameters that are not searched."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}

    def as_begun(self, recorded: Mapping[str, Any]) -> Self:
        """Return the space of a campaign with a recorded space, which supplies what the file leaves out."""
        unsaid = [name for name in HYPERPARAMETERS if name not in self.model_fields_set and name in recorded]
        kept = {name: recorded[name] for name in unsaid if recorded[name] in HYPERPARAMETERS[name].former_spaces}
        return self.model_copy(update=kept)

    def compile(self) -> SearchSpace:
        """Return the space for the search."""
        plain = self.written()
        own = plain.pop("per_algorithm")
        forbidden = plain.pop("forbidden", [])
        plain |= flat_targets(plain.pop(PER_TARGET_KEY, None), plain.pop(PER_DATASET_KEY, None))
        return SearchSpace(
            {name: _dimension(value) for name, value in sorted(plain.items())},
            {name: {k: _dimension(v) for k, v in sorted(inner.items())} for name, inner in own.items()},
            tuple({name: _dimension(value) for name, value in one.items()} for one in forbidden),
        )


def _own_dimensions(name: str, own: Any, chosen: list[str] | None) -> dict[str, Any]:
    """Return the checked contents of ``per_algorithm`` for one algorithm."""
    if chosen is not None and name not in chosen:
        raise Refused(f"names {name}, which is not in the list of algorithms", suggestion(name, chosen), (name,))
    about = _describe(name, (name,))
    if not isinstance(own, Mapping):
        raise Refused(f"must hold hyperparameters of {name}", "Write for instance {hidden: [16, 32]}.", (name,))
    return {str(key): _read(_declared(name, about, str(key)), value, (name, key)) for key, value in own.items()}


def _declared(name: str, about: AlgorithmDescription, key: str) -> Hyperparameter:
    if key.startswith(PREFIX):
        try:
            return about.option(name, key.removeprefix(PREFIX))
        except Refused as error:
            raise Refused(error.message, error.hint, (name, key)) from error
    if key in HYPERPARAMETERS:
        return HYPERPARAMETERS[key]
    known = [*HYPERPARAMETERS, *(f"{PREFIX}{option.name}" for option in about.options)]
    raise Refused(f"is neither a shared hyperparameter nor an option of {name}", suggestion(key, known), (name, key))


def _read(declared: Hyperparameter, value: Any, at: tuple[str | int, ...]) -> Any:
    try:
        return declared.read(value)
    except Refused as error:
        raise Refused(error.message, error.hint, (*at, *error.at)) from error


def _dimension(value: Any) -> Dimension:
    match value:
        case {"low": low, "high": high, "scale": scale}:
            whole = isinstance(low, int) and isinstance(high, int)
            return Range(float(low), float(high), log=scale == "log", whole=whole)
        case list():
            return Choice(tuple(value))
    return Choice((value,))


def _field(declared: Hyperparameter) -> Any:
    def read(value: Any) -> Any:
        # null means: not searched
        return None if value is None and declared.default_space is None else declared.read(value)

    kind = Annotated[Any, BeforeValidator(read), WithJsonSchema(declared.json_schema())]
    return (kind, Field(default=declared.default_space, description=declared.help))


if TYPE_CHECKING:
    SpaceModel = _Space
else:
    SpaceModel = create_model(
        "SpaceModel",
        __base__=_Space,
        __doc__=_Space.__doc__,
        __module__=__name__,
        **{name: _field(declared) for name, declared in HYPERPARAMETERS.items()},
    )
