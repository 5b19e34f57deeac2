"""An algorithm of another package: the one of the documentation, installed as pip does, validated and trained."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from foreign_packages import OPTIONS, skip_unless_installed
from lab_package import install
from workflow_cases import VALID

from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.contracts.algorithms import ALGORITHMS, BUILT_IN
from gfm_pipeline.core.contracts.hyperparameters import Group, Hyperparameter, ValueKind
from gfm_pipeline.core.contracts.optimisation.settings import FIELDS
from gfm_pipeline.core.contracts.training import (
    HYPERPARAMETERS,
    ForceHead,
    ModelSettings,
    OptimiserSettings,
    settings_of,
)
from gfm_pipeline.core.errors import ConfigError, ModelError, Refused
from gfm_pipeline.models import Batch, MessagePassing, ModelSpec, Potential, algorithm
from gfm_pipeline.workflow.schema import WorkflowModel

SPACE = "    algorithm: [SchNet, EGNN]\n"


@pytest.fixture
def lab_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the package of the documentation: modules beside their metadata, on the path."""
    site = tmp_path / "site-packages"
    install(site)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    for module in [name for name in sys.modules if name.partition(".")[0] == "lab_models"]:
        del sys.modules[module]


def validate(folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str) -> tuple[int, str]:
    assert old in VALID
    (folder / "w.yaml").write_text(VALID.replace(old, new, 1))
    code = invoke(["validate", str(folder / "w.yaml")])
    return code, capsys.readouterr().err


# --- the table


def test_every_setting_is_a_declared_hyperparameter_and_every_entry_a_key_of_the_search_space() -> None:
    settings = {*vars(ModelSettings("SchNet")), *vars(OptimiserSettings())} - {"algorithm", "options", *FIELDS.values()}
    assert set(HYPERPARAMETERS) == settings
    space = WorkflowModel.model_json_schema()["$defs"]["SpaceModel"]["properties"]
    assert set(space) == settings | {"algorithm", "per_algorithm", "forbidden", "per_target", "per_dataset"}
    assert {h.group for h in HYPERPARAMETERS.values()} == set(Group)


def test_a_candidate_of_an_older_journal_has_the_default_of_what_it_lacks() -> None:
    model, optimiser = settings_of({"algorithm": "PNA", "hidden": 8, "options.sharpness": 2.0})
    assert model == ModelSettings("PNA", hidden=8, options={"sharpness": 2.0})
    assert optimiser == OptimiserSettings()
    with pytest.raises(ConfigError, match="'impetus', which this version does not know"):
        settings_of({"algorithm": "PNA", "impetus": 0.9})


def test_what_is_not_named_and_not_searched_stays_out_of_the_space_and_of_the_key() -> None:
    space = {"algorithm": "PNA"}
    plain = {"name": "n", "data": {"sources": {"a": {"reader": "emt-alloys"}}}, "search": {"space": space}}
    model = WorkflowModel.model_validate(plain).search.space
    assert "warmup" not in model.compile().shared
    assert set(model.written()) == {
        *("algorithm", "hidden", "layers", "cutoff", "n_radial", "learning_rate", "batch_size"),
        *("force_weight", "weight_decay", "ema_decay", "force_head", "per_algorithm"),
    }
    space["warmup"] = [0, 100]
    assert WorkflowModel.model_validate(plain).search.space.compile().shared["warmup"].values == (0, 100)


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_the_bounds_hold_in_every_form(name: str) -> None:
    declared = HYPERPARAMETERS[name]
    wrong: list[object] = [None, {}, [], True, [[]], float("nan"), float("inf"), 10**400, "x", {"low": 1}]
    if declared.kind is ValueKind.SWITCH:
        wrong.remove(True)
    elif declared.kind is ValueKind.NAME and not declared.names:
        wrong.remove("x")  # a workflow may declare it
    elif declared.kind is not ValueKind.NAME:
        assert declared.low is not None
        assert declared.high is not None
        wrong += [declared.low - 1, declared.high * 2, {"low": declared.high, "high": declared.high * 2}]
    for value in wrong:
        with pytest.raises(Refused) as caught:
            declared.read(value)
        assert caught.value.hint
    assert declared.read([declared.default]) == [declared.default]


