"""The search of a workflow that fine-tunes an earlier ensemble: its candidates are the members, from their weights."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.recorded_policies import recorded_settings
from gfm_pipeline.core.contracts.evaluation import CALIBRATION_FILE, MEMBERS_FOLDER
from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.contracts.optimisation.fine_tuning import EarlierEnsemble
from gfm_pipeline.core.contracts.optimisation.settings import FIELDS, OptimiserSettings
from gfm_pipeline.core.contracts.properties.attributes import Attribute
from gfm_pipeline.core.contracts.targets import DEFAULT, Target
from gfm_pipeline.core.contracts.training import HYPERPARAMETERS, ModelSettings, flat_settings
from gfm_pipeline.core.ensemble_files import find_ensemble, read_descriptions
from gfm_pipeline.core.errors import GFMError
from gfm_pipeline.core.records import from_plain
from gfm_pipeline.engine.stages import search
from gfm_pipeline.workflow.fine_tune_section import SECTION, FineTuneModel
from gfm_pipeline.workflow.load import LoadedWorkflow
from gfm_pipeline.workflow.schema import SearchModel

CARD = "model.json"


@dataclass(frozen=True)
class _Described:
    """What the files of an ensemble say of its members, without their weights."""

    digest: str
    members: Mapping[str, tuple[ModelSettings, OptimiserSettings]]
    datasets: tuple[str, ...]
    targets: tuple[Target, ...]
    attributes: tuple[Attribute, ...]
    elements: frozenset[str]


def fine_tuned(loaded: LoadedWorkflow, paths: CampaignPaths) -> tuple[LoadedWorkflow, EarlierEnsemble | None]:
    """Return a workflow with the search of its section ``fine_tune``, and the ensemble; None without the section.

    The weights are not read. If the ensemble is gone, the facts that the campaign recorded take its place.

    Raises
    ------
    WorkflowError
        When the ensemble cannot be read, or does not fit the workflow: with the key, its line, and the fix.
    """
    section = loaded.model.fine_tune
    if section is None:
        return loaded, None
    if loaded.file.data.get("search") is not None:
        raise loaded.error(
            ("search",),
            "search and fine_tune exclude each other: the members of the earlier ensemble are the candidates.",
            "Leave out search or fine_tune.",
        )
    path = _path(loaded, section)
    begun = (recorded_settings(paths.journal, search.NAME) or {}).get(SECTION)
    if begun is not None and not path.exists() and _last_model(paths) == section.model:
        earlier = EarlierEnsemble.from_recorded(str(path), begun)
    else:
        earlier = _earlier(loaded, section, path, paths)
    return _with_members(loaded, section, earlier), earlier


def refuse_unknown_elements(loaded: LoadedWorkflow, elements: Mapping[str, Sequence[str]]) -> None:
    """Refuse sources with elements that the ensemble of the section ``fine_tune`` does not know.

    Parameters
    ----------
    loaded
        The workflow.
    elements
        Symbols of the elements of each source.

    Raises
    ------
    WorkflowError
        With the source, its line, and the fix; or when the ensemble cannot be read.
    """
    section = loaded.model.fine_tune
    if section is None:
        return
    known = _read(loaded, _path(loaded, section)).elements
    for name, symbols in elements.items():
        if unknown := [symbol for symbol in symbols if symbol not in known]:
            raise loaded.error(
                ("data", "sources", name),
                f"Source {name} has {', '.join(unknown)}, which the earlier ensemble {Path(section.model).name} does "
                f"not know (it knows {', '.join(sorted(known))}).",
                "Leave such structures out, or search new models: write search instead of fine_tune.",
            )


def known_elements_note(loaded: LoadedWorkflow) -> str | None:
    """Return what sources of a fine-tuning may hold, for commands that read no records; None without the section."""
    section = loaded.model.fine_tune
    if section is None or not (path := _path(loaded, section)).exists():
        return None
    return (
        f"The earlier ensemble knows {', '.join(sorted(_read(loaded, path).elements))}; `gfm-pipeline ingest "
        f"{shlex.quote(str(loaded.path))}` shows whether the sources have other elements."
    )


def _path(loaded: LoadedWorkflow, section: FineTuneModel) -> Path:
    return (loaded.path.resolve().parent / Path(section.model).expanduser()).resolve()


def _last_model(paths: CampaignPaths) -> str | None:
    """Return what the workflow of the campaign's latest run named as the earlier ensemble."""
    try:
        plain = json.loads(paths.resolved.read_text(encoding="utf-8"))
        return str(plain["workflow"][SECTION]["model"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _earlier(loaded: LoadedWorkflow, section: FineTuneModel, path: Path, paths: CampaignPaths) -> EarlierEnsemble:
    at = (SECTION, "model")
    if path.is_relative_to(paths.root):
        raise loaded.error(
            at,
            f"{path} is this campaign, whose ensemble changes when it is trained.",
            f"Give the new campaign another name, or fine-tune an export: gfm-pipeline export {paths.root} --output "
            "model.gfm.",
        )
    found = _read(loaded, path)
    place = find_ensemble(path) if path.is_dir() else path  # the newest one of a campaign may be another later
    _check_learned(loaded, found)
    branches = _branches(loaded, section, found.datasets)
    members = {
        name: {**_of_datasets(flat_settings(*settings), branches), "direct_share": 0.0, **section.settings}
        for name, settings in found.members.items()
    }
    return EarlierEnsemble(str(place), found.digest, members, branches)


def _read(loaded: LoadedWorkflow, path: Path) -> _Described:
    """Return what an ensemble's files say; a fault is one of the workflow, with its line."""
    at = (SECTION, "model")
    try:
        return _described(path)
    except GFMError as error:
        raise loaded.error(at, error.message, error.hint) from error
    except (KeyError, ValueError, TypeError) as error:
        message = (str(error).splitlines() or ["no reason"])[0]
        raise loaded.error(
            at, f"{path} does not fit together: {message.rstrip('.')}.", "Export the campaign again."
        ) from error


def _described(path: Path) -> _Described:
    digest, texts = read_descriptions(path)
    names = json.loads(texts[CALIBRATION_FILE])["members"]
    cards = [json.loads(texts[f"{MEMBERS_FOLDER}/{name}/{CARD}"]) for name in names]
    members = {
        name: (from_plain(ModelSettings, card["model"]), from_plain(OptimiserSettings, card["optimiser"]))
        for name, card in zip(names, cards, strict=True)
    }
    spec = cards[0]["spec"]
    targets = from_plain(tuple[Target, ...], spec["targets"]) if "targets" in spec else DEFAULT
    attributes = from_plain(tuple[Attribute, ...], spec.get("attributes", []))
    elements = frozenset(symbol for references in cards[0]["references"].values() for symbol in references)
    return _Described(digest, members, tuple(cards[0]["datasets"]), targets, attributes, elements)


def _check_learned(loaded: LoadedWorkflow, found: _Described) -> None:
    """Refuse targets and attributes other than those of the earlier models."""
    ours, theirs = (
        {t.name: replace(t, weight=1.0).learned() for t in of} for of in (loaded.model.targets, found.targets)
    )
    if ours != theirs:
        changed = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        at = ("targets",) if "targets" in loaded.file.data else (SECTION, "model")
        raise loaded.error(
            at,
            f"The targets are {', '.join(ours)}, and those of the earlier ensemble are {', '.join(theirs)} "
            f"(different: {', '.join(changed)}).",
            f"Write targets: {{{', '.join(f'{name}: {{}}' for name in theirs)}}}, with the declarations of the earlier "
            "workflow.",
        )
    if {a.name: a for a in loaded.model.attributes} != {a.name: a for a in found.attributes}:
        at = ("attributes",) if "attributes" in loaded.file.data else (SECTION, "model")
        names = ", ".join(a.name for a in found.attributes) or "none"
        raise loaded.error(
            at,
            f"The attributes are not those of the earlier ensemble ({names}).",
            "Declare attributes as in the earlier workflow.",
        )


def _branches(loaded: LoadedWorkflow, section: FineTuneModel, earlier: Sequence[str]) -> dict[str, str]:
    """Return the earlier dataset whose branch each source starts from."""
    sources, at = sorted(loaded.model.data.sources), (SECTION, "branches")
    for name, branch in section.branches.items():
        if name not in sources:
            raise loaded.error((*at, name), f"There is no source {name!r}.", suggestion(name, sources))
        if branch not in earlier:
            raise loaded.error(
                (*at, name), f"The earlier ensemble has no dataset {branch!r}.", suggestion(branch, list(earlier))
            )
    found = {}
    for name in sources:
        same = name if name in earlier else earlier[0] if len(earlier) == 1 else None
        chosen = section.branches.get(name) or same
        if chosen is None:
            raise loaded.error(
                at if section.branches else (SECTION,),
                f"Source {name!r} is no dataset of the earlier ensemble, which has several ({', '.join(earlier)}).",
                f"Write fine_tune.branches: {{{name}: {earlier[0]}}}, with the dataset of the nearest level of theory.",
            )
        found[name] = chosen
    return found


def _of_datasets(settings: Mapping[str, Any], branches: Mapping[str, str]) -> dict[str, Any]:
    """Return hyperparameters with those of single datasets given to the sources that start from these."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        what, _, rest = name.partition(".")
        target, _, dataset = rest.partition(".")
        if what in FIELDS and dataset:
            found |= {f"{what}.{target}.{source}": value for source, branch in branches.items() if branch == dataset}
        else:
            found[name] = value
    return found


def _with_members(loaded: LoadedWorkflow, section: FineTuneModel, earlier: EarlierEnsemble) -> LoadedWorkflow:
    """Return a workflow whose candidates are the members of an earlier ensemble."""
    members, model = list(earlier.members.values()), loaded.model
    space: dict[str, Any] = {"algorithm": list(dict.fromkeys(one["algorithm"] for one in members)), "per_algorithm": {}}
    for name in HYPERPARAMETERS:
        space[name] = _distinct(one[name] for one in members if name in one) or None
    for algorithm in space["algorithm"]:
        mine = [one for one in members if one["algorithm"] == algorithm]
        names = dict.fromkeys(name for one in mine for name in one if name.startswith("options."))
        space["per_algorithm"][algorithm] = {n: _distinct(one[n] for one in mine if n in one) for n in names}
    try:
        made = SearchModel.model_validate(
            {
                "candidates": len(members),
                "wave": len(members),
                "asynchronous": False,
                "rungs": [section.graphs],
                "reduction": 2.0,
                "validation_limit": section.validation_limit,
                "stopping": "none",
                "proposals": "random",
                "space": {name: value for name, value in space.items() if value is not None},
            }
        )
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ").rstrip(".")
        raise loaded.error(
            (SECTION, "model"),
            f"The members of the earlier ensemble have settings that this installation refuses: {fault}.",
            "Install the packages that the earlier campaign used.",
        ) from error
    given = "members" in model.converge.model_fields_set
    if given and model.converge.members > len(members):
        raise loaded.error(
            ("converge", "members"),
            f"converge.members is {model.converge.members}, and the earlier ensemble has {len(members)}.",
            f"Set it to {len(members)} or less, or leave it out.",
        )
    converge = model.converge if given else model.converge.model_copy(update={"members": len(members)})
    return replace(loaded, model=model.model_copy(update={"search": made, "converge": converge}))


def _distinct(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if not any(value == one and type(value) is type(one) for one in found):
            found.append(value)
    return found
