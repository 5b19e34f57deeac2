"""Errors by element, size, group and file on the page, with the structures that have the largest ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols
from split_error_cases import recorded
from synthetic_campaign import finished_campaign
from test_page import luminance

from gfm_pipeline.core.contracts.accuracy.split_errors import EnsembleErrors
from gfm_pipeline.core.contracts.evaluation import GroupCoverage
from gfm_pipeline.report.ensemble_files import load_split_errors
from gfm_pipeline.report.figures import structures
from gfm_pipeline.report.html import _template, render_html
from gfm_pipeline.report.markdown import render_markdown
from gfm_pipeline.report.tables import errors as tables
from gfm_pipeline.report.tables.campaign import accuracy
from gfm_pipeline.report.tables.uncertainty import groups
from gfm_pipeline.report.view import CampaignView

OLD = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"


@pytest.fixture(scope="module")
def view() -> CampaignView:
    return finished_campaign()[0]


@pytest.fixture(scope="module")
def errors(view: CampaignView) -> EnsembleErrors:
    return recorded(view)


def test_the_errors_of_all_are_those_of_the_table_of_accuracy(view: CampaignView, errors: EnsembleErrors) -> None:
    of_all = {row[:2]: row[5:8] for row in tables.by_group(view, errors).rows if row[2] == "all"}
    assert of_all.keys() == {row[:2] for row in accuracy(view).rows}
    for row in accuracy(view).rows:
        assert of_all[row[:2]] == (row[7], row[2], row[3])


def test_coverage_of_groups_is_in_one_table(view: CampaignView, errors: EnsembleErrors) -> None:
    assert view.calibration is not None
    name, report = next(iter(view.calibration.datasets.items()))
    covered = replace(report, forces=replace(report.forces, groups=(GroupCoverage("element", "O", 900, 40, 0.5, 0.1),)))
    calibration = replace(view.calibration, datasets={**view.calibration.datasets, name: covered})
    changed = replace(view, calibration=calibration)
    assert [row[3] for row in groups(changed, None).rows if row[0] == name] == ["O"]
    assert groups(changed, errors).rows == ()


def test_page_and_text_name_each_group_each_structure_and_its_record(
    view: CampaignView, errors: EnsembleErrors
) -> None:
    page, text = render_html(view, errors=errors), render_markdown(view, errors=errors)
    assert "<600K>" not in page.replace("&lt;600K&gt;", "")
    for shown in (unescape(page), unescape(text.replace("\\", ""))):
        for words in ("hot <600K>.xyz#7", "55.0 %", "91.0 % ± 2.0 %", "3 more by group", "25.0 %", "run-3", "34.5"):
            assert words in shown
    rows = [row for row in tables.by_group(view, errors).rows if row[3] == "O"]
    assert rows[0] == ("molecules", "forces, meV/Å", "element", "O", "120", "900", "123", "234", "1,500",
                       "91.0 % ± 2.0 %")  # fmt: skip
    assert "Force off by 1,500 meV/Å, interval ± 400, at the atom with the ring (O); out of domain." in page


def test_campaigns_without_a_record_say_so(view: CampaignView) -> None:
    assert load_split_errors(OLD) is None
    for text in (render_html(view), render_markdown(view).replace("\\", "")):
        assert "Errors by element, size, config type, group and file are not recorded" in text


def test_drawings_have_atoms_bonds_cells_and_words_for_screen_readers(
    view: CampaignView, errors: EnsembleErrors
) -> None:
    water, copper, *_ = re.findall(r'<svg class="molecule".*?</svg>', render_html(view, errors=errors))
    assert water.count("<circle") == 3
    assert water.count('class="bond"') == 2
    assert water.count("marked") == 1
    assert copper.count('class="cell"') == 12
    assert 'tabindex="0"' in water
    assert 'role="img" ' in water
    assert "H2O, hot &lt;600K&gt;.xyz#7" in re.findall(r'aria-label="([^"]+)"', water)[0]
    scene = json.loads(unescape(re.findall(r'data-scene="([^"]+)"', water)[0]))
    assert scene["atoms"] == ["O1", "H2", "H3"]
    (oxygen, *_), (x, y, z) = re.findall(r'r="([\d.]+)"', water), np.subtract(*scene["points"][1:])
    scale = float(oxygen) / (structures.BALL * 0.66)
    assert np.sqrt(x * x + y * y + z * z) == pytest.approx(scale * 2 * 0.763, rel=0.02)


def test_symbols_are_readable_on_every_element() -> None:
    for symbol in chemical_symbols[1:]:
        assert (luminance(structures.color(symbol)) + 0.05) / (luminance("#1d2330") + 0.05) >= 4.5, symbol


TURN = """
class Node {
  constructor(a) {
    Object.assign(this, { a, dataset: {}, nodes: [], handlers: {}, textContent: a.title ?? "" });
  }
  setAttribute(k, v) { this.a[k] = v; }
  querySelector() { return { textContent: this.a.title }; }
  querySelectorAll(tag) { return this.nodes.filter((n) => n.a.tag === tag); }
  append(...nodes) { this.nodes = nodes; }
  addEventListener(kind, f) { this.handlers[kind] = f; }
  setPointerCapture() {}
}
const svg = new Node({});
const atoms = ["A1", "B2"];
svg.dataset.scene = JSON.stringify({ points: [[0, 0, 0], [10, 0, 5]], atoms, lines: [[0, 1, "bond"]] });
svg.nodes = [new Node({ tag: "line" }), ...atoms.map((title) => new Node({ tag: "g", title }))];
globalThis.document = { querySelectorAll: (s) => (s.includes("molecule") ? [svg] : []) };
globalThis.addEventListener = () => {};
SCRIPT
const state = () => svg.nodes.map((n) => n.a.title ?? n.a.class);
const x = () => parseFloat(svg.nodes.find((n) => n.a.title === "B2").a.transform.slice("translate(".length));
const before = [state(), x()];
for (let k = 0; k < 16; k += 1) svg.handlers.keydown({ key: "ArrowRight", preventDefault() {} });
const keyed = [state(), x()];
svg.handlers.pointerdown({ clientX: 0, clientY: 0, pointerId: 1 });
svg.handlers.pointermove({ clientX: -0.2 * 16 * 80, clientY: 0 });
console.log(JSON.stringify([before, keyed, [state(), x()]]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the page's script is not run")
def test_structures_turn_by_keys_and_pointer_and_the_nearest_atom_is_drawn_last() -> None:
    code = TURN.replace("SCRIPT", _template("report.js").replace('"use strict";', ""))
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    before, keyed, back = json.loads(done.stdout)
    assert before == [["bond", "A1", "B2"], 10.0]
    assert keyed[0] == ["bond", "B2", "A1"]  # 3.2 radians on, it is behind
    assert keyed[1] == pytest.approx(-10.0, abs=0.5)
    assert back == before
