"""Starting several processes of `train.py`, as a user or a scheduler does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from tests.helpers.forked import ROOT, SCRIPTS, Forked

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


Process = subprocess.Popen[str] | Forked


def start(command: Sequence[str], **environment: str) -> Process:
    """A process in the root of the repository, in a group of its own; of an entry script, a forked one."""
    if command[0] == sys.executable and command[1] in SCRIPTS:
        return Forked(command[1], command[2:], {**ONE_THREAD, **environment})
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**ONE_THREAD, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )


def heed_interrupts() -> None:
    """A process that is started in the background is born deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(processes: Sequence[Process], seconds: float = 200) -> list[tuple[int, str]]:
    """(exit status, output) of each; all are killed where one is too slow."""
    try:
        outputs = [p.communicate(timeout=seconds)[0] for p in processes]
    finally:
        for p in processes:
            if p.poll() is None:
                os.killpg(p.pid, signal.SIGKILL)
    return [(p.wait(), output) for p, output in zip(processes, outputs, strict=True)]


def free_port() -> str:
    """One that nothing listens to."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def launch_two(*words: str) -> None:
    """What `torchrun --nproc-per-node 2 train.py …` starts."""
    for status, output in finish(tasks_of_torchrun("train.py", *words)):
        assert status == 0, output


def tasks_of_torchrun(script: str, *words: str) -> list[Process]:
    """Two processes with the environment that torchrun gives them."""
    job = {
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
    }
    return [start([sys.executable, script, *words], **job, RANK=str(r), LOCAL_RANK=str(r)) for r in range(2)]


def torchrun_two(*words: str) -> None:
    """`torchrun --nproc-per-node 2 train.py …`."""
    ((status, output),) = finish(
        [start([*TORCHRUN, "--standalone", "--nproc-per-node", "2", "train.py", *words])]
    )
    assert status == 0, output


def launch_two_nodes(*words: str) -> None:
    """`torchrun --nnodes 2 --nproc-per-node 1 train.py …` on each of two nodes, here on one machine."""
    where = ("--master-addr", "127.0.0.1", "--master-port", free_port())
    nodes = ("--nnodes", "2", "--nproc-per-node", "1", *where)
    for status, output in finish(
        [start([*TORCHRUN, *nodes, "--node-rank", str(rank), "train.py", *words]) for rank in range(2)]
    ):
        assert status == 0, output


def srun_two(*words: str) -> list[Process]:
    """`srun --ntasks 2 python train.py …`: two tasks, and nobody who watches them."""
    job = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "1",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
    }
    return [
        start([sys.executable, "train.py", *words], **job, SLURM_PROCID=str(r), SLURM_LOCALID=str(r))
        for r in range(2)
    ]
