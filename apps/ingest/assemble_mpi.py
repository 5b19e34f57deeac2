"""Program: `assemble` by several ranks (`AssembleSpec` to `AssembleResult`), each started by an MPI launcher.

    mpiexec -n 8 python -m gfm_pipeline.apps.ingest.assemble_mpi spec.json

It is a separate program, because some MPI libraries end their process when another launcher started it.
"""

from __future__ import annotations

import sys

from mpi4py import MPI

from gfm_pipeline.apps.dataset.store.bp_step import together
from gfm_pipeline.apps.ingest.assemble import assemble_program, help_assemble
from gfm_pipeline.apps.ingest.mpi import MpiCommunicator
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.data import AssembleResult, AssembleSpec


def main() -> int:
    """Run the program on the communicator of all ranks and return the exit code, the same on every rank that fails.

    If a rank fails while others may wait for it, it ends the job.
    """
    ranks = MpiCommunicator(MPI.COMM_WORLD, collective=together() and MPI.COMM_WORLD.Get_size() > 1)

    def body(spec: AssembleSpec, task: Task) -> AssembleResult | None:
        task.rank = ranks.rank
        if ranks.rank == 0:
            return assemble_program(spec, task, ranks)
        help_assemble(task, ranks)
        return None

    code = run_program(AssembleSpec, body)
    if code and not ranks.agreed:
        MPI.COMM_WORLD.Abort(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
