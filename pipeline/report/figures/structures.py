"""Structures as SVG: a fixed projection for paper, which the page's script turns in three dimensions."""

from __future__ import annotations

import json
from html import escape

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors
from ase.neighborlist import natural_cutoffs, neighbor_list
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.split_errors import DrawnStructure

SIZE = 240.0  # of a drawing, in its units
MARGIN = 14.0
BALL = 0.45  # of the covalent radius
_EDGES = tuple((a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit)  # of a cell, between its corners
Floats = NDArray[np.float64]


def draw(structure: DrawnStructure, label: str) -> str:
    """Return a structure as an ``<svg>`` element.

    Atoms are circles in the colours of Jmol, bonds are lines between atoms closer than the sum of their covalent radii,
    the cell is dashed, and a ring marks the atom with the error. The attribute ``data-scene`` has the coordinates for
    the page's script: points [x, y, z], balls [point, radius, colour, title], lines [point, point, class].

    Parameters
    ----------
    structure
        At least one atom.
    label
        For screen readers.
    """
    atoms = Atoms(list(structure.symbols), positions=np.array(structure.positions))
    corners = _corners(structure)
    points = _turned(np.concatenate([atoms.positions, corners]), len(atoms))
    scale = (SIZE / 2.0 - MARGIN) / max(float(np.linalg.norm(points, axis=1).max()), 1.5)
    radii = [BALL * scale * float(covalent_radii[z]) for z in atoms.numbers]
    balls = [
        [k, round(radii[k], 2), _color(symbol), f"{symbol}{k + 1}", int(k == structure.atom)]
        for k, symbol in enumerate(structure.symbols)
    ]
    lines: list[list[int | str]] = [[a, b, "bond"] for a, b in _bonds(atoms)]
    lines += [[len(atoms) + a, len(atoms) + b, "cell"] for a, b in _EDGES] if len(corners) else []
    drawn = [[round(float(v) * scale, 1) for v in point] for point in points]
    scene = json.dumps({"points": drawn, "balls": balls, "lines": lines}, separators=(",", ":"))
    half = SIZE / 2.0
    return (
        f'<svg class="molecule" viewBox="{-half:g} {-half:g} {SIZE:g} {SIZE:g}" role="img" tabindex="0" '
        f'aria-label="{escape(label)}" data-scene="{escape(scene)}">{_shapes(drawn, balls, lines)}</svg>'
    )


def _shapes(points: list[list[float]], balls: list[list[object]], lines: list[list[int | str]]) -> str:
    """Return lines and circles, the farthest first."""
    found: list[tuple[float, str]] = []
    for a, b, kind in lines:
        (x1, y1, z1), (x2, y2, z2) = points[int(a)], points[int(b)]
        shape = f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
        found.append((min(z1, z2) - 0.1, shape))
    for k, radius, color, title, marked in balls:
        x, y, z = points[int(str(k))]
        kind = "ball marked" if marked else "ball"
        shape = f'<circle class="{kind}" cx="{x}" cy="{y}" r="{radius}" fill="{color}"><title>{title}</title></circle>'
        found.append((z, shape))
    return "".join(shape for _, shape in sorted(found, key=lambda entry: entry[0]))


def _turned(points: Floats, n_atoms: int) -> Floats:
    """Centre the points, and turn the two directions in which the atoms extend most into the plane."""
    centred = points - (points.max(0) + points.min(0)) / 2.0
    atoms = centred[:n_atoms] - centred[:n_atoms].mean(0)
    _, _, axes = np.linalg.svd(atoms, full_matrices=True)
    if np.linalg.det(axes) < 0.0:
        axes[2] *= -1.0
    return np.asarray(centred @ axes.T)


def _corners(structure: DrawnStructure) -> Floats:
    if not structure.cell or len(structure.symbols) < structure.natoms:
        return np.zeros((0, 3))
    shares = np.array([[k >> bit & 1 for bit in range(3)] for k in range(8)], dtype=np.float64)
    return np.asarray(shares @ np.array(structure.cell))


def _bonds(atoms: Atoms) -> list[tuple[int, int]]:
    first, second = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.15))
    return [(int(a), int(b)) for a, b in zip(first, second, strict=True) if a < b]


def _color(symbol: str) -> str:
    return "#" + "".join(f"{round(255 * float(c)):02x}" for c in jmol_colors[atomic_numbers[symbol]])
