"""Starting as one of many processes: SLURM, MPI, Kubernetes, TPU pods, or addresses given by hand."""

import os

import jax

from research.errors import UserError

BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Variables that name the job where no cluster does: host:port of process 0, how many there are, which this one is."""


def start_processes() -> None:
    """Joins the other processes of the job, if the environment says that there are any.

    Has to run before anything touches a device. Raises UserError where the environment contradicts itself.
    """
    given = {name: os.environ[name] for name in BY_HAND if os.environ.get(name)}
    if given:
        missing = [name for name in BY_HAND if name not in given]
        if missing:
            raise UserError(f"{' and '.join(given)} is set but {' and '.join(missing)} is not: set all three or none")
        address, count, index = given.values()
        if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
            raise UserError(
                f"JAX_PROCESS_ID {index} and JAX_NUM_PROCESSES {count} are not a place in a job: count from 0 to one "
                "less"
            )
        jax.distributed.initialize(address, int(count), int(index))
    elif in_cluster(os.environ):
        jax.distributed.initialize()


def in_cluster(environment: os._Environ | dict[str, str]) -> bool:
    """Whether several processes were started by SLURM's srun, Open MPI's mpirun or on the hosts of a TPU pod."""
    srun = environment.get("SLURM_NTASKS", "1") != "1" and "SLURM_PROCID" in environment
    srun = srun and "SLURM_STEP_NODELIST" in environment  # the batch script itself sees the other variables too
    mpirun = environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
    pod = "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "," in environment.get("TPU_PROCESS_ADDRESSES", "")
    return srun or mpirun or pod
