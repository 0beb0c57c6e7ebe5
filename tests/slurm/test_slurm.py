"""The shipped batch scripts under a real Slurm: whatever stops a job, it goes on by itself and ends with the same bytes.

Usage: test_slurm.py HALFQUAD MPIEXEC [unittest arguments]

Exit code 77: no such cluster can be had here (slurm_cluster.py).
"""

import argparse
import fcntl
import os
import shutil
import signal
import sys
import unittest
from pathlib import Path

import slurm_cluster
from slurm_case import SCRIPTS, SLOW, LongCase, SlurmCase, digest, report_of
from test_ranks import DONE, IO, INTERRUPTED, OPTIONS, USAGE

SKIPPED = 77
REFUSED_BY_MPI = 1  # MPI_Init of Open MPI ends the process itself
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


class QuickTest(SlurmCase):
    """Few seconds: what the scripts are for."""
    HOSTS = 2

    def test_many_nodes_write_the_same_bytes(self):
        job = self.submit("many-nodes.sbatch", "quantize", self.model, self.out,
                          sbatch=["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2"])
        self.assertEqual(self.wait_for(job, *ENDED)["JobState"], "COMPLETED", self.log())
        self.assert_complete()
        self.assertEqual(len(report_of(self.out)["ranks"]), 4)
        self.assert_log_says("start 1 on h[0-1]", f"is done: {self.out} is complete")

    def test_a_requeued_job_goes_on(self):
        job = self.submit_slow()
        self.cluster.slurm("scontrol", "requeue", job)
        self.assert_continues(job)
        self.assert_log_says("is stopped by Slurm", "start 2 on")


class SignalTest(SlurmCase):
    HOSTS = 2

    def test_signals_of_any_kind_have_it_stop_and_go_on(self):
        # The batch script alone, the ranks alone, or both, which srun takes for an order to kill them.
        for options in (["--batch", "--signal=USR1"], ["--signal=TERM"], ["--signal=USR1"], ["--full", "--signal=TERM"],
                        ["--batch", "--signal=TERM"]):
            with self.subTest(scancel=options):
                job = self.submit_slow(settings=["HALFQUAD_TERM_WAIT=2"])  # a fast machine's slow job ends in ten seconds
                self.cluster.slurm("scancel", *options, job)
                self.assert_continues(job)
                self.assert_log_says("the job is RUNNING", "is requeued and goes on at its next start")
                if "--full" not in options:
                    self.assert_log_says(f"srun ended with exit code {INTERRUPTED}")
                self.remove_output()
                (self.root / "job.log").unlink()

    def test_a_cancelled_job_stays_cancelled_until_it_is_submitted_again(self):
        job = self.submit_slow()
        self.cluster.slurm("scancel", job)
        facts = self.wait_for(job, *ENDED)
        self.assertEqual((facts["JobState"], facts["Restarts"]), ("CANCELLED", "0"))
        self.wait_until(lambda: "submit the same command again" in self.log(), "the script says how to go on")
        self.pace("")
        again = self.submit("cpu.sbatch", "quantize", self.model, self.out, sbatch=["--nodes=1"])
        self.assertEqual(self.wait_for(again, *ENDED)["JobState"], "COMPLETED", self.log())
        self.assert_complete()
        self.assertGreater(report_of(self.out)["resumed"]["source_bytes"], 0)

    def test_mpirun_inside_the_script_passes_the_signal_on(self):
        job = self.submit_slow(settings=["HALFQUAD_LAUNCHER=mpirun"])
        self.cluster.slurm("scancel", "--batch", "--signal=USR1", job)
        self.assert_continues(job)
        self.assert_log_says(f"mpirun ended with exit code {INTERRUPTED}")


