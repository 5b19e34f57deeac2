"""Structures as SVG: a fixed projection for paper, which the page's script turns in three dimensions."""

from __future__ import annotations

import colorsys
import json
from html import escape

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.accuracy.split_errors import DrawnStructure

SIZE = 240.0  # of a drawing, in its units
MARGIN = 14.0
BALL = 0.45  # of the covalent radius
_EDGES = tuple((a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit)  # of a cell, between its corners
_COLORS = {
    "H": "#ffffff", "C": "#b4b4b4", "N": "#a3b5ff", "O": "#ff9a94", "F": "#b6ec9f", "P": "#ffc285", "S": "#fff08a",
    "Cl": "#8fe08f",
}  # fmt: skip
Floats = NDArray[np.float64]


def draw(structure: DrawnStructure, label: str) -> str:
    """Return a structure as an ``<svg>`` element.

    Atoms are circles with their symbols, bonds are lines, the cell is dashed, and a ring marks the atom with the error.
    The attribute ``data-scene`` has the coordinates for the page's script: points [x, y, z], titles of the atoms, and
    lines [point, point, class].

    Parameters
    ----------
    structure
        At least one atom.
    label
        For screen readers.
    """
    n_atoms = len(structure.symbols)
    corners = _corners(structure)
    points = _turned(np.concatenate([np.array(structure.positions), corners]), n_atoms)
    scale = (SIZE / 2.0 - MARGIN) / max(float(np.linalg.norm(points, axis=1).max()), 1.5)
    drawn = [[round(float(v) * scale, 1) for v in point] for point in points]
    lines = [(a, b, "bond") for a, b in structure.bonds]
    lines += [(n_atoms + a, n_atoms + b, "cell") for a, b in _EDGES] if len(corners) else []
    shapes = [_line(drawn, *line) for line in lines]
    shapes += [_ball(structure, k, drawn[k], BALL * scale * structure.radii[k]) for k in range(n_atoms)]
    titles = [_title(structure, k) for k in range(n_atoms)]
    scene = json.dumps({"points": drawn, "atoms": titles, "lines": lines}, separators=(",", ":"))
    half = SIZE / 2.0
    return (
        f'<svg class="molecule" viewBox="{-half:g} {-half:g} {SIZE:g} {SIZE:g}" role="img" tabindex="0" '
        f'aria-label="{escape(label)}" data-scene="{escape(scene)}">'
        f"{''.join(shape for _, shape in sorted(shapes, key=lambda entry: entry[0]))}</svg>"
    )


def _line(points: list[list[float]], a: int, b: int, kind: str) -> tuple[float, str]:
    """Return a line, and its depth: behind both of its ends."""
    (x1, y1, z1), (x2, y2, z2) = points[a], points[b]
    return min(z1, z2) - 0.1, f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _ball(structure: DrawnStructure, k: int, point: list[float], radius: float) -> tuple[float, str]:
    x, y, z = point
    symbol = structure.symbols[k]
    kind = "ball marked" if k == structure.atom else "ball"
    return z, (
        f'<g class="{kind}" transform="translate({x} {y})"><title>{_title(structure, k)}</title>'
        f'<circle r="{radius:.1f}" fill="{color(symbol)}"/>'
        f'<text y="{0.36 * radius:.1f}" font-size="{1.05 * radius:.1f}">{symbol}</text></g>'
    )


def _title(structure: DrawnStructure, k: int) -> str:
    return f"{structure.symbols[k]}{k + 1}"


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


def color(symbol: str) -> str:
    """Return the colour of an element, light enough for its symbol: the usual one, or one that its symbol gives."""
    if symbol in _COLORS:
        return _COLORS[symbol]
    hue = sum(ord(letter) * 0.618034 ** (k + 1) for k, letter in enumerate(symbol)) % 1.0
    channels = colorsys.hls_to_rgb(hue, 0.76, 0.5)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels)
