"""Jobs that queues take, and refusals that name the nearest one they would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_cases import FRONTIER, HOSTS, PERLMUTTER, PLAIN, QUEUE, TILES, site

from gfm_pipeline.sites.limits import (
    About,
    CheckedJob,
    Refusal,
    bin_of,
    check_job,
    check_ranks,
    check_task,
    largest,
    nearest,
    queue_name,
)

BATCH = FRONTIER["scheduler"]["queues"]["batch"]
EXTENDED = QUEUE | {"partition": "extended", "bins": [{"max_nodes": 64, "max_hours": 24}]}


def frontier(**scheduler):
    return site(FRONTIER, scheduler=FRONTIER["scheduler"] | scheduler)


def test_a_job_gets_the_longest_time_of_its_size():
    for nodes, hours in ((1, 2), (91, 2), (92, 6), (183, 6), (184, 12), (9472, 12)):
        job = check_job(frontier(), None, nodes, None, "abc123")
        assert isinstance(job, CheckedJob)
        assert (job.queue, job.hours, job.account, job.warnings) == ("batch", hours, "abc123", ())


def test_the_sites_own_account_counts():
    job = check_job(frontier(account="mine"), None, 4, 1.0)
    assert isinstance(job, CheckedJob)
    assert (job.account, job.hours) == ("mine", 1.0)
    assert isinstance(check_job(frontier(account_required=False), None, 4), CheckedJob)


@pytest.mark.parametrize(
    ("machine", "arguments", "about", "message", "hint"),
    [
        (frontier(), (None, 4, 1.0, None), About.ACCOUNT, "need an account", "--set site.scheduler.account=NAME"),
        (frontier(), ("bach", 4, 1.0, "a"), About.QUEUE, "knows no queue 'bach'", "Did you mean 'batch'?"),
        (frontier(), ("xyz", 4, 1.0, "a"), About.QUEUE, "knows no queue 'xyz'", "Choose from: batch, debug."),
        (frontier(default_queue=None), (None, 4, 1.0, "a"), About.QUEUE, "no default", "batch, debug"),
        (
            frontier(queues={"batch": BATCH}),
            (None, 91, 12.0, "a"),
            About.HOURS,
            "91 nodes or fewer get 2 h in queue batch of frontierlike, not 12 h.",
            "Ask for 2 h, or for 184 nodes to get 12 h.",
        ),
        (
            frontier(queues={"batch": BATCH, "extended": EXTENDED}),
            (None, 60, 12.0, "a"),
            About.HOURS,
            "91 nodes or fewer get 2 h",
            "Ask for 2 h, or for 184 nodes to get 12 h, or use queue extended (60 nodes: 24 h).",
        ),
        (frontier(), (None, 100, 7.0, "a"), About.HOURS, "92 to 183 nodes get 6 h", "or for 184 nodes to get 12 h"),
        (frontier(), (None, 184, 13.0, "a"), About.HOURS, "184 to 9,472 nodes get 12 h", "Ask for 12 h."),
        (frontier(), (None, 9473, 1.0, "a"), About.NODES, "has 9,472 nodes, not 9,473", "9,472 nodes or fewer"),
        (
            frontier(default_queue="extended", queues={"batch": BATCH, "extended": EXTENDED}),
            (None, 65, 1.0, "a"),
            About.NODES,
            "takes at most 64 nodes, not 65",
            "Ask for 64 nodes, or use queue batch (65 nodes: 2 h).",
        ),
        (site(TILES), (None, 1, 1.0, "a"), About.NODES, "takes 2 nodes or more, not 1", "Ask for 2 nodes."),
        (site(PLAIN), (None, 2, None, None), About.NODES, "here has 1 node, not 2.", "Ask for 1 node or fewer."),
    ],
)
def test_refusals_name_the_nearest_possible_job(machine, arguments, about, message, hint):
    refusal = check_job(machine, *arguments)
    assert isinstance(refusal, Refusal)
    assert refusal.about is about
    assert message in refusal.message
    assert hint in refusal.hint
    assert refusal.message.count(". ") == 0  # one sentence


@given(st.sampled_from([FRONTIER, PERLMUTTER, HOSTS, TILES]), st.integers(1, 12_000), st.floats(0.1, 100))
def test_every_machine_takes_a_job_or_says_why_not(plain, nodes, hours):
    machine = site(plain)
    verdict = check_job(machine, None, nodes, hours, "abc")
    if isinstance(verdict, Refusal):
        assert verdict.about in (About.NODES, About.HOURS)
        return
    assert nodes <= largest(machine)
    fit = bin_of(machine.scheduler.queues[verdict.queue], nodes)
    assert fit == verdict.bin
    assert hours == verdict.hours <= fit.max_hours


def test_gaps_between_sizes_are_refused_with_the_nearer_edge():
    bins = [{"max_nodes": 10, "max_hours": 1}, {"min_nodes": 100, "max_nodes": 200, "max_hours": 2}]
    machine = frontier(queues={"q": QUEUE | {"bins": bins}}, default_queue="q")
    refusal = check_job(machine, None, 60, 1.0, "a")
    assert isinstance(refusal, Refusal)
    assert refusal.hint == "Ask for 100 nodes."


def test_the_only_queue_is_the_default():
    assert queue_name(site(HOSTS)) == "all"
    assert queue_name(frontier(default_queue=None)) is None
    assert queue_name(frontier(), "debug") == "debug"
    assert largest(site(PLAIN)) == 1


def test_what_is_odd_is_said():
    second_hand = BATCH | {"verified": False, "chaining": False}
    job = check_job(frontier(queues={"batch": second_hand}, account_suffix="_g"), None, 4, 1.0, "m1234")
    assert isinstance(job, CheckedJob)
    assert [line.split(";")[0].split("(")[0].strip() for line in job.warnings] == [
        "Accounts on frontierlike end in _g",
        "The limits of queue batch are not verified",
        "Queue batch forbids chains of jobs: what one job does not finish is yours to resume.",
    ]


def test_queues_mean_nothing_without_a_batch_system():
    job = check_job(site(PLAIN), "debug", 1)
    assert isinstance(job, CheckedJob)
    assert (job.queue, job.hours) == (None, None)
    assert job.warnings == ("here has no batch system: queue 'debug' means nothing here.",)


def test_tasks_must_fit_the_allocation():
    assert check_task(frontier(), 4, 4) is None
    refusal = check_task(frontier(), 5, 4)
    assert refusal is not None
    assert "task of 5 nodes does not fit an allocation of 4" in refusal.message
    assert "4 nodes or fewer" in refusal.hint


def test_ranks_must_divide_a_node():
    assert [n for n in range(1, 9) if check_ranks(frontier(), n) is None] == [1, 2, 4, 8]
    refusal = check_ranks(frontier(), 3)
    assert refusal is not None
    assert "3 ranks do not divide the 8 GPUs" in refusal.message
    assert refusal.hint == "Nearest: 2 or 4."
    assert check_ranks(frontier(), 9).hint == "Nearest: 8."
    assert check_ranks(site(PLAIN), 3) is None
    assert nearest([2, 4], 1) == [2]
