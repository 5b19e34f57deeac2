"""Greedy selection by stored errors: complementary members, none with weight zero, and unusable files."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from gfm_pipeline.core.contracts.attempts.stored_errors import ERRORS_FILE, error_key, group_key, largest_bytes
from gfm_pipeline.core.contracts.policies import PolicyChoice
from gfm_pipeline.core.contracts.targets import DEFAULT
from gfm_pipeline.search.greedy import Greedy, likelihood
from gfm_pipeline.search.proposal_process import ProposalProcess
from gfm_pipeline.search.selection import Finalist, standing
from gfm_pipeline.search.selection_question import FinalistFolder, SelectionQuestion
from gfm_pipeline.search.stored_errors import StoredErrors, read_errors

ROWS = 240
GROUPS = np.arange(ROWS, dtype=np.int64) // 4
ALGORITHMS = ("SchNet", "EGNN", "PaiNN")


def stored(*parts: np.ndarray) -> StoredErrors:
    names = [f"d/{place}" for place in range(len(parts))]
    errors = {name: part.reshape(ROWS, -1) for name, part in zip(names, parts, strict=True)}
    return StoredErrors("", errors, dict.fromkeys(names, GROUPS))


def drawn(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=ROWS)


def finalists(n: int) -> list[Finalist]:
    return [Finalist(f"c{k:05d}", 1, 0.1 + 0.01 * k, ALGORITHMS[k % 3]) for k in range(n)]


@pytest.fixture
def five() -> dict[str, StoredErrors]:
    """Two nearly equal best models, two a little worse ones with errors of their own, and a bad one."""
    best = drawn(0)
    parts = [best, best + 0.02 * drawn(1), 1.1 * drawn(2), 1.1 * drawn(3), 9.0 * drawn(4)]
    return {f.name: stored(part, 2.0 * part) for f, part in zip(finalists(5), parts, strict=True)}


def test_members_complement_each_other_and_nobody_with_weight_zero_is_one(five):
    rank = Greedy().rank(finalists(5), 3, 3, five)
    assert set(rank.weights) in ({"c00000", "c00002", "c00003"}, {"c00001", "c00002", "c00003"})
    assert sum(rank.weights.values()) == pytest.approx(1.0)
    assert min(rank.weights.values()) > 0.0
    assert set(rank.left_out) == set(five) - set(rank.weights)
    assert "its weight in the ensemble is zero" in rank.left_out["c00004"]
    best = [f.name for f in sorted(finalists(5), key=standing)][:3]
    assert set(best) != set(rank.weights)


def test_fewer_members_than_places_if_the_others_add_nothing(five):
    bad = {**five, "c00002": stored(9.0 * drawn(7), 9.0 * drawn(8)), "c00003": stored(9.0 * drawn(9), 9.0 * drawn(10))}
    rank = Greedy().rank(finalists(5), 5, 5, bad)
    assert set(rank.weights) == {"c00000", "c00001"}


def test_it_is_a_function_of_the_finalists_and_not_of_their_order(five):
    shuffled = finalists(5)
    random.Random(1).shuffle(shuffled)
    assert Greedy().rank(shuffled, 3, 3, five) == Greedy().rank(finalists(5), 3, 3, five)


def test_the_cap_and_the_pool_hold(five):
    same = [replace(f, algorithm="PNA") for f in finalists(4)] + finalists(5)[4:]
    assert len(Greedy().rank(same, 3, 1, five).weights) <= 2
    assert set(Greedy(pool=2).rank(finalists(5), 2, 2, five).weights) == {"c00000", "c00001"}


def test_a_spread_that_tells_the_errors_is_worth_something():
    """Two pairs of members with equal errors of the mean; in one, the spread is large where the error is."""
    size, sign = np.abs(drawn(5)) + 0.1, np.where(drawn(6) > 0, 1.0, -1.0)
    mean = size * drawn(7)
    telling = [mean + size * sign, mean - size * sign]
    constant = [mean + sign, mean - sign]
    scores = []
    for pair in (telling, constant):
        models = [stored(part) for part in pair]
        scores.append(
            Greedy().rank(finalists(2), 2, 2, dict(zip(["c00000", "c00001"], models, strict=True))).likelihood
        )
    assert scores[0] < scores[1] - 0.05


def write(folder: Path, content: bytes) -> str:
    folder.mkdir()
    (folder / ERRORS_FILE).write_bytes(content)
    return str(folder)


def file_of(errors: np.ndarray, groups: np.ndarray = GROUPS) -> bytes:
    return save(
        {error_key("d", "energy"): errors.reshape(len(groups), -1).astype(np.float32), group_key("d", "energy"): groups}
    )


@pytest.fixture
def question(tmp_path) -> SelectionQuestion:
    good = [write(tmp_path / f"good{k}", file_of((1 + 0.1 * k) * drawn(k))) for k in range(3)]
    bad = [
        str(tmp_path / "none"),
        write(tmp_path / "torn", file_of(drawn(4))[:40]),
        write(tmp_path / "nan", file_of(np.full(ROWS, np.nan))),
        write(tmp_path / "other", file_of(drawn(5), GROUPS + 1)),
    ]
    rows = [FinalistFolder(f, folder) for f, folder in zip(finalists(7), [*good, *bad], strict=True)]
    return SelectionQuestion(PolicyChoice("greedy", {"pool": 32}), rows, 2, 2)


def test_files_that_cannot_be_used_are_named_and_the_rest_decides(question):
    (answer,) = question.answer()
    assert set(answer["digests"]) == {"c00000", "c00001", "c00002"}
    assert answer["unread"]["c00003"] == "its training stored no errors"
    assert "cannot be read" in answer["unread"]["c00004"]
    assert answer["unread"]["c00005"] == "its stored errors are not finite"
    assert answer["unread"]["c00006"] == "its stored errors are of other structures"
    assert set(answer["rank"]["weights"]) <= set(answer["digests"])
    assert replace(question, members=4).answer()[0]["rank"] is None


def test_the_process_of_proposals_answers_the_same(question):
    process = ProposalProcess()
    try:
        assert process.submit(question).result(timeout=120) == question.answer()
    finally:
        process.close()


def test_a_file_of_errors_is_small():
    assert largest_bytes(2, DEFAULT) < 100_000


def test_the_likelihood_needs_no_unit(five):
    from gfm_pipeline.search.greedy import _quantities

    models = [five[name] for name in ("c00000", "c00002")]
    scaled = [stored(*(1000.0 * part.reshape(-1) for part in model.errors.values())) for model in models]
    share = np.array([0.5, 0.5])
    assert likelihood(_quantities(scaled), share) - likelihood(_quantities(models), share) == pytest.approx(
        np.log(1000.0)
    )


def test_reading_refuses_what_is_no_file_of_errors(tmp_path):
    assert read_errors(Path(write(tmp_path / "a", save({"x": np.zeros(3)})))) == "its stored errors have another form"
