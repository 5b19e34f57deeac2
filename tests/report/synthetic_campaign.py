"""A finished campaign that looks like a real one: drawn by the report's tests and by people who change its looks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.energy import EnergyLabel
from gfm_pipeline.core.contracts.evaluation import CalibrateResult, DatasetReport, QuantityReport, figure_key
from gfm_pipeline.core.contracts.training_result import DatasetErrors
from gfm_pipeline.report.view import (
    CampaignView,
    CandidateView,
    CurvePoint,
    EnergyView,
    KilowattHours,
    MemberView,
    RungView,
    StageStatus,
    StageView,
    TaskFailure,
)

START = 1795406400.0
ALGORITHMS = ("schnet", "egnn", "painn", "pna")
SPLITS = ("trainset", "valset", "testset")


def statistics(name: str, elements: tuple[str, ...], n: int, natoms: int, reasons: dict[str, int]) -> DatasetStatistics:
    shares = (0.8, 0.1, 0.1)
    return DatasetStatistics(
        name=name,
        n_structures={s: int(n * f) for s, f in zip(SPLITS, shares, strict=True)},
        n_atoms={s: int(n * natoms * f) for s, f in zip(SPLITS, shares, strict=True)},
        n_groups={s: int(n * f / 5) for s, f in zip(SPLITS, shares, strict=True)},
        elements=elements,
        reference={e: -13.6 * (i + 1) for i, e in enumerate(elements)},
        reference_rank=len(elements),
        reference_from="fit",
        force_rms=1.37,
        energy_std=0.118,
        null_energy_mae=dict.fromkeys(SPLITS, 0.092),
        null_force_mae=dict.fromkeys(SPLITS, 0.83),
        max_atoms=natoms + 6,
        n_quarantined=sum(reasons.values()),
        reasons=reasons,
    )


def curve(
    start: float, floor: float, graphs: int, rng: np.random.Generator, points: int = 14
) -> tuple[CurvePoint, ...]:
    values = []
    for g in np.linspace(graphs / points, graphs, points):
        value = floor + (start - floor) * math.exp(-3.2 * g / 16000) * (1 + 0.03 * rng.normal())
        values.append(CurvePoint(int(g), float(g) / 180.0, value))
    return tuple(values)


def candidates(rng: np.random.Generator, count: int = 14) -> tuple[CandidateView, ...]:
    found = []
    for i in range(count):
        algorithm = ALGORITHMS[i % 4]
        quality = float(np.clip(rng.normal(0.34, 0.1), 0.17, 0.7))
        rungs = 1 + (i % 3 != 0) + (i % 5 < 2 and i % 3 != 0)
        status = "stopped"
        outcome = f"stopped after rung {rungs - 1}: rank {7 + i % 4} of 14, the top 4 go on"
        if rungs == 3:
            status = "selected" if i in (1, 5, 10, 11) else "finished"
            outcome = f"selected: rank {1 + i % 4} of 14" if status == "selected" else "finished: rank 5 of 14"
        if i == 6:
            status, outcome, rungs = "diverged", "diverged at step 212: the loss was not finite", 1
        points = curve(0.95, quality, 2000 * 3 ** (rungs - 1), rng)
        ends = [
            RungView(
                r,
                2000 * 3**r,
                None if status == "diverged" else quality + (0.95 - quality) * math.exp(-3.2 * 2000 * 3**r / 16000),
                11.0 * 3**r,
                0.0123,
            )
            for r in range(rungs)
        ]
        settings: dict[str, Any] = {
            "model": {
                "algorithm": algorithm,
                "hidden": (32, 48, 64)[i % 3],
                "layers": 2 + i % 2,
                "cutoff": 4.5 + 0.5 * (i % 2),
            },
            "optimiser": {
                "learning_rate": float(10 ** rng.uniform(-3.3, -2.2)),
                "batch_size": (8, 16, 32)[i % 3],
                "force_weight": float(10 ** rng.uniform(0, 1.5)),
                "ema_decay": 0.99,
            },
        }
        found.append(
            CandidateView(
                f"c{i:03d}", i // 7, settings, tuple(ends), status, outcome, () if status == "diverged" else points
            )
        )
    return tuple(found)


def quantity(
    name: str, kind: str, unit: float, rng: np.random.Generator, arrays: dict[str, NDArray[np.float64]]
) -> QuantityReport:
    n = 1500
    label = rng.normal(scale=8 * unit, size=n)
    spread = 0.35 * unit * np.exp(rng.normal(scale=0.6, size=n))
    error = np.hypot(2.2 * spread, 0.3 * unit) * rng.standard_t(6, size=n)
    deviation = np.hypot(2.3 * spread, 0.32 * unit)
    expected = np.linspace(0.0, 1.0, 101)
    values = {
        "label": label,
        "mean": label + error,
        "spread": spread,
        "deviation": deviation,
        "curve_expected": expected,
    }
    erf = np.vectorize(math.erf)
    for key, s in (("curve_raw", spread), ("curve_calibrated", deviation)):
        score = np.sort(erf(np.abs(error) / s / math.sqrt(2)))
        values[key] = np.searchsorted(score, expected, side="right") / n
    arrays.update({figure_key(name, kind, key): value for key, value in values.items()})
    mae = float(np.abs(error).mean())
    return QuantityReport(
        mae=mae,
        rmse=float(np.sqrt((error**2).mean())),
        null_mae=6.4 * unit,
        best_member_mae=1.15 * mae,
        coverage_raw=float((np.abs(error) <= 1.645 * spread).mean()),
        coverage_calibrated=0.903,
        interval_halfwidth=float(1.62 * deviation.mean()),
        rank_correlation=0.52,
        nll_raw=2.81,
        nll_calibrated=-0.94,
        miscalibration_raw=0.231,
        miscalibration_calibrated=0.018,
        scale=2.3,
        floor=0.32 * unit,
        quantile=1.62,
        n=n,
        coverage_error=0.011,
    )


def finished_campaign() -> tuple[CampaignView, dict[str, NDArray[np.float64]]]:
    """Two datasets, fourteen candidates, four members, and the arrays of ``evaluation.npz``."""
    rng = np.random.default_rng(7)
    arrays: dict[str, NDArray[np.float64]] = {}
    reports = {
        name: DatasetReport(
            energy=quantity(name, "energy", 0.011, rng, arrays),
            forces=quantity(name, "forces", 0.09, rng, arrays),
            n_structures=290,
        )
        for name in ("molecules", "alloys")
    }
    found = candidates(rng)
    members = tuple(
        MemberView(
            name=f"m{k}",
            candidate=c.name,
            settings=c.settings,
            status=("converged", "converged", "limit", "converged")[k],
            graphs=24000 + 3000 * k,
            objective=0.148 + 0.011 * k,
            errors={
                "molecules": DatasetErrors(0.0071 + 0.0004 * k, 0.094 + 0.006 * k, 0.092, 0.83),
                "alloys": DatasetErrors(0.0123 + 0.0006 * k, 0.071 + 0.004 * k, 0.088, 0.52),
            },
            curve=curve(0.5, 0.14 + 0.01 * k, 24000 + 3000 * k, rng, 24),
        )
        for k, c in enumerate([c for c in found if c.status == "selected"])
    )
    plan = (("ingest", 12, 0.0, 58.0, 104.0, "2 datasets, 5,700 structures, 13 set aside"),
            ("search", 31, 60.0, 268.0, 401.0, "14 candidates in 2 waves, 10 stopped early"),
            ("converge", 4, 270.0, 512.0, 455.0, "3 converged, 1 at its limit"),
            ("calibrate", 5, 514.0, 541.0, 33.0, "90 % intervals cover 90.3 %"))  # fmt: skip
    stages = tuple(
        StageView(name, StageStatus.DONE, n, n, 0, 1 if name == "search" else 0, START + a, START + b, busy, detail)
        for name, n, a, b, busy, detail in plan
    )
    view = CampaignView(
        name="organics-and-alloys",
        path="/scratch/project/organics-and-alloys",
        site="local",
        workflow="workflow.yaml",
        created=START,
        now=START + 560.0,
        version="0.1.0",
        driver="not running (finished)",
        driver_alive=False,
        stages=stages,
        datasets=(
            statistics("molecules", ("H", "C", "N", "O"), 2900, 9, {"force above 30 eV/Å": 9, "overlapping atoms": 4}),
            statistics("alloys", ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"), 2800, 6, {}),
        ),
        candidates=found,
        members=members,
        calibration=CalibrateResult("stages/calibrate-1/ensemble", "ab" * 32, 0.9, reports, 4.2),
        failures=(
            TaskFailure(
                "search/c006-r0", 1, "diverged at step 212", "stages/search-0a/tasks/c006-r0/attempt-1/stderr.log"
            ),
        ),
        node_hours=0.31,
        energy=EnergyView(KilowattHours(0.021, None, EnergyLabel.MODELLED, "core model")),
        resolved={"search": {"waves": 2, "rungs": [2000, 6000, 18000]}, "calibrate": {"level": 0.9}, "seed": 1},
        next_command="gfm-pipeline predict organics-and-alloys structures.xyz",
    )
    return view, arrays


def empty_campaign() -> CampaignView:
    """A campaign that was created a moment ago."""
    return CampaignView(
        name="just-started",
        path="/scratch/just-started",
        site="slurm",
        workflow="workflow.yaml",
        created=START,
        now=START + 1.0,
        version="0.1.0",
        driver="running (pid 77 on login1, heartbeat 1 s ago)",
        driver_alive=True,
        stages=tuple(
            StageView(name, StageStatus.WAITING, None, 0, 0, 0, None, None, 0.0, "")
            for name in ("ingest", "search", "converge", "calibrate")
        ),
        next_command="gfm-pipeline status just-started",
    )
