"""A Slurm for tests: ``sbatch``, ``squeue`` and ``scancel`` on the PATH that run jobs as processes of this machine.

A job's script runs in a session of its own; its directives are read as Slurm reads them (the output file, for one), and what Slurm would refuse is refused.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

_PROGRAM = """#!{python} -I
import os, re, signal, subprocess, sys
from pathlib import Path

JOBS = Path({jobs!r})
KNOWN = {{"-J", "-e", "-o", "-p", "-A", "-n", "-t", "--cpus-per-task", "--mem", "--gres"}}


def fail(words):
    sys.stderr.write(words + "\\n")
    sys.exit(1)


def sbatch(script):
    text = Path(script).read_text()
    options = dict(re.findall(r"^#SBATCH (--?[a-z-]+)[ =]?(.*)$", text, re.M))
    if set(options) - KNOWN:
        fail(f"sbatch: unrecognized option {{sorted(set(options) - KNOWN)}}")
    if options.get("-p") == "closed":
        fail("sbatch: error: invalid partition specified: closed")
    number = 1 + len(list(JOBS.glob("*.sh")))
    (JOBS / f"{{number}}.sh").write_text(text)
    files = [options[flag].replace("%J", str(number)) for flag in ("-o", "-e")]
    with open(files[0], "ab") as out, open(files[1], "ab") as err:
        env = {{**os.environ, "SLURM_JOB_ID": str(number)}}
        job = subprocess.Popen(["sh", str(JOBS / f"{{number}}.sh")], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, start_new_session=True)
    (JOBS / f"{{number}}.pid").write_text(str(job.pid))
    print(f"Submitted batch job {{number}}")


def scancel(number):
    file = JOBS / f"{{number}}.pid"
    if not file.exists():
        fail("scancel: error: Invalid job id specified")
    try:
        os.killpg(int(file.read_text()), signal.SIGKILL)
    except ProcessLookupError:
        pass
    file.unlink()


def squeue():
    for file in sorted(JOBS.glob("*.pid")):
        print(file.stem)


{{"sbatch": sbatch, "scancel": scancel, "squeue": squeue}}[Path(sys.argv[0]).name](*sys.argv[1:2])
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the three programs on the PATH; returns the folder with ``NUMBER.sh`` of every job, and ``NUMBER.pid`` of those not cancelled."""
    jobs, programs = tmp_path / "jobs", tmp_path / "slurm-bin"
    jobs.mkdir()
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        program = programs / name
        program.write_text(_PROGRAM.format(python=sys.executable, jobs=str(jobs)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return jobs