def test_an_entry_whose_default_is_out_of_its_own_bounds_cannot_be_declared() -> None:
    with pytest.raises(Refused, match="from 1 to 8, not 9"):
        Hyperparameter("gates", ValueKind.WHOLE, 9, "Gates.", low=1, high=8)


def test_descriptions_are_read_without_torch() -> None:
    code = (
        "import sys; from gfm_pipeline.core.contracts.algorithms import BUILT_IN; import gfm_pipeline.workflow.schema;"
        "assert not {'torch', 'gfm_pipeline.models'} & set(sys.modules); print(*BUILT_IN)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(BUILT_IN)


@pytest.mark.filterwarnings("default")  # of packages of their own age
@pytest.mark.parametrize("name", [name for name, about in BUILT_IN.items() if not about.missing])
def test_every_description_names_a_class_that_takes_its_options(name: str) -> None:
    assert issubclass(algorithm(name), MessagePassing)
    about = BUILT_IN[name]
    Potential(ModelSpec(name, 8, 1, 4.0, options={o.name: o.default for o in about.options}))
    assert about.summary
    assert about.paper


# --- one of another package


@pytest.mark.usefixtures("lab_models")
def test_it_is_checked_at_validate_with_line_and_nearest_name(tmp_path, capsys) -> None:
    good = "    algorithm: [PNA, Gated]\n"
    assert "Gated" in ALGORITHMS.names()
    own = "EGNN: {hidden: [8, 16]}"
    text = VALID.replace(own, "Gated: {options.gates: [1, 2]}")
    (tmp_path / "w.yaml").write_text(text.replace(SPACE, good))
    assert invoke(["validate", str(tmp_path / "w.yaml")]) == 0
    for wrong, words in {
        "options.gate: 2": "w.yaml:17: search.space.per_algorithm.Gated.options.gate: is not an option of Gated. "
        "Did you mean gates?",
        "options.gates: [2, 9]": "options.gates.1: must be a whole number from 1 to 8, not 9.",
        "options.gates: many": 'options.gates: must be a whole number from 1 to 8, not "many".',
    }.items():
        (tmp_path / "w.yaml").write_text(VALID.replace(own, f"Gated: {{{wrong}}}").replace(SPACE, good))
        assert invoke(["validate", str(tmp_path / "w.yaml")]) == 2
        assert words in capsys.readouterr().err
    code, err = validate(tmp_path, capsys, SPACE, "    algorithm: [EGNN, Gatd]\n")
    assert code == 2
    assert "w.yaml:13: search.space.algorithm.1: cannot be Gatd" in err
    assert "Did you mean Gated?" in err


def test_one_that_is_not_installed_any_more_or_cannot_be_imported_is_one_sentence(lab_models, tmp_path, capsys) -> None:
    good = "    algorithm: [EGNN, Gated]\n"
    assert validate(tmp_path, capsys, SPACE, good)[0] == 0
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab_models"]:
        del sys.modules[name]
    (lab_models / "lab_models" / "__init__.py").write_text("1 / 0\n")
    code, err = validate(tmp_path, capsys, SPACE, good)
    assert code == 2
    assert "w.yaml:13: " in err
    assert "of package lab-models cannot be imported: division by zero. Install what it needs" in err
    (lab_models / "lab_models-1.0.dist-info" / "entry_points.txt").unlink()
    code, err = validate(tmp_path, capsys, SPACE, good)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "there is no algorithm 'Gated'" in err
    assert "If a package has it, install that here and on the nodes." in err


def test_a_class_that_cannot_be_imported_or_is_none_is_a_model_error(lab_models) -> None:
    (lab_models / "lab_models" / "gated.py").write_text("import a_package_nobody_has\n")
    with pytest.raises(ModelError, match=r"lab_models.gated:Gated cannot be imported: No module named 'a_package"):
        Potential(ModelSpec("Gated", 8, 1, 4.0))
    (lab_models / "lab_models" / "gated.py").write_text("Gated = dict\n")
    importlib.invalidate_caches()
    with pytest.raises(ModelError, match="is not a MessagePassing"):
        Potential(ModelSpec("Gated", 8, 1, 4.0))


@pytest.mark.usefixtures("lab_models")
def test_a_head_that_an_algorithm_does_not_serve_is_refused(tmp_path, capsys, monkeypatch) -> None:
    import lab_models

    only = replace(lab_models.GATED, force_heads=(ForceHead.CONSERVATIVE,))
    monkeypatch.setattr(lab_models, "GATED", only)
    both = "    algorithm: [EGNN, Gated]\n    force_head: [conservative, direct]\n"
    code, err = validate(tmp_path, capsys, SPACE, both)
    assert code == 2
    assert "w.yaml:14: search.space.force_head: asks for a direct force head, which Gated does not serve." in err
    assert "per_algorithm: {Gated: {force_head: conservative}}" in err
    (tmp_path / "w.yaml").write_text(
        VALID.replace(SPACE, both).replace("EGNN: {h", "Gated: {force_head: conservative}\n      EGNN: {h")
    )
    assert invoke(["validate", str(tmp_path / "w.yaml")]) == 0
    with pytest.raises(ModelError, match="Gated has no direct force head"):
        Potential(ModelSpec("Gated", 8, 1, 4.0, force_head=ForceHead.DIRECT))


def test_repulsion_of_direct_forces_is_refused_at_validate(tmp_path, capsys) -> None:
    both = SPACE + "    force_head: [conservative, direct]\n    repulsion: [false, true]\n"
    code, err = validate(tmp_path, capsys, SPACE, both)
    assert code == 2
    assert "w.yaml:15: search.space.repulsion: asks for repulsion of SchNet, which needs conservative forces." in err
    assert validate(tmp_path, capsys, SPACE, SPACE + "    repulsion: [false, true]\n")[0] == 0


@pytest.mark.usefixtures("lab_models", "one_thread")
def test_vectors_that_were_promised_and_not_given_are_a_model_error(monkeypatch) -> None:
    import lab_models

    monkeypatch.setattr(lab_models, "GATED", replace(lab_models.GATED, vectors=True))
    model = Potential(ModelSpec("Gated", 8, 1, 4.0, force_head=ForceHead.DIRECT))
    ends, none = torch.tensor([0, 1]), torch.tensor([0])
    pair = Batch(
        torch.tensor([1, 8]), torch.eye(2, 3), ends, ends.flip(0), torch.zeros(2, 3), none.repeat(2), none + 2, none
    )
    with pytest.raises(ModelError, match="gave no vectors, though its description says that it has them"):
        model(pair)


@pytest.mark.usefixtures("lab_models", "one_thread")
@pytest.mark.filterwarnings("default")  # of packages of their own age
@pytest.mark.parametrize("name", ["ResGated", "Pairs", *OPTIONS])
def test_operators_and_energies_of_other_packages_train_resume_and_predict_like_our_own(name, tmp_path) -> None:
    skip_unless_installed(name)
    from training_cases import assert_same_state, publish_dataset, run, small_spec

    from gfm_pipeline.apps.train.checkpoint import load_model

    datasets = publish_dataset(tmp_path, "soft", 0, 1.0), publish_dataset(tmp_path, "hard", 10, 2.0)
    spec = small_spec(datasets, tmp_path / "output")
    model = replace(spec.model, algorithm=name, options=OPTIONS.get(name, {}))
    spec = replace(spec, model=model, budget_graphs=400 if name in OPTIONS else 800)
    whole = run(spec, tmp_path / "whole")
    stopped = run(replace(spec, output=str(tmp_path / "again")), tmp_path / "a", 20)
    again = replace(spec, output=str(tmp_path / "again"), previous_attempts=(str(stopped),))
    assert run(again, tmp_path / "b").objective == whole.objective
    assert_same_state(whole.checkpoint, str(tmp_path / "again"))
    assert whole.objective < 0.9
    model = load_model(Path(whole.checkpoint)).potential
    pair = Batch(
        z=torch.tensor([1, 8]),
        pos=torch.tensor([[0.0, 0, 0], [0, 0, 1.1]]),
        edge_src=torch.tensor([0, 1]),
        edge_dst=torch.tensor([1, 0]),
        edge_shift=torch.zeros(2, 3),
        graph=torch.zeros(2, dtype=torch.int64),
        natoms=torch.tensor([2]),
        dataset=torch.tensor([1]),
    )
    forces = model(pair).forces
    torch.testing.assert_close(forces[0], -forces[1])
    assert forces[0].norm() > 1e-3


@pytest.mark.usefixtures("lab_models")
def test_a_model_that_gives_energies_serves_no_other_head(monkeypatch, tmp_path, capsys) -> None:
    from gfm_pipeline.core.contracts.targets import DEFAULT, Level, Target

    charges = Target("charges", "e", "Charges of atoms.", Level.ATOM)
    with pytest.raises(ModelError, match="Pairs gives energies, and no features for a head of charges"):
        Potential(ModelSpec("Pairs", 8, 1, 4.0, targets=(*DEFAULT, charges)))
    with pytest.raises(ModelError, match="Pairs gives energies, and no features that could be told of charge"):
        Potential(ModelSpec("Pairs", 8, 1, 4.0, condition_on="charge"))
    with pytest.raises(ModelError, match="Pairs has no direct force head"):
        Potential(ModelSpec("Pairs", 8, 1, 4.0, force_head=ForceHead.DIRECT))
    with pytest.raises(ModelError, match="Pairs gives energies, and no features that atoms could attend to"):
        Potential(ModelSpec("Pairs", 8, 1, 4.0, global_attention=True))
    pairs = "    algorithm: [SchNet, Pairs]\n"
    wrong = {"    condition_on: [none, charge]\n": "condition_on", "    global_attention: true\n": "global_attention"}
    for key, word in wrong.items():
        (tmp_path / "w.yaml").write_text(
            VALID.replace(SPACE, pairs + key).replace("EGNN: {hidden: [8, 16]}", "SchNet: {hidden: [8, 16]}")
        )
        assert invoke(["validate", str(tmp_path / "w.yaml")]) == 2
        err = capsys.readouterr().err
        assert f"w.yaml:13: search.space.algorithm.1: is Pairs, which gives energies and no features for {word}." in err
    named = VALID.replace(SPACE, pairs).replace("EGNN: {hidden: [8, 16]}", "SchNet: {hidden: [8, 16]}")
    for targets, expected in (("", 0), ("targets: {energy: {}, forces: {}, dipole: {}}\n", 2)):
        (tmp_path / "w.yaml").write_text(targets + named)
        assert invoke(["validate", str(tmp_path / "w.yaml")]) == expected
    assert "no features for dipole" in capsys.readouterr().err
    monkeypatch.setattr(algorithm("Pairs"), "energy", lambda self, z, *_: torch.zeros(7))
    ends, none = torch.tensor([0, 1]), torch.tensor([0])
    pair = Batch(
        torch.tensor([1, 8]), torch.eye(2, 3), ends, ends.flip(0), torch.zeros(2, 3), none.repeat(2), none + 2, none
    )
    with pytest.raises(ModelError, match=r"Pairs gave energies of shape \(7,\) for 2 atoms in 1 structures"):
        Potential(ModelSpec("Pairs", 8, 1, 4.0))(pair)
