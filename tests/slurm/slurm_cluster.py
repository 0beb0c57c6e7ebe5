"""A real Slurm over several hosts of one machine: slurmctld and munged at the launch point, one slurmd on every host.

Usage: slurm_cluster.py [--hosts N] [--shared DIR] [--mpiexec MPIRUN] [COMMAND...]

Runs a command, or a shell, at the launch point of such a cluster, and takes everything down when it ends. The hosts
see one file system and have their own network, name, processes and shared memory (tests/mpi/hosts.py). Each claims four
GPUs, which are copies of /dev/null: they show what Slurm tells the tasks about GPUs, and nothing else.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "mpi"))
import hosts  # noqa: E402
from hosts import HEAD  # noqa: E402

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun", "salloc")
CPUS, MEMORY_MIB, GPUS = 4, 4000, 4  # claimed by each host
UP_SECONDS = 60
# The controller's order to kill what ran on a host before its death is sent when the host is back; a job of the same
# id that was started there sooner would take it for its own.
OLD_KILL_SECONDS = 2
EXIT_TO_REQUEUE = 75

# Limits are short so that a test does not wait: a lost host is down after 10 seconds instead of 300, a job has
# 10 seconds of grace when it is preempted.
CONFIGURATION = """
ClusterName=halfquad
SlurmctldHost={head}({head_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.sock
CredType=cred/munge
MpiDefault=none
SlurmdParameters=config_overrides
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
TmpFS={root}/tmp/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd.%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=10
KillWait=10
MinJobAge=3600
JobRequeue=1
RequeueExit={exit_to_requeue}
KillOnBadExit=1
PropagateResourceLimitsExcept=MEMLOCK
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class ClusterError(RuntimeError):
    """Slurm did not do what was asked."""


def why_not(mpiexec: str) -> str:
    """Why no such cluster can be had here, or nothing."""
    missing = [tool for tool in (*DAEMONS, *COMMANDS, "mknod") if shutil.which(tool) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} not found): cluster/install-deps --with slurm"
    plugins = list(Path("/usr/lib").glob("*/slurm*/mpi_pmix*.so"))
    if not plugins:
        return "Slurm's plugin mpi/pmix is not installed: cluster/install-deps --with slurm"
    return hosts.why_not(mpiexec)


class SlurmCluster(hosts.Hosts):
    """Hosts h0, h1, ... with Slurm on them; close() when done.

    shared: a directory that all see; private: one that is a disk of its own on every host. requeue_exit: the exit code
    with which a batch script asks to be requeued.
    """

    def __init__(self, count: int, shared: Path, private: Path = None, mpiexec: str = "mpirun",
                 requeue_exit: int = EXIT_TO_REQUEUE):
        self._root_folder = Path(tempfile.mkdtemp(prefix="halfquad-slurm-"))
        self._configuration = self._root_folder / "slurm.conf"
        self._slurm_runs = False
        try:
            super().__init__(count, shared, private, mpiexec)
            self._configure(requeue_exit)
            self._start_slurm()
        except BaseException:
            self.close()
            raise

    def close(self):
        super().close()
        shutil.rmtree(self._root_folder, ignore_errors=True)

    def on(self, host: str, command: list) -> list:
        """As Hosts.on, in the directory that all see."""
        return super().on(host, ["env", f"--chdir={self._shared}", f"SLURM_CONF={self._configuration}", *command])

    def start(self, host: str):
        super().start(host)
        if self._slurm_runs:
            self._start_slurmd(host)
            time.sleep(OLD_KILL_SECONDS)

    def slurm(self, *command) -> str:
        """What a command of Slurm, run at the launch point, prints; ClusterError when it fails."""
        ended = self.run(HEAD, list(command), timeout=UP_SECONDS)
        if ended.returncode != 0:
            raise ClusterError(f"{' '.join(map(str, command))}: {ended.stderr.strip()}")
        return ended.stdout.strip()

    def runs(self, host: str) -> bool:
        return host in self._reached

    def job(self, job: str) -> dict:
        """What the controller knows about a job: JobState, Restarts, ..."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.slurm("scontrol", "show", "job", "-o", job)))

    def logs(self) -> dict:
        """The end of each daemon's log, by its name."""
        return {log.name: log.read_text(errors="replace")[-2000:] for log in (self._root_folder / "log").glob("*.log")}

    def wait_until_idle(self, count: int, partition: str = "main"):
        """Until so many hosts are up and free."""
        deadline = time.monotonic() + UP_SECONDS
        while len(set(self.slurm("sinfo", "-h", "-N", "-p", partition, "-t", "idle", "-o", "%N").split())) < count:
            if time.monotonic() > deadline:
                raise ClusterError(f"{count} hosts are not up: {self.slurm('sinfo', '-N', '-l')}\n{self.logs()}")
            time.sleep(0.1)

    def _configure(self, requeue_exit: int):
        root = self._root_folder
        root.chmod(0o755)
        for name in ("state", "log", "run", "gpu"):
            (root / name).mkdir()
        for gpu in range(GPUS):
            self._tool(["mknod", root / "gpu" / f"g{gpu}", "c", "1", "3"])
        nodes = [f"NodeName={name} NodeAddr={self._addresses[name]} CPUs={CPUS} Sockets=1 CoresPerSocket={CPUS} "
                 f"ThreadsPerCore=1 RealMemory={MEMORY_MIB} Gres=gpu:{GPUS} State=UNKNOWN" for name in self.names]
        self._configuration.write_text(CONFIGURATION.format(
            head=HEAD, head_address=self._addresses[HEAD], root=root, exit_to_requeue=requeue_exit,
            nodes="\n".join(nodes)))
        (root / "gres.conf").write_text(f"Name=gpu File={root}/gpu/g[0-{GPUS - 1}]\n")
        (root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")

    def _start_slurm(self):
        run, log = self._root_folder / "run", self._root_folder / "log"
        key = self._root_folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        self._daemon(HEAD, ["munged", "--force", f"--key-file={key}", f"--socket={run}/munge.sock",
                            f"--pid-file={run}/munged.pid", f"--log-file={log}/munged.log",
                            f"--seed-file={run}/munged.seed"])
        self._daemon(HEAD, ["slurmctld", "-f", self._configuration])
        self._slurm_runs = True
        for name in self.names:
            self._start_slurmd(name)
        self.wait_until_idle(len(self.names))

    def _start_slurmd(self, host: str):
        # What a host that lost its power left behind has a requeued job's srun fail ("File exists").
        for place in ("tmp", "spool"):
            shutil.rmtree(self._root_folder / place / host, ignore_errors=True)
            (self._root_folder / place / host).mkdir(parents=True)
        self._daemon(host, ["slurmd", "-N", host, "-f", self._configuration])

    def _daemon(self, host: str, command: list):
        ended = self.run(host, command, timeout=UP_SECONDS, stdin=subprocess.DEVNULL)
        if ended.returncode != 0:
            raise ClusterError(f"{command[0]} does not start on {host}: {ended.stderr.strip()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--shared", type=Path, default=Path.cwd())
    parser.add_argument("--mpiexec", default="mpirun")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    reason = why_not(options.mpiexec)
    if reason:
        sys.exit(reason)
    with SlurmCluster(options.hosts, options.shared, mpiexec=options.mpiexec) as cluster:
        sys.exit(subprocess.run(cluster.on(HEAD, options.command or ["bash", "-i"]), check=False).returncode)


if __name__ == "__main__":
    main()
