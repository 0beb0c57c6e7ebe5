"""What the tests under Slurm share: a cluster, a checkpoint, and jobs through the shipped batch scripts."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "mpi"))
import test_ranks  # noqa: E402
from slurm_cluster import SlurmCluster  # noqa: E402
from test_ranks import OPTIONS, digest, report_of  # noqa: E402

SCRIPTS = Path(__file__).resolve().parent.parent.parent / "cluster" / "slurm"
PATIENCE = 300  # seconds anything may take
# The nodes refuse a job whose new credential is of the second in which its old one was revoked: Slurm's own wait is long.
CREDENTIAL_SECONDS = 3
SLOW = "--threads 1 --backend reference"  # makes a job last; the bytes are the same
# What stands for halfquad in the jobs: "pace" holds more options, so that a job can be slow until it was hit.
PROGRAM = """#!/bin/sh
exec '{halfquad}' "$@" $(cat '{root}/pace')
"""


class SlurmCase(test_ranks.RanksTest):
    """Four hosts under Slurm for all tests of a class; a job is submitted, hit, and must end complete."""

    HOSTS = 4
    REQUEUE_EXIT = 85
    BLOCKS = 24

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.program = cls.root / "halfquad"
        cls.program.write_text(PROGRAM.format(halfquad=OPTIONS.halfquad, root=cls.root))
        cls.program.chmod(0o755)
        cls.cluster = SlurmCluster(cls.HOSTS, cls.root, mpiexec=OPTIONS.mpiexec, requeue_exit=cls.REQUEUE_EXIT)
        cls.addClassCleanup(cls.cluster.close)

    @classmethod
    def shapes(cls) -> dict:
        """Many small tensors, so that something is finished soon."""
        shapes = {"model.embed_tokens.weight": (4096, 1024)}
        for i in range(cls.BLOCKS):
            shapes[f"model.layers.{i}.self_attn.q_proj.weight"] = (1024, 1024)
            shapes[f"model.layers.{i}.self_attn.o_proj.weight"] = (1024, 1024)
        return shapes

    def setUp(self):
        super().setUp()
        self.waiting_since = {}
        self.pace("")
        self.addCleanup(self.clear_jobs)

    def clear_jobs(self):
        self.cluster.slurm("scancel", "--full", "--signal=KILL", "--user=root")
        self.cluster.slurm("scancel", "--user=root")
        for name in self.cluster.names:
            if not self.cluster.runs(name):
                self.cluster.start(name)
        self.cluster.wait_until_idle(self.HOSTS)
        for log in self.root.glob("*.log"):
            log.unlink()

    def pace(self, options: str):
        (self.root / "pace").write_text(options)

    def submit(self, script: str, *arguments, sbatch=(), name: str = "job", settings=(),
               scripts: Path = SCRIPTS) -> str:
        """The id of a job of a shipped script, scaled down to these hosts."""
        settings = [f"HALFQUAD={self.program}", *settings]
        command = ["env", *settings, "sbatch", "--parsable", f"--job-name={name}", f"--output={self.root}/{name}.log",
                   "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=800", "--time=30", *sbatch, scripts / script,
                   *arguments]
        return self.cluster.slurm(*command)

    def submit_slow(self, *, nodes: int = 2, sbatch=(), settings=(), more=()) -> str:
        """A job that lasts until hit; returns once it has finished some work."""
        self.pace(SLOW)
        job = self.submit("cpu.sbatch", "quantize", self.model, self.out, *self.OPTIONS_OF_ALL, *more, sbatch=[f"--nodes={nodes}", *sbatch],
                          settings=settings)
        self.wait_for_journals()
        return job

    def nodes_of(self, job: str) -> list:
        """Those that a job has or had last."""
        return self.cluster.slurm("scontrol", "show", "hostnames", self.cluster.job(job)["NodeList"]).split()

    def journaled(self, out=None) -> int:
        partial = Path(f"{out or self.out}.partial")
        return sum(journal.stat().st_size for journal in (partial / ".halfquad").glob("journal-*"))

    def wait_for_journals(self, more_than: int = 0, out=None):
        self.wait_until(lambda: self.journaled(out) > more_than, "the job finishes some work")

    def wait_until(self, what, said: str, seconds: float = PATIENCE):
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                self.fail(f"waited {seconds} s in vain until {said}\n{self.log()}\n{self.cluster.slurm('squeue')}\n"
                          f"{self.cluster.logs()}")
            time.sleep(0.2)

    def log(self, name: str = "job") -> str:
        path = self.root / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def hurried(self, job: str) -> dict:
        """What the controller knows about a job, which does not wait any longer if that is all that it does."""
        facts = self.cluster.job(job)
        if facts["JobState"] != "PENDING" or facts["Reason"] != "BeginTime":
            self.waiting_since.pop(job, None)
        elif time.monotonic() - self.waiting_since.setdefault(job, time.monotonic()) > CREDENTIAL_SECONDS:
            self.cluster.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        return facts

    def wait_for_progress(self, job: str):
        """Until a job has finished more work than it has now, started again if need be."""
        before = self.journaled()
        self.wait_until(lambda: self.hurried(job)["JobState"] == "RUNNING" and self.journaled() > before,
                        "the job finishes more work")

    def wait_for(self, job: str, *states: str, restarts: int = 0) -> dict:
        """Until a job is in one of these states, after so many restarts; what Slurm's wait before one costs is spared."""
        facts = {}

        def reached() -> bool:
            facts.update(self.hurried(job))
            return facts["JobState"] in states and int(facts["Restarts"]) >= restarts

        self.wait_until(reached, f"job {job} is {' or '.join(states)} with {restarts} restarts")
        return facts

    def assert_continues(self, job: str, restarts: int = 1):
        """The job, which was hit, is started again by itself and completes its output."""
        self.wait_for(job, "PENDING", "RUNNING", restarts=restarts)
        self.pace("")
        facts = self.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", restarts=restarts)
        self.assertEqual(facts["JobState"], "COMPLETED", self.log())
        self.assertEqual(int(facts["Restarts"]), restarts, self.log())
        self.assert_complete()
        resumed = report_of(self.out)["resumed"]
        self.assertGreater(resumed["source_bytes"], 0)
        self.assertEqual(resumed["pieces_damaged"], 0)

    def assert_complete(self):
        self.assertEqual(digest(self.out), self.expected)
        self.assertEqual(sorted(path.name for path in self.out.iterdir()),
                         sorted(path.name for path in self.reference.iterdir()))

    def assert_log_says(self, *parts: str):
        for part in parts:
            self.assertRegex(self.log(), re.escape(part))

    def run_here(self, *command) -> subprocess.CompletedProcess:
        """Runs a command at the launch point to its end."""
        return self.cluster.run("head", list(command), timeout=PATIENCE)

    def remove_output(self):
        shutil.rmtree(self.out, ignore_errors=True)


class LongCase(SlurmCase):
    """A job of minutes at the slow pace, of seconds otherwise."""

    OPTIONS_OF_ALL = ["--solver", "hqq", "--iters", "400"]
    BLOCKS = 256

    @classmethod
    def shapes(cls) -> dict:
        return {f"model.layers.{i}.self_attn.{name}.weight": (128, 1024)
                for i in range(cls.BLOCKS) for name in ("q_proj", "o_proj")}
