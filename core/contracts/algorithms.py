"""The available message passing algorithms: built-in ones, and ones that other installed packages add.

A package adds an algorithm by an entry point of the group ``gfm_pipeline.algorithms``. Users write the name of the
entry point in ``search.space.algorithm``; its value names an `AlgorithmDescription`. The engine imports the module of
the description, so that module should not import torch. The code that builds models imports the class itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from gfm_pipeline.core.contracts.extensions import Extensions
from gfm_pipeline.core.contracts.hyperparameters import Hyperparameter, ValueKind, complete, find
from gfm_pipeline.core.contracts.training import ForceHead
from gfm_pipeline.core.errors import Refused

ENTRY_POINTS = "gfm_pipeline.algorithms"
PREFIX = "options."  # of an algorithm's own hyperparameters in a search space and in a candidate
_MODULES = "gfm_pipeline.models.message_passing"


@dataclass(frozen=True)
class AlgorithmDescription:
    """Facts about an algorithm, available without importing it.

    Parameters
    ----------
    module
        ``module:class``, a subclass of `gfm_pipeline.models.registry.MessagePassing`.
    summary
        The algorithm in one line.
    paper
        Its publication.
    options
        Its own hyperparameters.
    vectors
        Whether it returns vectors [atoms, 3, channels] in addition to scalars. Heads of vectors read them (direct
        forces, dipole moments). For other algorithms, a layer of edge directions after the algorithm makes the vectors.
    force_heads
        The force heads it can serve.
    features
        Whether it returns features of atoms, which heads of other targets read; otherwise it returns energies alone.
    needs
        Import names of the packages that it needs and this package does not install.
    extra
        The extra of this package that installs them, named in the hint; empty: pip accepts the names of ``needs``.
    """

    module: str
    summary: str
    paper: str
    options: tuple[Hyperparameter, ...] = ()
    vectors: bool = False
    force_heads: tuple[ForceHead, ...] = tuple(ForceHead)
    features: bool = True
    needs: tuple[str, ...] = ()
    extra: str = ""

    @property
    def missing(self) -> list[str]:
        """The packages it needs that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]

    def check_installed(self, algorithm: str) -> None:
        """Check that the needed packages are installed, without importing them.

        Raises
        ------
        Refused
            When a package is not installed.
        """
        if self.missing:
            requirement = f"'gfm-pipeline[{self.extra}]'" if self.extra else " ".join(self.missing)
            raise Refused(
                f"cannot be {algorithm}: it needs {' and '.join(self.missing)}, which is not installed",
                f"Say pip install {requirement}, here and where compute nodes find it.",
            )

    def option(self, algorithm: str, name: str) -> Hyperparameter:
        """Return an option by name.

        Raises
        ------
        Refused
            When no option has that name.
        """
        return find(self.options, algorithm, name)

    def complete(self, algorithm: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of every option: the given value, checked, or the default.

        Raises
        ------
        Refused
            When a name is unknown, or a value is of the wrong type or out of bounds.
        """
        return complete(self.options, algorithm, given)


_SHARPNESS = Hyperparameter(
    "sharpness",
    ValueKind.REAL,
    4.0,
    "Sharpness of the smooth maximum and minimum.",
    low=0,
    high=30,
    open_low=True,
)
_RADIAL_HIDDEN = Hyperparameter(
    "radial_hidden",
    ValueKind.WHOLE,
    64,
    "Width of the network of radial functions; 0: they are linear in the radial basis.",
    low=0,
    high=16384,
)
_MACE = (
    Hyperparameter("l_max", ValueKind.WHOLE, 2, "Largest order of spherical harmonics.", low=1, high=3),
    Hyperparameter(
        "correlation", ValueKind.WHOLE, 3, "Factors of a product: messages have one body more.", low=1, high=3
    ),
    Hyperparameter("hidden_l", ValueKind.WHOLE, 1, "Largest order of features between layers.", low=0, high=3),
)
_NEQUIP_ORDER = Hyperparameter("l_max", ValueKind.WHOLE, 2, "Largest order of features and harmonics.", low=1, high=4)
_KERNELS = Hyperparameter(
    "kernels",
    ValueKind.NAME,
    "torch",
    "What multiplies tensors; cuequivariance works where it is installed, on GPUs of NVIDIA, and torch elsewhere.",
    choices=("torch", "cuequivariance"),
)
_PYG: dict[str, Any] = {"needs": ("torch_geometric",), "extra": "pyg"}

BUILT_IN: dict[str, AlgorithmDescription] = {
    "SchNet": AlgorithmDescription(
        f"{_MODULES}.schnet:SchNet",
        "continuous-filter convolutions",
        "Schuett et al., J. Chem. Phys. 148, 241722 (2018)",
        (
            Hyperparameter(
                "filter_hidden",
                ValueKind.WHOLE,
                0,
                "Width of the two-layer filter network; 0: filters are linear in the radial basis.",
                low=0,
                high=16384,
            ),
        ),
    ),
    "EGNN": AlgorithmDescription(
        f"{_MODULES}.egnn:EGNN",
        "messages from both end points and the distance, with vector channels",
        "Satorras, Hoogeboom, Welling, ICML (2021)",
        (
            Hyperparameter(
                "vector_channels",
                ValueKind.WHOLE,
                8,
                "Velocities of a node, whose lengths feed scalars.",
                low=1,
                high=16384,
            ),
        ),
    ),
    "PaiNN": AlgorithmDescription(
        f"{_MODULES}.painn:PaiNN",
        "equivariant messages with scalar and vector features",
        "Schuett, Unke, Gastegger, ICML (2021)",
        vectors=True,
    ),
    "PNA": AlgorithmDescription(
        f"{_MODULES}.pna:PNA",
        "several aggregators and degree scalers, made smooth",
        "Corso et al., NeurIPS (2020)",
        (_SHARPNESS,),
    ),
    "PNAPlus": AlgorithmDescription(
        f"{_MODULES}.pnaplus:PNAPlus",
        "PNA with messages filtered by distance",
        "Corso et al., NeurIPS (2020), and Gasteiger, Gross, Guennemann, ICLR (2020)",
        (_SHARPNESS,),
    ),
    "PNAEq": AlgorithmDescription(
        f"{_MODULES}.pnaeq:PNAEq",
        "PaiNN with scalars aggregated as by PNA",
        "Schuett, Unke, Gastegger, ICML (2021), and Corso et al., NeurIPS (2020)",
        (_SHARPNESS,),
        vectors=True,
    ),
    "DimeNet++": AlgorithmDescription(
        f"{_MODULES}.dimenet:DimeNet",
        "directional messages along edges, with angles",
        "Gasteiger, Giri, Margraf, Guennemann, arXiv:2011.14115 (2020)",
        (
            Hyperparameter("n_spherical", ValueKind.WHOLE, 5, "Angular functions, from order 0.", low=1, high=12),
            Hyperparameter(
                "triplet_channels", ValueKind.WHOLE, 32, "Channels of messages where angles enter.", low=1, high=16384
            ),
        ),
    ),
    "MACE": AlgorithmDescription(
        f"{_MODULES}.mace:MACE",
        "equivariant messages of high body order",
        "Batatia, Kovacs, Simm, Ortner, Csanyi, NeurIPS (2022)",
        (*_MACE, _RADIAL_HIDDEN, _KERNELS),
        vectors=True,
    ),
    "MACE-torch": AlgorithmDescription(
        f"{_MODULES}.mace_torch:MACETorch",
        "MACE of the package mace-torch",
        "Batatia, Kovacs, Simm, Ortner, Csanyi, NeurIPS (2022)",
        _MACE,
        force_heads=(ForceHead.CONSERVATIVE,),
        features=False,
        needs=("mace",),
        extra="mace",
    ),
    "NequIP": AlgorithmDescription(
        f"{_MODULES}.nequip:NequIP",
        "equivariant convolutions with gates",
        "Batzner et al., Nat. Commun. 13, 2453 (2022)",
        (_NEQUIP_ORDER, _RADIAL_HIDDEN, _KERNELS),
        vectors=True,
    ),
    "NequIP-package": AlgorithmDescription(
        f"{_MODULES}.nequip_package:NequIPPackage",
        "NequIP of the package nequip",
        "Batzner et al., Nat. Commun. 13, 2453 (2022)",
        (_NEQUIP_ORDER, _RADIAL_HIDDEN),
        force_heads=(ForceHead.CONSERVATIVE,),
        features=False,
        needs=("nequip",),
        extra="nequip",
    ),
    "CGCNN": AlgorithmDescription(
        f"{_MODULES}.cgcnn:CGCNN",
        "gated convolutions on crystal graphs",
        "Xie, Grossman, Phys. Rev. Lett. 120, 145301 (2018)",
        **_PYG,
    ),
    "GIN": AlgorithmDescription(
        f"{_MODULES}.gin:GIN",
        "sums of neighbours and edges through a network",
        "Xu et al., ICLR (2019), and Hu et al., ICLR (2020)",
        **_PYG,
    ),
    "GAT": AlgorithmDescription(
        f"{_MODULES}.gat:GAT",
        "attention over neighbours (GATv2), made smooth",
        "Brody, Alon, Yahav, ICLR (2022)",
        (Hyperparameter("heads", ValueKind.WHOLE, 4, "Attention heads; no more than channels.", low=1, high=256),),
    ),
    "GraphSAGE": AlgorithmDescription(
        f"{_MODULES}.sage:GraphSAGE",
        "filtered sums of neighbours beside the atom itself",
        "Hamilton, Ying, Leskovec, NeurIPS (2017)",
        **_PYG,
    ),
    "MFC": AlgorithmDescription(
        f"{_MODULES}.mfc:MFC",
        "matrices blended by the number of neighbours",
        "Duvenaud et al., NeurIPS (2015)",
        (
            Hyperparameter(
                "degrees", ValueKind.WHOLE, 5, "Matrices that are blended by the number of neighbours.", low=2, high=64
            ),
        ),
    ),
}

ALGORITHMS = Extensions("algorithm", ENTRY_POINTS, AlgorithmDescription, BUILT_IN)
