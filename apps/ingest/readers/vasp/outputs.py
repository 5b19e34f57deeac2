"""Results of VASP: ``vasprun.xml`` and ``OUTCAR``, one record per ionic step.

The layouts: https://www.vasp.at/wiki/index.php/Vasprun.xml and https://www.vasp.at/wiki/index.php/OUTCAR. Both are
streamed, step by step. OUTCARs are parsed by ASE. Two traps of vasprun.xml: ``e_fr_energy`` of a step includes the
term of an external pressure, and its ``e_0_energy`` may be wrong, so the difference of the two is taken from the last
electronic step.

Steps whose electrons did not converge are refused. VASP 5 says that EDIFF is reached at the last electronic step that
is allowed (NELM), too, so the steps are counted. Steps of a force field that VASP trains on the fly (``ML_FF``) have
blocks of their own, named ML; they are no results of DFT and are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import IO, Any

import numpy as np
from ase import units
from ase.io.vasp_parsers.vasp_outcar_parsers import OUTCARChunk, OutcarHeaderParser, outcarchunks
from lxml import etree
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse, PassOverError, RefusedError
from gfm_pipeline.apps.ingest.labels.known_keys import KeySets
from gfm_pipeline.apps.ingest.readers.species import number_of
from gfm_pipeline.apps.ingest.readers.vasp import ml_ab as vasp_ml_ab
from gfm_pipeline.apps.ingest.readers.vasp import vaspout_h5
from gfm_pipeline.core.contracts.options import VaspEnergy, VaspOptions

_KBAR = 0.1 * units.GPa
_FINISHED = "General timing and accounting"
_UNCONVERGED = "the electronic steps did not converge"
_LEARNED = "a step of VASP's machine-learned force field (ML_FF): its energy and forces are not those of DFT"
_ELECTRONIC_STEP = "Iteration"
_NELM = re.compile(r"\bNELM\s*=\s*(\d+)")
_ML_ENERGY = "ML FREE ENERGIE"
_FORCES = "TOTAL-FORCE (eV/Angst)"  # heads positions and forces; builds that correct for dispersion head more columns


_KEY_SETS = KeySets()
_NAMES_IN_XML = {VaspEnergy.FREE: "e_fr_energy", VaspEnergy.SIGMA_0: "e_0_energy"}


class VaspReader(FileReader):
    """Reads files whose names say which of the two they are, compressed, in archives, or neither."""

    def frames(self, part: InputFile, options: VaspOptions) -> Iterator[Parse]:
        """Yield the ionic steps."""
        if part.suffix == ".xml":
            with part.binary() as stream:
                yield from _xml_steps(stream, options.energy)
        elif part.suffix == ".h5":
            yield from vaspout_h5.frames(part.path(), options.energy)
        elif part.base.upper().startswith("ML_AB"):
            with part.text() as lines:
                yield from vasp_ml_ab.frames(lines)
        elif "OUTCAR" in part.base.upper():
            with part.text() as lines:
                yield from _outcar_steps(lines, options.energy)
        else:
            yield partial(_refuse, f"{part.base} is not a vasprun.xml, OUTCAR, ML_AB or vaspout.h5: set members")


def _refuse(reason: str) -> Frame:
    raise ValueError(reason)


def _pass_over(reason: str) -> Frame:
    raise PassOverError(reason)


class _XmlLines:
    """Lines of an OUTCAR for ASE, which asks for a name.

    What was among them: the end of a finished run, and the electronic steps that are allowed (NELM, 0: not said).
    """

    name = "OUTCAR"

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.finished = False
        self.most = 0

    def __iter__(self) -> _XmlLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if _FINISHED in line:
            self.finished = True
        elif not self.most and (found := _NELM.search(line)):
            self.most = int(found[1])
        return line


def _outcar_steps(lines: Iterator[str], energy: VaspEnergy) -> Iterator[Parse]:
    source = _XmlLines(lines)
    # Without a folder, ASE looks for no POSCAR: constraints do not matter here.
    behind = 1  # electronic steps whose first line is before the chunk: ASE takes the first of all for the header's
    for chunk in outcarchunks(source, header_parser=OutcarHeaderParser(workdir=None)):
        steps = behind + sum(_ELECTRONIC_STEP in line for line in chunk.lines)
        yield partial(_outcar_step, chunk, steps, source.most, energy)
        behind = 0
    if not source.finished:
        yield partial(_refuse, "the file ends before VASP did")


def _outcar_step(chunk: OUTCARChunk, steps: int, most: int, energy: VaspEnergy) -> Frame:
    if any(_ML_ENERGY in line for line in chunk.lines[-6:]):
        raise PassOverError(_LEARNED)
    if (most and steps >= most) or any("EDIFF was not reached" in line for line in chunk.lines):
        raise RefusedError(_UNCONVERGED)
    atoms = chunk.build()
    results = atoms.calc.results
    values = {**results, **_more_columns(chunk.lines, len(atoms))}
    return Frame(
        numbers=atoms.numbers,
        pos=atoms.positions,
        cell=atoms.cell.array,
        pbc=np.ones(3, dtype=bool),
        energy=results["free_energy" if energy is VaspEnergy.FREE else "energy"],
        forces=results.get("forces"),
        find=results.get,
        keys=_KEY_SETS.of(values, len(atoms), "free_energy" if energy is VaspEnergy.FREE else "energy", "forces"),
    )


def _more_columns(lines: list[str], natoms: int) -> dict[str, NDArray[np.float64]]:
    """Return columns next to the forces by heading, e.g. ``w/o vdW``: the preview lists them; they are not labels."""
    for number, line in enumerate(lines):
        _, found, heading = line.partition(_FORCES)
        if found and heading.strip():
            rows = [row.split()[6:] for row in lines[number + 2 : number + 2 + natoms]]
            with suppress(ValueError):  # a heading without numbers
                return {heading.strip(): np.array(rows, dtype=np.float64)}
    return {}


def _xml_steps(stream: IO[bytes], energy: VaspEnergy) -> Iterator[Parse]:
    events = etree.iterparse(stream, events=("start", "end"), resolve_entities=False, no_network=True)
    _, root = next(events)
    depth, numbers, pressure, most, learns = 1, np.zeros(0, dtype=int), 0.0, 0, False
    for event, element in events:
        depth += 1 if event == "start" else -1
        if event == "start" or depth > 1:
            continue
        if element.tag in ("incar", "parameters"):
            learns = learns or (element.findtext(".//i[@name='ML_LMLFF']") or "").strip() == "T"
        if element.tag == "atominfo":
            rows = element.iterfind("array[@name='atoms']/set/rc")
            numbers = np.array([number_of(row.findtext("c") or "") for row in rows])
        elif element.tag == "parameters":
            pressure = float(element.findtext(".//i[@name='PSTRESS']") or 0) * _KBAR
            most = int(element.findtext(".//i[@name='NELM']") or 0)
        elif element.tag == "calculation":
            if learns and element.find("scstep") is None:
                yield partial(_pass_over, _LEARNED)
            else:
                yield partial(_xml_step, element, numbers, pressure, most, energy)
        root.clear()


def _xml_step(step: etree._Element, numbers: NDArray[np.int64], pressure: float, most: int, kind: VaspEnergy) -> Frame:
    electronic = step.findall("scstep")
    if most and len(electronic) >= most:
        raise RefusedError(_UNCONVERGED)
    cell = _vectors(step, "structure/crystal/varray[@name='basis']")
    energy = _number(step, "energy/i[@name='e_fr_energy']") - pressure * abs(float(np.linalg.det(cell)))
    if kind is VaspEnergy.SIGMA_0:
        last = electronic[-1]
        energy += _number(last, "energy/i[@name='e_0_energy']") - _number(last, "energy/i[@name='e_fr_energy']")
    has_forces = step.find("varray[@name='forces']") is not None
    found = _labels_of(step)
    return Frame(
        numbers=numbers,
        pos=_vectors(step, "structure/varray[@name='positions']") @ cell,
        cell=cell,
        pbc=np.ones(3, dtype=bool),
        energy=energy,
        forces=_vectors(step, "varray[@name='forces']") if has_forces else None,
        find=found.get,
        keys=_KEY_SETS.of(found, len(numbers), _NAMES_IN_XML[kind], "forces"),
    )


def _labels_of(step: etree._Element) -> dict[str, Any]:
    """Return the energies and arrays of an ionic step, by their names; what is none is left out.

    Stress is in eV/Angstrom^3, positive where the cell is stretched.
    """
    found: dict[str, Any] = {}
    for element in (*step.iterfind("energy/i"), *step.iterfind("varray")):
        with suppress(ValueError):
            rows = [[float(word) for word in (row.text or "").split()] for row in element.iterfind("v")]
            found[element.get("name", "")] = np.array(rows) if element.tag == "varray" else float(element.text or "")
    if "stress" in found:
        found["stress"] = -_KBAR * found["stress"]  # VASP gives the pressure tensor, in kB
    return found


def _number(element: etree._Element, path: str) -> float:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"there is no {path}")
    return float(text)


def _vectors(element: etree._Element, path: str) -> NDArray[np.float64]:
    rows = [[float(x) for x in (row.text or "").split()] for row in element.iterfind(f"{path}/v")]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)
