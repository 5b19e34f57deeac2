"""Fine-tuning: trainings that start from the weights of an earlier ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WeightsOrigin:
    """The member of an earlier ensemble whose weights a model starts from.

    Parameters
    ----------
    ensemble
        Path of the exported file, the ensemble's folder, or the campaign; in a model's card, its name alone.
    digest
        SHA-256 of the ensemble.
    member
        Name of the member.
    branches
        Maps each dataset of the new model to the dataset of the earlier one whose branch it starts from.
    """

    ensemble: str
    digest: str
    member: str
    branches: dict[str, str]


@dataclass(frozen=True)
class EarlierEnsemble:
    """The ensemble that a campaign fine-tunes.

    ``members`` maps the names of members to their hyperparameters, with those that the workflow changes; ``ensemble``,
    ``digest`` and ``branches`` are as in `WeightsOrigin`.
    """

    ensemble: str
    digest: str
    members: Mapping[str, dict[str, Any]]
    branches: Mapping[str, str]

    def origin(self, member: str) -> WeightsOrigin:
        """Return the start of the member ``member``."""
        return WeightsOrigin(self.ensemble, self.digest, member, dict(self.branches))

    def recorded(self) -> dict[str, Any]:
        """Return the facts that decide the results, as plain data for the settings of a stage; no path is among them.

        Members are a list, since the order of keys is not kept.
        """
        members = [[name, dict(settings)] for name, settings in self.members.items()]
        return {"digest": self.digest, "members": members, "branches": dict(self.branches)}

    @classmethod
    def from_recorded(cls, ensemble: str, recorded: Mapping[str, Any]) -> EarlierEnsemble:
        """Return the ensemble from the output of `recorded`."""
        members = {str(name): dict(settings) for name, settings in recorded["members"]}
        return cls(ensemble, recorded["digest"], members, dict(recorded["branches"]))
