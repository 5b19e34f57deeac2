"""When a batch job counts as ended: never because one answer lacks it."""

from __future__ import annotations

from itertools import chain, repeat

import pytest

from gfm_pipeline.api.allocate import BatchEnvironment
from gfm_pipeline.batch_systems.base import JobInfo, JobState
from gfm_pipeline.batch_systems.commands import SchedulerTrouble
from gfm_pipeline.campaign.holder import JobIdentity, this_process
from gfm_pipeline.core.errors import SchedulerUnavailable
from gfm_pipeline.execution.endings import JobEndings, wait_until_ended

NAME = "gfm-small-j001"
LIVES = JobInfo("41", NAME, JobState.RUNNING, ("n1",))
LACKS = JobInfo("41", "41", JobState.UNKNOWN)
ENDED = JobInfo("41", NAME, JobState.TIMEOUT)


class Told:
    """A batch system whose answers are given, the last of them for ever; a question takes ten seconds."""

    system = "slurm"

    def __init__(self, *answers: JobInfo | Exception, cluster: str = "east") -> None:
        self.answers = chain(answers[:-1], repeat(answers[-1]))
        self.name, self.now, self.questions = cluster, 0.0, 0

    def cluster(self) -> str:
        return self.name

    def jobs(self, asked):
        self.questions += 1
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return dict.fromkeys(asked, answer)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_one_answer_that_lacks_a_job_is_not_its_end_however_long_ago_the_last_one_came():
    endings = JobEndings(100.0)
    assert endings.judge("41", LIVES, 0.0) == LIVES
    assert endings.judge("41", LACKS, 5000.0).state is JobState.UNKNOWN
    assert endings.judge("41", LIVES, 5001.0) == LIVES


def test_a_job_that_every_answer_lacks_counts_as_ended_after_the_stated_time():
    endings = JobEndings(100.0)
    states = [endings.judge("41", LACKS, now).state for now in (0.0, 99.0, 100.0)]
    assert states == [JobState.UNKNOWN, JobState.UNKNOWN, JobState.VANISHED]
    assert JobState.VANISHED.has_ended
    assert not JobState.UNKNOWN.has_ended


def test_two_answers_far_apart_are_too_few():
    endings = JobEndings(100.0)
    assert [endings.judge("41", LACKS, now).state for now in (0.0, 9000.0)] == [JobState.UNKNOWN] * 2


def test_a_job_that_shows_up_once_starts_the_time_anew():
    endings = JobEndings(100.0)
    answers = [(0.0, LACKS), (60.0, LACKS), (90.0, LIVES), (120.0, LACKS), (150.0, LACKS), (180.0, LACKS)]
    assert all(not endings.judge("41", info, now).state.has_ended for now, info in answers)
    assert endings.judge("41", LACKS, 221.0).state is JobState.VANISHED


@pytest.mark.parametrize("last", [LIVES, ENDED])
def test_who_waits_asks_until_the_job_is_known(last):
    told, said = Told(LACKS, LACKS, last), []
    found = wait_until_ended(told, ["41"], 100.0, said.append, sleep=told.sleep, clock=lambda: told.now)
    assert found["41"] == last
    assert len(said) == 1
    assert "does not know 41" in said[0]
    assert "scheduler.missing_job_seconds" in said[0]


def test_who_waits_is_told_of_the_end_after_the_stated_time():
    told = Told(LACKS)
    found = wait_until_ended(told, ["41"], 100.0, lambda _: None, sleep=told.sleep, clock=lambda: told.now)
    assert found["41"].state is JobState.VANISHED
    assert 100.0 <= told.now < 120.0


def holder(**changes):
    record = this_process(JobIdentity("41", NAME, "slurm", "east", 0))
    return type(record)(**(vars(record) | changes))


def job_ended(told: Told, **changes) -> bool:
    return BatchEnvironment(told, JobIdentity(), 0.0, lambda _: None).job_ended(holder(**changes))


def test_whether_the_job_of_a_lock_has_ended():
    assert job_ended(Told(ENDED))
    assert not job_ended(Told(LIVES))
    assert not job_ended(Told(LACKS, LIVES))  # one blind answer
    assert job_ended(Told(LACKS))  # silent for the stated time
    assert not job_ended(Told(SchedulerTrouble("squeue failed")))
    assert not job_ended(Told(SchedulerUnavailable("The command squeue does not exist on this machine.")))


def test_a_number_of_another_cluster_or_of_another_job_proves_nothing():
    assert not job_ended(Told(LACKS, cluster="west"))
    assert not job_ended(Told(ENDED, cluster="west"))
    assert not job_ended(Told(ENDED), cluster="")  # renamed, or not told
    assert not job_ended(Told(JobInfo("41", "somebody-else", JobState.COMPLETED)))
    assert not job_ended(Told(JobInfo("41", "somebody-else", JobState.RUNNING)))


def test_the_job_of_a_lock_of_the_first_version_needs_a_word_of_its_end():
    first = {"job_name": "", "system": "", "cluster": "", "restarts": -1, "format": 1}
    assert not job_ended(Told(LACKS), **first)
    assert not job_ended(Told(JobInfo("41", "other", JobState.COMPLETED)), **first)
    assert job_ended(Told(ENDED), **first)
