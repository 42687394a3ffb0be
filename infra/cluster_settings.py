"""Settings of the kinds of clusters that need some: the sections ``[ssh]``, ``[kubernetes]`` and ``[slurm]`` of ``atelier.toml``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0)]
# What a program takes for an option must not be one where a value is meant.
Word = Annotated[str, Field(pattern=r"^[^\s-][^\n]*$|^$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SshSettings(Section):
    """Workers on hosts that this machine reaches by SSH; Python, this project and its libraries lie there under the same paths, unless said."""

    slots: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="Workers on each host, one slot each.")
    program: tuple[str, ...] = Field(default=("ssh",), min_length=1, description="The OpenSSH client, with words before its own options.")
    options: tuple[str, ...] = Field(default=(), description="More options of it, such as -i and a key file.")
    python: str = Field(default="", description="The Python of the hosts; empty: this one's path.")
    folder: str = Field(default="", description="Where the project lies on the hosts; empty: the same path as here.")
    address: Word = Field(default="", description="This machine's address as the hosts see it; empty: found out.")
    environment: dict[str, str] = Field(default_factory=dict, description="Variables for the workers, such as credentials of the store.")
    start_timeout_s: Seconds = Field(default=60.0, description="How long the workers may take to appear, seconds.")


class KubernetesSettings(Section):
    """Workers in pods of a cluster that runs Dask's operator; the image holds Python, this project and its libraries."""

    image: str = Field(default="", description="Image of scheduler and workers; it has to be given.")
    name: str = Field(default="atelier", pattern=r"^[a-z]([a-z0-9-]{0,40}[a-z0-9])?$", description="Begin of the cluster's name.")
    namespace: str = Field(default="", description="Namespace; empty: that of the current context.")
    cpu: str = Field(default="1", pattern=r"^\d+(\.\d+)?m?$", description="Cores of a worker, as Kubernetes writes them.")
    memory: str = Field(default="4Gi", pattern=r"^\d+(\.\d+)?[KMGT]i?$", description="Memory of a worker.")
    gpus: Annotated[int, Field(ge=0, le=64)] = Field(default=0, description="NVIDIA GPUs of a worker.")
    environment: dict[str, str] = Field(default_factory=dict, description="Variables for scheduler and workers.")
    secret: str = Field(default="", description="A Secret whose entries become variables, such as credentials of the store.")
    start_timeout_s: Seconds = Field(default=300.0, description="How long scheduler and first workers may take, seconds.")


class SlurmSettings(Section):
    """Workers as Slurm jobs, one slot a job; the project and its libraries lie on a file system that all nodes share."""

    queue: Word = Field(default="", description="Partition; empty: Slurm's default.")
    account: Word = Field(default="", description="Account; empty: Slurm's default.")
    cores: Annotated[int, Field(ge=1)] = Field(default=1, description="Cores of a job.")
    memory: str = Field(default="4GB", pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$", description="Memory of a job.")
    gpus: Annotated[int, Field(ge=0)] = Field(default=0, description="GPUs of a job.")
    walltime: str = Field(
        default="04:00:00", pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$", description="Longest life of a job, [days-]hh:mm:ss."
    )
    directives: tuple[str, ...] = Field(default=(), description="More options for #SBATCH lines.")
    prologue: tuple[str, ...] = Field(default=(), description="Lines of shell before the worker, such as: module load cuda.")
    folder: str = Field(default="", description="Shared folder for logs and certificates; empty: in the state folder.")
    address: Word = Field(default="", description="This machine's address as the nodes see it; empty: found out.")
    start_timeout_s: Seconds = Field(default=600.0, description="How long the first jobs may wait in the queue, seconds.")
