"""What ``atelier doctor`` looks at of the chosen kind of cluster; nothing is started."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deployments._checks import Check
from infra.clusters import kind_of
from infra.settings import Settings

NAME = "cluster"
SSH_TIMEOUT_S = 60.0
FEW_DAYS = 14


def check_cluster(settings: Settings) -> Check:
    """The finding of the kind; of a good one, whether its certificates end soon."""
    kinds = {"local": _local, "address": _address, "ssh": _ssh, "kubernetes": _kubernetes, "slurm": _slurm}
    check = kinds[kind_of(settings.cluster).name](settings)
    if settings.tls is None or check.state == "fail":
        return check
    from infra.clusters.tls import days_left, read_pems

    left = days_left(read_pems(settings.tls))
    found = f"{check.found}; its certificates are valid for {left} days"
    if left < FEW_DAYS:
        return Check(NAME, "warn", found, f"atelier cluster certificates {settings.tls}, where ca-key.pem lies; then copy them again.")
    return Check(NAME, check.state, found, check.mend)


def _local(settings: Settings) -> Check:
    cores = len(os.sched_getaffinity(0))
    slots = f"{settings.min_slots} to {settings.slots}" if settings.min_slots else str(settings.slots)
    found = f"local, {slots} slots on {cores} cores"
    if settings.slots > cores:
        return Check(NAME, "warn", found, f"More slots than cores make each other slow: ATELIER_SLOTS={cores}")
    return Check(NAME, "ok", found)


def _address(settings: Settings) -> Check:
    from infra.cluster import num_slots, open_cluster

    with open_cluster(settings) as client:
        slots = num_slots(client)
    if slots == 0:
        return Check(NAME, "fail", f"{settings.cluster} has no slots", "Start its workers with --resources slot=1.")
    return Check(NAME, "ok", f"{settings.cluster}, {slots} slots")


def _ssh(settings: Settings) -> Check:
    """Whether each host lets us in, and its Python finds the project."""
    from infra.clusters.ssh import Host, parse_hosts, ssh_command

    program = settings.ssh.program[0]
    if not shutil.which(program):
        return Check(NAME, "fail", f"there is no program {program} on the PATH", "apt-get install openssh-client")

    def ask(host: Host) -> str:
        command = ssh_command(host, settings.ssh, "-c", "import infra.cluster")
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SSH_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return f"{host.name}: no answer within {SSH_TIMEOUT_S:.0f} s"
        words = done.stderr.strip().splitlines()
        return f"{host.name}: {words[-1] if words else f'status {done.returncode}'}" if done.returncode else ""

    hosts = parse_hosts(settings.cluster)
    with ThreadPoolExecutor(max_workers=16) as pool:
        faults = [fault for fault in pool.map(ask, hosts) if fault]
    if faults:
        mend = "Check that `ssh HOST` works without a password, and python and folder in the section [ssh]."
        return Check(NAME, "fail", "; ".join(faults), mend)
    return Check(NAME, "ok", f"{len(hosts)} hosts by ssh, {settings.ssh.slots} slots each")


def _kubernetes(settings: Settings) -> Check:
    from infra.clusters.kubernetes import manifest

    manifest(settings, "doctor")
    config = [Path(path) for path in os.environ.get("KUBECONFIG", "~/.kube/config").split(os.pathsep)]
    inside = Path("/var/run/secrets/kubernetes.io/serviceaccount").exists()
    if not inside and not any(path.expanduser().exists() for path in config):
        return Check(
            NAME, "fail", "there is no configuration of Kubernetes here", "Set KUBECONFIG, or log in to the cluster with its own tool."
        )
    return Check(
        NAME, "ok", f"Kubernetes, image {settings.kubernetes.image}, up to {settings.slots} slots (not asked whether its operator runs)"
    )


def _slurm(settings: Settings) -> Check:
    from infra.clusters.slurm import job_script

    job_script(settings)
    if missing := [name for name in ("sbatch", "scancel") if not shutil.which(name)]:
        return Check(NAME, "fail", f"not on the PATH: {', '.join(missing)}", "Run on a machine that can submit jobs.")
    return Check(NAME, "ok", f"Slurm, up to {settings.slots} jobs of {settings.slurm.cores} cores")
