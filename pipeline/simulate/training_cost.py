"""Times of trainings: the work per graph, an optimiser step over ranks, and noise.

Work of a graph (flop): ``layers (edges (2 R H + 2 H^2) + atoms 10 H^2) x algorithm x 9``, 4.5 with a direct force head,
for width H and R radial functions: the matrix products of EGNN's messages and updates, of which conservative training
takes about nine times a forward pass of the energy. A step of B graphs over P ranks takes
``step + ceil(B / P) work / rank_flops + 2 (P - 1) / P bytes / bandwidth + 2 log2(P) latency + B graph``.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from gfm_pipeline.core.contracts.training import ForceHead, ModelSettings, TrainSpec
from gfm_pipeline.engine.decisions.estimates import PARAMETERS
from gfm_pipeline.simulate.scenario import CostModel

FORWARDS = {ForceHead.CONSERVATIVE: 9.0, ForceHead.DIRECT: 4.5}  # forward passes per training step
STEP_SECONDS = {True: 0.02, False: 0.0045}  # with and without a GPU
RANK_FLOPS = {True: 1e12, False: 2.8e10}
OTHER_ALGORITHM = 2.0
NEIGHBOUR_CUTOFF = 5.0  # Angstrom: the cutoff of `CostModel.neighbours`
BYTES = 4.0  # per component of a gradient


@dataclass(frozen=True)
class TrainingCost:
    """Times of trainings on one machine.

    Parameters
    ----------
    model
        The assumptions.
    gpu
        Whether ranks have GPUs.
    seed
        Seed of the noise.
    """

    model: CostModel
    gpu: bool
    seed: int = 0

    def work(self, settings: ModelSettings) -> float:
        """Return the floating point operations of one graph in one training step."""
        assumed, width = self.model, float(settings.hidden)
        edges = assumed.atoms * assumed.neighbours * (settings.cutoff / NEIGHBOUR_CUTOFF) ** 3
        messages = edges * (2 * settings.n_radial * width + 2 * width**2) + assumed.atoms * 10 * width**2
        factor = assumed.algorithms.get(settings.algorithm, OTHER_ALGORITHM)
        return settings.layers * messages * factor * FORWARDS[settings.force_head]

    def parameters(self, settings: ModelSettings) -> int:
        """Return the approximate number of parameters of a model."""
        return PARAMETERS * settings.layers * settings.hidden**2

    def seconds_a_graph(self, settings: ModelSettings, batch: int, ranks: int) -> float:
        """Return the time per graph (s) in steps of ``batch`` graphs over ``ranks`` ranks, without noise."""
        assumed = self.model
        step = assumed.step_seconds or STEP_SECONDS[self.gpu]
        mine = math.ceil(batch / ranks) * self.work(settings) / (assumed.rank_flops or RANK_FLOPS[self.gpu])
        reduced = 0.0
        if ranks > 1:
            size = BYTES * self.parameters(settings)
            reduced = 2 * (ranks - 1) / ranks * size / assumed.bandwidth + 2 * math.log2(ranks) * assumed.latency
        return assumed.scale * (assumed.graph_seconds + (step + mine + reduced) / batch)

    def noise(self, task: str, attempt: int) -> float:
        """Return the noise factor of an attempt's time: log-normal, and equal in every call."""
        return math.exp(self.model.scatter * random.Random(f"{self.seed} {task} {attempt}").gauss(0.0, 1.0))

    def checkpoint_every(self, spec: TrainSpec) -> float:
        """Return the seconds between two checkpoints of a training."""
        return self.model.checkpoint_every or spec.checkpoint_every_seconds

    def pace(self, spec: TrainSpec, task: str, attempt: int) -> float:
        """Return the time per graph (s) in one attempt, including checkpoints."""
        alone = self.seconds_a_graph(spec.model, spec.optimiser.batch_size, spec.ranks) * self.noise(task, attempt)
        return alone * (1.0 + self.model.checkpoint_seconds / self.checkpoint_every(spec))
