"""What programs that watch a job are told: --status, --metrics, --log-format json, and the last words after a signal.

Usage: test_monitor.py HALFQUAD MPIEXEC [unittest arguments]
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import test_ranks
from test_ranks import DEADLINE, DONE, INTERRUPTED, OPTIONS, kill

SLOW = ["--threads", "1", "--backend", "reference"]  # slow enough to be watched
SAMPLE = re.compile(r'^(halfquad_[a-z_]+)\{output="[^"]+"(?:,[a-z]+="[^"]*")*\} ([0-9.e+-]+)$')


def samples_of(text: str) -> dict:
    """All values of a metrics file by name; fails on a line that is not as Prometheus wants it."""
    found, described = {}, set()
    for line in text.splitlines():
        if line.startswith("# "):
            described.add(line.split()[2])
            continue
        match = SAMPLE.match(line)
        if match is None or match[1] not in described:
            raise AssertionError(f"not a sample: {line}")
        found.setdefault(match[1], []).append(float(match[2]))
    return found


class MonitorTest(test_ranks.RanksTest):
    LAYERS = 2
    OPTIONS_OF_ALL = ["--solver", "hqq"]

    def setUp(self):
        super().setUp()
        self.status = self.root / "status.json"
        self.metrics = self.root / "halfquad.prom"
        self.addCleanup(self.status.unlink, missing_ok=True)
        self.addCleanup(self.metrics.unlink, missing_ok=True)

    def job(self, *more) -> list:
        return [OPTIONS.halfquad, "quantize", self.model, self.out, *self.OPTIONS_OF_ALL, "--status", self.status, "--metrics", self.metrics,
                "--progress-interval", "0.1", *more]

    def read_status(self) -> dict:
        return json.loads(self.status.read_text())

    def json_lines(self, text: str) -> list:
        """mpirun adds lines of its own, in no such form."""
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def wait_until_saved(self, process):
        deadline = time.monotonic() + DEADLINE
        while not any(path.stat().st_size > 0 for path in self.partial.glob(".halfquad/journal-*")):
            self.assertIsNone(process.poll(), "the job ended before anything was finished")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def test_a_job_of_two_ranks_can_be_watched(self):
        command = self.mpirun(2, self.job(*SLOW, "--log-format", "json", "--progress", "ranks"))
        log = self.root / "log"  # a pipe would be full before it is read
        self.addCleanup(log.unlink, missing_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=file)
        self.addCleanup(process.kill)
        fractions, phases = [], set()
        while process.poll() is None:
            if self.status.exists():
                status = self.read_status()  # whole at every moment
                fractions.append(status["fraction"])
                phases.add(status["phase"])
                if self.metrics.exists():
                    samples_of(self.metrics.read_text())
            time.sleep(0.02)
        error = log.read_text()
        self.assertEqual(process.returncode, DONE, error)
        self.assert_complete()

        self.assertEqual(fractions, sorted(fractions))
        self.assertGreater(len({fraction for fraction in fractions if 0 < fraction < 1}), 1)
        self.assertIn("quantizing", phases)
        status = self.read_status()
        self.assertEqual((status["format"], status["version"]), ("halfquad-status", 1))
        self.assertEqual((status["state"], status["exit_code"], status["error"]), ("done", DONE, None))
        self.assertEqual(status["done"]["source_bytes"], self.model_bytes)
        self.assertEqual(status["total"]["source_bytes"], self.model_bytes)
        self.assertEqual(sum(rank["source_bytes_done"] for rank in status["ranks"]), self.model_bytes)
        self.assertEqual([rank["rank"] for rank in status["ranks"]], [0, 1])
        self.assertTrue(all(rank["ended"] for rank in status["ranks"]))

        samples = samples_of(self.metrics.read_text())
        self.assertEqual(samples["halfquad_job_running"], [0])
        self.assertEqual(samples["halfquad_job_exit_code"], [DONE])
        self.assertEqual(samples["halfquad_processed_source_bytes_total"], [self.model_bytes])
        self.assertEqual(sum(samples["halfquad_rank_processed_source_bytes_total"]), self.model_bytes)

        self.assertFalse([line for line in error.splitlines() if not line.startswith("{")])
        progress = [line for line in self.json_lines(error) if line.get("event") == "progress"]
        self.assertGreater(len(progress), 3)
        self.assertEqual(progress[-1]["source_bytes_done"], self.model_bytes)
        self.assertEqual([len(line["ranks"]) for line in progress[1:]], [2] * (len(progress) - 1))
        self.assertTrue(any("slowest_rank" in line for line in progress))

    def check_interrupted(self, ranks: int):
        """A signal in the middle: what is said, and that the job goes on from there."""
        command = self.mpirun(ranks, self.job("--progress", "none")) if ranks > 1 else self.job("--progress", "none")
        process = self.start([*command, *SLOW])
        self.wait_until_saved(process)
        kill(process.pid if command[0] == OPTIONS.mpiexec else self.processes()[0], signal.SIGUSR1)
        _, error = process.communicate(timeout=DEADLINE)
        self.assertEqual(process.returncode, INTERRUPTED, error)
        self.assertIn("stopping, for a signal asks to: what is finished is being saved; a second signal ends at once", error)
        self.assert_one_error_line(error, "interrupted", "is kept in", "out.partial",
                                   "run the same command again, with any number of ranks, to continue")
        kept = re.search(r"; ([0-9.]+) % of the work \(", error)
        self.assertIsNotNone(kept, error)
        status = self.read_status()
        self.assertEqual((status["state"], status["exit_code"]), ("interrupted", INTERRUPTED))
        self.assertIn("run the same command again", status["error"])
        self.assertEqual(samples_of(self.metrics.read_text())["halfquad_job_exit_code"], [INTERRUPTED])

        self.run_to_end(command)
        self.assert_complete()
        before = self.read_status()["done"]["source_bytes_by_earlier_runs"]
        self.assertAlmostEqual(100 * before / self.model_bytes, float(kept[1]), delta=0.06)

    def test_a_signal_is_answered_with_what_is_kept_and_how_to_go_on(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                self.check_interrupted(ranks)
                shutil.rmtree(self.out)

    def test_files_that_cannot_be_written_never_fail_the_job(self):
        self.status = self.root / "nowhere" / "status.json"
        error = self.run_to_end(self.mpirun(2, self.job("--threads", "1", "--progress", "none")))
        self.assert_complete()
        self.assertEqual(error.count("the job goes on without it"), 1, error)
        self.assertIn("--status", error)

    def test_a_full_disk_never_fails_the_job(self):
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            self.skipTest("mounting a small file system needs root and unshare")
        full = self.root / "full"
        full.mkdir()
        self.addCleanup(full.rmdir)
        self.status = full / "status.json"
        script = """mount -t tmpfs -o size=16k none "$1" || exit 99
            cat /dev/zero > "$1/filler" 2> /dev/null
            shift; exec "$@" """
        command = ["unshare", "-m", "sh", "-c", script, "sh", full, *self.job("--progress", "none")]
        ended = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=DEADLINE, check=False)
        if ended.returncode in (1, 99) and "halfquad" not in ended.stderr:
            self.skipTest("no private mount is possible here: " + ended.stderr.strip())
        self.assertEqual(ended.returncode, DONE, ended.stderr)
        self.assertEqual(ended.stderr.count("the job goes on without it"), 1, ended.stderr)
        self.assert_complete()


if __name__ == "__main__":
    test_ranks.main()
