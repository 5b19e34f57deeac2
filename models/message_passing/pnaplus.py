"""PNAPlus: PNA with a learned filter of the distance on messages before aggregation."""

from __future__ import annotations

from gfm_pipeline.models.message_passing.pna import PNA


class PNAPlus(PNA):
    """PNA (Corso et al., NeurIPS 2020) with the Bessel basis of DimeNet as filters, the variant HydraGNN calls PNAPlus.

    Mean and deviation use messages times a linear, bias-free filter of the faded basis; maximum and minimum use the
    gates, as in PNA. All fade at the cutoff, through the second derivative.
    """

    filtered = True
