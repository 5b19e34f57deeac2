"""PyTorch models for atomistic graphs. Knows nothing of files, MPI or campaigns."""

from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.loss import Loss, MultitaskLoss, multitask_loss
from gfm_pipeline.models.potential import Potential, Prediction
from gfm_pipeline.models.registry import MessagePassing, algorithm, algorithms
from gfm_pipeline.models.spec import ForceHead, ModelSpec

__all__ = [
    "Batch",
    "ForceHead",
    "Loss",
    "MessagePassing",
    "ModelSpec",
    "MultitaskLoss",
    "Potential",
    "Prediction",
    "algorithm",
    "algorithms",
    "multitask_loss",
]