class RequeueTest(SlurmCase):
    HOSTS = 2

    def test_a_preempted_job_goes_on(self):
        job = self.submit_slow(sbatch=["--exclusive"])
        other = self.cluster.slurm("sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive",
                                   "--output=/dev/null", "--wrap", "sleep 2")
        self.assert_continues(job)
        self.assertEqual(self.cluster.job(other)["JobState"], "COMPLETED")
        self.assert_log_says(f"srun ended with exit code {INTERRUPTED}; the job is RUNNING")

    def test_a_site_requeues_by_exit_code(self):
        job = self.submit_slow(settings=["HALFQUAD_REQUEUE=exit", f"HALFQUAD_REQUEUE_EXIT={self.REQUEUE_EXIT}"])
        self.cluster.slurm("scancel", "--batch", "--signal=USR1", job)
        self.assert_continues(job)
        self.assert_log_says(f"ends with exit code {self.REQUEUE_EXIT}, at which Slurm requeues it")

    def test_a_job_that_may_not_be_requeued_says_how_to_go_on(self):
        for sbatch, settings, said in ((["--no-requeue"], [], "could not be requeued, for the reason above"),
                                       ([], ["HALFQUAD_REQUEUE=no"], "is not requeued (HALFQUAD_REQUEUE=no)"),
                                       ([], ["HALFQUAD_MAX_RESTARTS=0"], "was started 1 times")):
            with self.subTest(said=said):
                job = self.submit_slow(sbatch=sbatch, settings=settings)
                self.cluster.slurm("scancel", "--batch", "--signal=USR1", job)
                facts = self.wait_for(job, *ENDED)
                self.assertEqual((facts["JobState"], facts["ExitCode"]), ("FAILED", f"{INTERRUPTED}:0"), self.log())
                self.assert_log_says(said, "submit the same command again to go on")
                self.clear()
                (self.root / "job.log").unlink()

    def test_a_lock_that_outlives_its_rank_is_waited_for(self):
        job = self.submit_slow()
        self.cluster.slurm("scontrol", "requeuehold", job)
        self.wait_for(job, "PENDING", restarts=1)
        self.wait_until(lambda: not self.cluster.slurm("squeue", "-h", "-t", "CG"), "the ranks have ended")
        with open(self.root / "out.partial.lock", "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.cluster.slurm("scontrol", "release", job)
            self.wait_until(lambda: "tries again in" in self.log(), "the script waits for the lock")
        self.assert_continues(job)
        self.assert_log_says("another process is writing")

    def test_fresh_discards_once(self):
        job = self.submit_slow(more=["--fresh"])
        self.cluster.slurm("scancel", "--batch", "--signal=USR1", job)
        self.assert_continues(job)

    def test_an_output_that_was_complete_already_is_enough(self):
        # As when the requeue comes between the renaming and the end of the script.
        job = self.submit_slow()
        self.cluster.slurm("scontrol", "requeuehold", job)
        self.wait_for(job, "PENDING", restarts=1)
        self.pace("")
        self.run_to_end(self.quantize())
        self.cluster.slurm("scontrol", "release", job)
        self.assertEqual(self.wait_for(job, *ENDED, restarts=1)["JobState"], "COMPLETED", self.log())
        self.assert_complete()
        self.assert_log_says("was completed by the start before")


class MistakeTest(SlurmCase):
    HOSTS = 2

    def fails(self, script: str, *arguments, code: int, said: list, **options):
        job = self.submit(script, *arguments, **options)
        facts = self.wait_for(job, *ENDED)
        self.assertEqual((facts["JobState"], facts["ExitCode"], facts["Restarts"]), ("FAILED", f"{code}:0", "0"),
                         self.log())
        self.assert_log_says(*said)
        self.assertFalse(self.out.exists() or self.partial.exists())
        (self.root / "job.log").unlink()

    def test_tasks_that_are_not_connected_are_refused(self):
        hint = "srun connects its 4 tasks by neither PMIx nor PMI"
        ended = self.run_here("srun", "--mpi=none", "-N2", "-n4", "--mem=400", OPTIONS.halfquad, "quantize", self.model,
                              self.out)
        self.assertEqual(ended.returncode, REFUSED_BY_MPI, ended.stderr)
        self.assertEqual(ended.stderr.count(hint), 1, ended.stderr)
        self.assertIn("srun --mpi=pmix", ended.stderr)
        self.assertFalse(self.out.exists() or self.partial.exists())
        self.fails("cpu.sbatch", "quantize", self.model, self.out, code=REFUSED_BY_MPI,
                   sbatch=["--nodes=2", "--ntasks-per-node=2"], settings=["HALFQUAD_MPI=none"],
                   said=[hint, "is not started again: it could not be launched"])

    def test_errors_that_would_come_again_are_not_tried_again(self):
        nothing, missing = self.root / "nothing", self.root / "no-program"
        self.fails("cpu.sbatch", "quantize", nothing, self.out, code=IO, said=["nothing", "is not started again"])
        self.fails("cpu.sbatch", "quantize", "--bits", "3", self.model, self.out, code=USAGE,
                   said=["quantize MODEL OUT [OPTIONS...]"])
        self.fails("cpu.sbatch", "quantize", self.model, self.out, code=USAGE, settings=[f"HALFQUAD={missing}"],
                   said=[f"{missing} is not a program on h0"])
        self.fails("cpu.sbatch", "quantize", self.model, self.out, code=USAGE, settings=["HALFQUAD_REQUEUE=maybe"],
                   said=["HALFQUAD_REQUEUE is 'maybe'; choose one of: scontrol exit no"])
        self.fails("cpu.sbatch", "quantize", self.model, self.out, code=1, settings=["HALFQUAD_MPI=telepathy"],
                   said=["telepathy", "could not be launched"])
        self.fails("array.sbatch", self.root / "no-list", code=USAGE, said=["a readable file of N lines"])


class ScriptTest(SlurmCase):
    HOSTS = 2

    def test_an_array_makes_several_outputs_and_each_goes_on_by_itself(self):
        outs = [self.root / name for name in ("out 4", "out3", "out2")]
        # Only the last is to be hit; the others stay at the slow pace to their end, so they have less to do.
        options = [["--solver", "rtn"], ["--bits", "3", "--solver", "rtn"], ["--bits", "2", "--group-size", "32"]]
        (self.root / "jobs").write_text("# three widths\n\n" + "".join(
            f"quantize '{self.model}' '{out}' {' '.join(more)}\n" for out, more in zip(outs, options)))
        self.pace(SLOW)
        array = self.submit("array.sbatch", self.root / "jobs", name="array",
                            sbatch=["--array=1-3", f"--output={self.root}/array-%a.log"])
        self.wait_for_journals(out=outs[-1])
        # Task 3 has the number of the whole array, in Slurm 22.
        self.cluster.slurm("scancel", "--batch", "--signal=USR1", f"{array}_3")
        self.wait_for(f"{array}_3", "PENDING", "RUNNING", restarts=1)
        self.pace("")
        for task, restarts in ((1, "0"), (2, "0"), (3, "1")):
            facts = self.wait_for(f"{array}_{task}", *ENDED)
            self.assertEqual((facts["JobState"], facts["Restarts"]), ("COMPLETED", restarts), self.log(f"array-{task}"))
        for out, more in zip(outs, options):
            expected = self.root / "expected"
            self.run_to_end(self.quantize(*more, out=expected))
            self.assertEqual(digest(out), digest(expected))
            shutil.rmtree(expected)

    def test_one_node_gives_every_rank_its_cores_and_the_gpus(self):
        show = self.root / "show"
        show.write_text('#!/bin/sh\necho "rank $PMIX_RANK of $SLURM_STEP_NUM_TASKS: $CUDA_VISIBLE_DEVICES '
                        '$SLURM_CPUS_PER_TASK"\n')
        show.chmod(0o755)
        sizes = ["--ntasks-per-node=2", "--cpus-per-task=2", "--gpus-per-node=2"]
        one_each = "HALFQUAD_LAUNCH_OPTIONS=--gpus-per-task=1"
        for settings, gpus in (([], ("0,1", "0,1")), ([one_each], ("0", "1"))):
            with self.subTest(gpus=gpus):
                job = self.submit("one-node.sbatch", "quantize", self.model, self.out, sbatch=sizes,
                                  settings=[f"HALFQUAD={show}", *settings])
                self.wait_for(job, *ENDED)
                for rank in (0, 1):
                    self.assert_log_says(f"rank {rank} of 2: {gpus[rank]} 2")
                (self.root / "job.log").unlink()

    def test_scripts_below_a_prefix_find_what_they_need(self):
        prefix = self.root / "a prefix"
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin" / "halfquad").symlink_to(OPTIONS.halfquad)
        scripts = prefix / "share" / "halfquad" / "slurm"
        shutil.copytree(SCRIPTS, scripts)
        job = self.submit("cpu.sbatch", "quantize", self.model, self.out, settings=["HALFQUAD="], scripts=scripts)
        self.assertEqual(self.wait_for(job, *ENDED)["JobState"], "COMPLETED", self.log())
        self.assert_complete()
        self.assert_log_says(f"{scripts}/../../../bin/halfquad quantize")

    def test_salloc_and_mpirun(self):
        quantize = ["quantize", self.model, self.out, "--log-level", "off"]
        ended = self.run_here("salloc", "--nodes=2", "--ntasks-per-node=2", "--mem=800", OPTIONS.mpiexec,
                              OPTIONS.halfquad, *quantize)
        self.assertEqual(ended.returncode, DONE, ended.stderr)
        self.assert_complete()
        self.assertEqual(len(report_of(self.out)["ranks"]), 4)

    def test_the_scripts_run_inside_salloc(self):
        ended = self.run_here("env", f"HALFQUAD={OPTIONS.halfquad}", "salloc", "--nodes=2", "--ntasks-per-node=1",
                              "--mem=800", "bash", SCRIPTS / "cpu.sbatch", "quantize", self.model, self.out)
        self.assertEqual(ended.returncode, DONE, ended.stdout + ended.stderr)
        self.assert_complete()


class LossTest(SlurmCase):
    def test_a_killed_node_is_replaced(self):
        job = self.submit_slow(nodes=2)
        self.assertEqual(self.nodes_of(job), ["h0", "h1"])
        self.cluster.kill("h1")
        self.assert_continues(job)
        self.assertNotIn("h1", self.nodes_of(job))

    def test_a_killed_rank_is_replaced(self):
        # As by the kernel when memory is short: no node is lost, so Slurm has no reason to requeue the job itself.
        job = self.submit_slow(nodes=2)
        os.kill(self.processes()[-1], signal.SIGKILL)
        self.assert_continues(job)
        self.assert_log_says("the job is RUNNING", "is requeued and goes on at its next start")

    def test_the_node_of_the_script_is_replaced(self):
        job = self.submit_slow(nodes=2)
        self.cluster.cut("h0")  # without power: nobody is told
        self.cluster.kill("h0")
        self.assert_continues(job)
        self.assertNotIn("h0", self.nodes_of(job))


class LimitTest(LongCase):
    HOSTS = 2

    def test_a_time_limit_shorter_than_the_job(self):
        job = self.submit_slow(sbatch=["--time=1", "--signal=B:USR1@30"])
        self.wait_for(job, "RUNNING", restarts=2)
        self.assertEqual(self.log().count("SIGUSR1: the ranks stop"), 2, self.log())
        self.pace("")
        self.assertEqual(self.wait_for(job, *ENDED)["JobState"], "COMPLETED", self.log())
        self.assert_complete()
        self.assertGreater(report_of(self.out)["resumed"]["source_bytes"], 0)


class StoryTest(LongCase):
    """One job over four nodes, and all that can happen to it, in turn; nobody touches it. Its log is printed.

    What is spared is time alone: Slurm's two minutes before every new start, and the slow pace after the last stop.
    """
    HOSTS = 5

    def test_a_job_that_everything_happens_to(self):
        job = self.submit_slow(nodes=4, sbatch=["--exclusive", "--time=3", "--signal=B:USR1@60"])
        other = self.cluster.slurm("sbatch", "--parsable", "--partition=high", "--nodes=5", "--exclusive",
                                   "--output=/dev/null", "--wrap", "sleep 2")
        self.wait_for(other, "COMPLETED")
        self.wait_for_progress(job)
        lost = self.nodes_of(job)[-1]
        self.cluster.kill(lost)
        self.wait_until(lambda: self.hurried(job) and "SIGUSR1: the ranks stop" in self.log(), "the time limit is near")
        self.wait_for(job, "RUNNING", restarts=3)
        self.pace("")
        facts = self.wait_for(job, *ENDED)
        print(f"\n{self.log()}\nJobState={facts['JobState']} Restarts={facts['Restarts']}; {lost} is gone; sha256 of the "
              f"weights: {digest(self.out)}, of an undisturbed run's: {self.expected}", flush=True)
        self.assertEqual(facts["JobState"], "COMPLETED")
        self.assertGreaterEqual(int(facts["Restarts"]), 3)
        self.assertNotIn(lost, self.nodes_of(job))
        self.assert_complete()


def main():
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    parser.add_argument("halfquad", type=lambda path: str(Path(path).resolve()))
    parser.add_argument("mpiexec")
    _, more = parser.parse_known_args(namespace=OPTIONS)
    reason = slurm_cluster.why_not(OPTIONS.mpiexec)
    if reason:
        print(reason)
        sys.exit(SKIPPED)
    unittest.main(argv=[sys.argv[0], *more])


if __name__ == "__main__":
    main()
