"""Learning curves of candidates: the objective of a training after a number of graphs.

``objective(n) = (floor + amplitude (n / graphs)^-exponent) exp(quality) exp(noise)``: the power law that errors of
neural networks follow over decades of training data (Hestness et al., arXiv:1712.00409), with a quality that is a sum
over hyperparameters, linear and quadratic in numbers. Without a fit, the quality has its optimum
at a point inside the space that depends on the seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from gfm_pipeline.search.space import Choice, Dimension, Range, SearchSpace
from gfm_pipeline.simulate.scenario import CurveModel

NOTHING_LEARNED = 1.5  # the worst objective: 1 is that of a model that predicts zero forces
SPREAD_OF_OFFSETS = 0.5  # of values that are not numbers, as a share of the whole


def coordinate(dimension: Dimension, value: Any) -> float | None:
    """Return the position of a value in its dimension, from 0 to 1; None if it is not a number, or cannot vary."""
    if isinstance(dimension, Choice):
        numbers = all(isinstance(v, int | float) for v in dimension.values)
        if not numbers or len(dimension.values) < 2 or value not in dimension.values:
            return None
        return dimension.values.index(value) / (len(dimension.values) - 1)
    if not dimension.high > dimension.low:
        return None
    low, high, here = (math.log(v) if dimension.log else float(v) for v in (dimension.low, dimension.high, value))
    return min(1.0, max(0.0, (here - low) / (high - low)))


def dimensions(space: SearchSpace, settings: Mapping[str, Any]) -> dict[str, Dimension]:
    """Return the dimensions of a candidate's settings, by name."""
    return {**space.shared, **space.own.get(str(settings["algorithm"]), {})}


class LearningCurves:
    """The objectives of all candidates of a space.

    Parameters
    ----------
    model
        The assumptions, or fitted values.
    space
        Space of the candidates.
    seed
        Seed of the landscape, unless one is given, and of the noise.
    """

    def __init__(self, model: CurveModel, space: SearchSpace, seed: int) -> None:
        self.model, self.space, self._seed = model, space, seed
        self._offsets, self._slopes = dict(model.offsets), dict(model.slopes)
        if not self._offsets and not self._slopes and model.spread:
            self._draw()

    def _draw(self) -> None:
        """Make a landscape: an optimum inside every range, and better and worse names."""
        names = sorted({n for own in ({}, *self.space.own.values()) for n in {**self.space.shared, **own}})
        draw = random.Random(f"landscape {self._seed}")
        every = {**{n: d for own in self.space.own.values() for n, d in own.items()}, **self.space.shared}
        varying = [n for n in names if _varies(every[n])]
        each = self.model.spread / math.sqrt(max(1, len(varying)))
        for name in varying:
            dimension = every[name]
            if isinstance(dimension, Range) or coordinate(dimension, dimension.values[0]) is not None:
                # c (u - m)^2 has a standard deviation of about 0.3 c over 0 to 1, for an optimum m inside.
                centre, bend = draw.uniform(0.2, 0.8), each / 0.3
                self._slopes[name] = (-2 * bend * centre, bend)
            else:
                for value in dimension.values:
                    self._offsets[f"{name}={value}"] = draw.gauss(0.0, each * SPREAD_OF_OFFSETS)

    def quality(self, settings: Mapping[str, Any]) -> float:
        """Return the logarithm of the ratio of a candidate's errors to those of the curve."""
        total = 0.0
        for name, dimension in dimensions(self.space, settings).items():
            value = settings.get(name, dimension.first)
            total += self._offsets.get(f"{name}={value}", 0.0)
            if name in self._slopes and (place := coordinate(dimension, value)) is not None:
                slope, bend = self._slopes[name]
                total += slope * place + bend * place**2
        return total

    def curve(self, graphs: float) -> float:
        """Return the objective of a candidate of quality 0 after a number of graphs."""
        model = self.model
        return model.floor + model.amplitude * float((max(1.0, graphs) / model.graphs) ** -model.exponent)

    def objective(self, settings: Mapping[str, Any], candidate: str, graphs: int) -> float | None:
        """Return the validation objective of a candidate, equal in every call; None: it has diverged."""
        own = random.Random(f"{self._seed} {candidate}")
        scattered, fate = own.gauss(0.0, self.model.scatter), own.random()
        if fate < self.model.diverged:
            return None
        noise = random.Random(f"{self._seed} {candidate} {graphs}").gauss(0.0, self.model.noise)
        return min(NOTHING_LEARNED, self.curve(graphs) * math.exp(self.quality(settings) + scattered + noise))


def _varies(dimension: Dimension) -> bool:
    return len(dimension.values) > 1 if isinstance(dimension, Choice) else dimension.high > dimension.low
