"""The question which finalists become members by their stored errors, as the process of proposals answers it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfm_pipeline.core.contracts.policies import SELECTIONS, PolicyChoice, make_policy
from gfm_pipeline.core.records import from_plain, to_plain
from gfm_pipeline.search.selection import ErrorSelection, Finalist, standing


@dataclass(frozen=True)
class FinalistFolder:
    """A finalist, and the folder of its checkpoint."""

    finalist: Finalist
    folder: str


@dataclass(frozen=True)
class SelectionQuestion:
    """A request for members: the selection, the finalists in the order of their proposals, and the numbers.

    The answer depends only on these and on the files of stored errors.
    """

    method: PolicyChoice
    checkpoints: Sequence[FinalistFolder]
    members: int
    max_per_algorithm: int

    what = "Ensemble selection"
    remedy = "Correct it, or choose another with converge.selection."

    @property
    def size(self) -> tuple[int, int]:
        """Number of members, and number of finalists."""
        return self.members, len(self.checkpoints)

    def answer(self) -> list[dict[str, Any]]:
        """Return one entry: ``rank`` (None: too few finalists have stored errors), ``digests``, and ``unread``."""
        from gfm_pipeline.search.stored_errors import StoredErrors, read_errors  # here: it needs numpy

        found: dict[str, StoredErrors] = {}
        unread: dict[str, str] = {}
        for one in sorted(self.checkpoints, key=lambda one: standing(one.finalist)):  # the best decides the sample
            read = read_errors(Path(one.folder))
            first = next(iter(found.values()), None)
            if isinstance(read, str):
                unread[one.finalist.name] = read
            elif first is not None and not read.same_sample(first):
                unread[one.finalist.name] = "its stored errors are of other structures"
            else:
                found[one.finalist.name] = read
        digests = {name: errors.digest for name, errors in found.items()}
        rank = None
        if len(found) >= self.members:
            finalists = [one.finalist for one in self.checkpoints]
            method = make_policy(SELECTIONS, self.method, ErrorSelection)
            rank = to_plain(method.rank(finalists, self.members, self.max_per_algorithm, found))
        return [{"rank": rank, "digests": digests, "unread": unread}]

    def lines(self) -> Iterator[Any]:
        """Yield the question as lines of JSON for the process."""
        yield {"selection": to_plain(self)}

    @classmethod
    def from_head(cls, head: dict[str, Any]) -> SelectionQuestion | None:
        """Return the question that begins with a line, if it is one of these."""
        return from_plain(cls, head["selection"]) if "selection" in head else None
