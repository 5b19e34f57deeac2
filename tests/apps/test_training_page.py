"""The page on training: its tables are those of the registries, and its package is installed and trains."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from training_cases import publish_dataset, small_spec
from workflow_cases import workflow

from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.core.contracts.optimisation import losses, optimisers, schedules
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings, Precision
from gfm_pipeline.core.contracts.training import settings_of
from gfm_pipeline.core.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def table(first: str) -> dict[str, list[str]]:
    """Return the rows of the table whose head begins with a word, by name."""
    rows = PAGE.split(f"| {first} | ")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: row[1:] for row in cells for name in re.findall(r"`([^`]+)`", row[0])}


def test_the_tables_are_those_of_the_registries():
    found = table("loss")
    assert {name: about.summary for name, about in losses.BUILT_IN.items() if name != "l2"} == {
        name: row[0] for name, row in found.items() if name != "l2"
    }
    assert set(found) == set(losses.BUILT_IN)
    for what, known in (("optimiser", optimisers.BUILT_IN), ("schedule", schedules.BUILT_IN)):
        rows = table(what)
        assert {name: row[0] for name, row in rows.items()} == {name: about.summary for name, about in known.items()}
        reads = {name: tuple(re.findall(r"`([^`]+)`", row[2])) for name, row in rows.items()}
        assert reads == {name: about.reads for name, about in known.items()}
    assert set(table("precision")) == set(Precision)
    settings = OptimiserSettings()
    for what, default in (("loss", settings.loss), ("optimiser", settings.optimiser), ("schedule", settings.schedule)):
        assert [name for name, row in table(what).items() if "the default" in row[1]] == [default]


@pytest.fixture
def lab_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the package of the page: modules beside their metadata, on the path."""
    site = tmp_path / "site-packages"
    for language, name, text in re.findall(r"```(python|toml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        target = site / (name if language == "python" else "lab_training-1.0.dist-info/entry_points.txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        if language == "toml":
            text = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", text).replace('"', "")
        target.write_text(text)
    (site / "lab_training-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lab-training\nVersion: 1.0\n"
    )
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield
    for module in [name for name in sys.modules if name.partition(".")[0] == "lab_training"]:
        del sys.modules[module]


@pytest.mark.usefixtures("lab_training", "one_thread")
def test_parts_of_another_package_are_searched_and_train(tmp_path):
    chosen = {"optimiser": "sign", "schedule": ["linear"], "loss": ["log-cosh", "l1"]}
    space = workflow(**{f"search__space__{name}": value for name, value in chosen.items()}).search.space.compile()
    assert space.shared["loss"].values == ("log-cosh", "l1")
    _, settings = settings_of({"algorithm": "SchNet", "optimiser": "sign", "schedule": "linear", "loss": "log-cosh"})
    spec = small_spec((publish_dataset(tmp_path, "soft", 0, 1.0, (32, 8, 8)),), tmp_path / "out")
    settings = replace(settings, batch_size=8, learning_rate=1e-3, warmup=1)
    trainer = prepare(replace(spec, optimiser=settings, horizon=160))
    losses_seen = []
    for _ in range(10):
        trainer.step()
        losses_seen.append(trainer.train_loss)
    assert losses_seen[-1] < losses_seen[0]
    assert trainer.rate == pytest.approx(0.5e-3)


def test_without_the_package_the_names_are_unknown():
    with pytest.raises(ConfigError, match="no optimiser 'sign'"):
        optimisers.OPTIMISERS.describe("sign")
