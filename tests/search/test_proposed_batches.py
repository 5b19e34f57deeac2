"""Batches of any width: distinct, new, learned from what was told, and proposed without holding the driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gfm_pipeline.core.contracts.policies import PROPOSALS, PolicyChoice, default_choice
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.processes import started
from gfm_pipeline.core.records import canonical_json
from gfm_pipeline.search.batch import BatchUCB
from gfm_pipeline.search.encoding import Encoding, row_keys
from gfm_pipeline.search.gaussian import MOST_RESULTS, BatchGP, BatchLocalGP, GaussianProcess, Local
from gfm_pipeline.search.proposal_process import ProposalProcess, Question
from gfm_pipeline.search.proposer import Observation, RandomSampling
from gfm_pipeline.search.space import Choice, Range, SearchSpace
from gfm_pipeline.search.surrogate import Surrogate, bounded

ALGORITHMS = ("SchNet", "EGNN", "PaiNN", "PNA")
SPACE = SearchSpace(
    {
        "algorithm": Choice(ALGORITHMS),
        "hidden": Choice((16, 32, 64, 128)),
        "layers": Range(1, 6, whole=True),
        "cutoff": Range(3.0, 8.0),
        "learning_rate": Range(1e-5, 1e-1, log=True),
        "batch_size": Range(4, 128, log=True, whole=True),
        "force_head": Choice(("conservative", "direct")),
    },
    {"PaiNN": {"hidden": Choice((8, 16, 24))}, "PNA": {"options.sharpness": Range(1.0, 8.0)}},
)
ENCODING = Encoding(SPACE)


def loss(settings):
    return (
        np.log10(settings["learning_rate"] / 3e-3) ** 2 / 4
        + (settings["cutoff"] - 5.5) ** 2 / 8
        + 0.05 * abs(settings["layers"] - 4)
        + {"SchNet": 0.3, "EGNN": 0.1, "PaiNN": 0.0, "PNA": 0.2}[settings["algorithm"]]
    )


def key(settings):
    return canonical_json(SPACE.row(settings))


def search(method, width, waves, score=loss):
    """Return the settings of a search, in order."""
    taken = method.first_design(SPACE, 8, 0)
    for wave in range(waves):
        told = [Observation(s, score(s)) for s in taken]
        taken = [*taken, *method.propose(SPACE, told, taken, width, wave)]
    return taken


def test_rows_and_settings_are_the_same_candidates():
    rows = ENCODING.sample(300, np.random.default_rng(0))
    settings = ENCODING.decode(rows)
    assert np.array_equal(ENCODING.encode(settings), rows)
    assert [SPACE.settings(SPACE.row(s)) for s in settings] == settings
    assert {s["algorithm"] for s in settings} == set(ALGORITHMS)
    assert all(("options.sharpness" in s) == (s["algorithm"] == "PNA") for s in settings)
    assert all(isinstance(s["layers"], int) and 1 <= s["layers"] <= 6 for s in settings)
    assert all(s["hidden"] in ((8, 16, 24) if s["algorithm"] == "PaiNN" else (16, 32, 64, 128)) for s in settings)
    again = ENCODING.from_units(ENCODING.units(rows))
    discrete = [c for c, column in enumerate(ENCODING.columns) if column.is_discrete]
    assert np.array_equal(again[:, discrete], rows[:, discrete])


def test_a_wide_batch_holds_no_copy_and_nothing_that_was_tried():
    taken = [*BatchUCB().first_design(SPACE, 40, 1), *ENCODING.decode(ENCODING.sample(400, np.random.default_rng(2)))]
    pending = taken[300:]  # proposed, without a result yet
    told = [Observation(s, None if i % 7 == 0 else loss(s)) for i, s in enumerate(taken[:300])]
    proposed = BatchUCB().propose(SPACE, told, taken, 1024, 5)
    keys = {key(s) for s in proposed}
    assert len(keys) == 1024
    assert not keys & {key(s) for s in [*taken, *pending]}
    assert proposed == BatchUCB().propose(SPACE, told, taken, 1024, 5)
    assert proposed != BatchUCB().propose(SPACE, told, taken, 1024, 6)


def test_it_finds_what_random_search_does_not():
    best = {
        name: min(map(loss, search(method, 64, 5))) for name, method in (("ours", BatchUCB()), ("r", RandomSampling()))
    }
    assert best["ours"] < best["r"] / 20


def test_it_finds_it_in_noise_and_where_half_of_all_fail():
    rng = np.random.default_rng(3)

    def noisy(settings):
        return None if settings["hidden"] > 32 else loss(settings) + 0.05 * rng.normal()

    taken = search(BatchUCB(), 64, 5, noisy)
    last = [loss(s) for s in taken[-64:]]
    drawn = ENCODING.decode(ENCODING.sample(500, rng))
    assert np.median(last) < 0.4 * np.median([loss(s) for s in drawn])
    assert np.mean([s["hidden"] > 32 for s in taken[-64:]]) < 0.8 * np.mean([s["hidden"] > 32 for s in drawn])


def test_every_algorithm_has_its_share_before_anything_is_known():
    method = BatchUCB()
    first = method.first_design(SPACE, 8, 3)
    proposed = method.propose(SPACE, [], first, 5, 3)
    more = method.propose(SPACE, [Observation(first[0], None)], [*first, *proposed], 11, 4)
    counts = np.bincount(ENCODING.algorithm(ENCODING.encode([*first, *proposed, *more])))
    assert counts.tolist() == [6, 6, 6, 6]
    rates = sorted(np.log10(s["learning_rate"]) for s in method.first_design(SPACE, 40, 0) if s["algorithm"] == "EGNN")
    assert [int((rate + 5) / 0.4) for rate in rates] == list(range(10))  # one in every tenth of the scale


@pytest.mark.parametrize("results", [False, True])
def test_a_small_space_is_tried_out_before_anything_is_repeated(results):
    space = SearchSpace(
        {"algorithm": Choice(("SchNet", "PNA")), "hidden": Choice((8, 16, 32, 64)), "layers": Range(1, 8, whole=True)},
        {"PNA": {"hidden": Choice((8, 16))}},
    )
    assert Encoding(space).size == 4 * 8 + 2 * 8 == len(set(row_keys(Encoding(space).enumerate())))
    taken: list[dict] = []
    for wave in range(7):
        told = [Observation(s, s["layers"] / s["hidden"]) for s in taken] if results else []
        taken += BatchUCB().propose(space, told, taken, 7, wave)
        distinct = {canonical_json(s) for s in taken}
        assert len(distinct) == min(len(taken), 48)
    again = BatchUCB().propose(space, [Observation(s, 1.0) for s in taken] if results else [], taken, 96, 9)
    times = [[canonical_json(s) for s in [*taken, *again]].count(one) for one in distinct]
    assert set(times) <= {3, 4}  # 49 + 96 of 48


def test_outliers_and_failures_leave_the_differences_that_matter():
    given = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1e30, np.nan])
    found = bounded(given)
    assert np.array_equal(found[:10], given[:10])
    assert 1.0 < found[10] <= found[11] < 1.2


def test_the_trend_is_trusted_as_far_as_it_is_there():
    rng = np.random.default_rng(0)
    rows = ENCODING.sample(400, rng)
    smooth = np.array([loss(s) for s in ENCODING.decode(rows)])
    few = Surrogate(ENCODING, rows[:6], smooth[:6], rng)
    many = Surrogate(ENCODING, rows, smooth, rng)
    noise = Surrogate(ENCODING, rows, rng.normal(size=400), rng)
    assert np.isfinite(many.trend.ridge)
    assert not np.isfinite(noise.trend.ridge) or noise.trend.ridge > 100 * many.trend.ridge
    other = ENCODING.sample(200, rng)
    truth = np.array([loss(s) for s in ENCODING.decode(other)])
    errors = [np.abs(model(other)[0] - truth).mean() for model in (many, few)]
    assert errors[0] < 0.2 * errors[1]


def test_a_gaussian_process_learns_from_few_results_what_trees_do_not():
    rng = np.random.default_rng(5)
    rows, other = ENCODING.sample(60, rng), ENCODING.sample(200, rng)
    told, truth = (np.array([loss(s) for s in ENCODING.decode(r)]) for r in (rows, other))
    told[7] = np.nan  # failed
    mean, spread = GaussianProcess(ENCODING, rows, told)(other)
    forest, _ = Surrogate(ENCODING, rows, told, rng)(other)
    assert np.abs(mean - truth).mean() < 0.8 * np.abs(forest - truth).mean()
    assert (spread > 0).all()
    near = GaussianProcess(ENCODING, rows, told)(rows)[1]
    assert near.mean() < 0.5 * spread.mean()  # surer where results are


def test_a_search_by_a_gaussian_process_beats_the_forest_with_few_results():
    def best(method):
        return np.mean([min(loss(s) for s in searched(method, seed)) for seed in range(3)])

    def searched(method, seed):
        taken = method.first_design(SPACE, 8, seed)
        for wave in range(4):
            told = [Observation(s, loss(s)) for s in taken]
            taken += method.propose(SPACE, told, taken, 8, 100 * seed + wave)
        assert len({key(s) for s in taken}) == len(taken)
        return taken

    assert best(BatchGP()) < 0.7 * best(BatchUCB())


def test_many_results_are_told_to_the_forest_and_explored_less():
    rng = np.random.default_rng(6)
    rows = ENCODING.sample(MOST_RESULTS + 1, rng)
    values = np.array([loss(s) for s in ENCODING.decode(rows)])
    method = BatchGP(exploration=2.0)
    assert isinstance(method.fitted(ENCODING, rows, values, rng), Surrogate)
    assert isinstance(method.fitted(ENCODING, rows[:20], values[:20], rng), GaussianProcess)
    assert [method.exploration_after(n) for n in (1, 1024, 4096)] == [2.0, 2.0, 1.0]


def test_a_process_of_the_best_region_resolves_what_trees_do_not_and_leaves_the_rest_to_them():
    rng = np.random.default_rng(7)
    rows = np.vstack([ENCODING.sample(500, rng), near_the_best(150, rng)])
    values = np.array([loss(s) for s in ENCODING.decode(rows)])
    local, wide = (of(ENCODING, rows, values, np.random.default_rng(1)) for of in (Local, Surrogate))
    other = near_the_best(200, rng)
    truth = np.array([loss(s) for s in ENCODING.decode(other)])
    errors = [np.abs(model(other)[0] - truth).mean() for model in (local, wide)]
    assert errors[0] < 0.5 * errors[1]
    far = ENCODING.sample(200, rng)
    far = far[wide(far)[0] > np.quantile(wide(rows)[0], 0.8)]
    assert len(far) > 10
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(local(far), wide(far), strict=True))


def near_the_best(n, rng):
    drawn = ENCODING.decode(ENCODING.sample(n, rng))
    near = {"algorithm": "PaiNN", "layers": 4, "hidden": 16}
    return ENCODING.encode(
        [
            {
                **{k: v for k, v in s.items() if k != "options.sharpness"},
                **near,
                "learning_rate": 3e-3 * 10 ** rng.uniform(-0.5, 0.5),
                "cutoff": rng.uniform(5.0, 6.0),
            }
            for s in drawn
        ]
    )


def test_a_search_with_a_local_process_replays_and_is_new():
    rng = np.random.default_rng(8)
    settings = ENCODING.decode(ENCODING.sample(MOST_RESULTS + 44, rng))
    told = [Observation(s, None if i % 11 == 0 else loss(s)) for i, s in enumerate(settings)]
    method = BatchLocalGP()
    proposed = method.propose(SPACE, told, settings, 64, 5)
    assert proposed == method.propose(SPACE, told, settings, 64, 5)
    assert len({key(s) for s in [*settings, *proposed]}) == len(settings) + 64
    assert np.median([loss(s) for s in proposed]) < np.median([loss(s) for s in settings]) / 4
    assert [method.exploration_after(n) for n in (1, 256, 1024)] == [2.0, 2.0, 1.0]


@pytest.fixture
def process():
    made = ProposalProcess()
    yield made
    made.close()


def question(n=16, choice=None, told=40):
    rows = ENCODING.decode(ENCODING.sample(told, np.random.default_rng(0)))
    choice = choice or default_choice(PROPOSALS, "batch-ucb")
    return Question(choice, SPACE, [Observation(s, loss(s)) for s in rows], rows, n, 4)


def test_another_process_answers_as_this_one_would(process):
    future = process.submit(question(told=2500))
    assert future.result() == question(told=2500).answer()
    pid = process.pid
    assert process.submit(question(5)).result() == question(5).answer()
    gaussian = default_choice(PROPOSALS, "batch-gp")
    assert process.submit(question(5, gaussian)).result() == question(5, gaussian).answer()
    assert process.pid == pid  # one process for all of them


def test_a_process_that_is_killed_is_asked_again(process):
    process.submit(question()).result()
    os.kill(process.pid, signal.SIGKILL)
    assert process.submit(question(7)).result() == question(7).answer()


def test_closing_does_not_wait_for_a_proposal(process):
    process.submit(question()).result()
    os.kill(process.pid, signal.SIGSTOP)
    future = process.submit(question(4096))
    process.close()
    assert future.cancelled() or future.exception() is not None


WORKER = """
from gfm_pipeline.search.proposal_process import ProposalProcess
import sys; sys.path.insert(0, {tests!r})
from test_proposed_batches import question
process = ProposalProcess()
process.submit(question()).result()
print(process.pid, flush=True)
input()
"""


def test_the_process_ends_with_its_driver():
    code = WORKER.format(tests=str(Path(__file__).parent))
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        pid = int(driver.stdout.readline())
        assert started(pid)
        driver.kill()
    give_up = time.monotonic() + 30
    while started(pid) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not started(pid)


def test_a_method_that_fails_is_one_sentence(process):
    with pytest.raises(ConfigError, match="There is no proposal method 'nowhere'"):
        process.submit(question(choice=PolicyChoice("nowhere", {}))).result()
    bad = replace(question(), observations=[Observation({"algorithm": "SchNet", "hidden": 17}, 0.5)])
    with pytest.raises(ConfigError, match="Proposal method 'batch-ucb' failed: KeyError"):
        process.submit(bad).result()
    assert process.submit(question(3)).result() == question(3).answer()
