"""Records the progress of a job as it is logged.

Usage: record_progress.py FILE COMMAND...

Seconds are those of computing, of all the job's processes together and divided by the cores of the machine, so that what
else the machine does makes no difference.

COMMAND is a job of halfquad, or mpirun with one; its options for messages are added. FILE gets [seconds, source bytes
done, weights done] of every line, a JSON array a line, after one of the totals. tests/golden/progress/ holds such files; the unit test of
the estimate reads them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def cpu_seconds(leader: int) -> float:
    """Of the process `leader` and all that it started, those that have ended and were waited for included."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended
        if int(fields[3]) == leader:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)


def main():
    path, command = sys.argv[1], sys.argv[2:]
    command += ["--progress", "plain", "--progress-interval", "0.5", "--log-format", "json", "--log-level", "off"]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    lines = []
    for line in job.stderr:
        if line.startswith("{"):
            lines.append({**json.loads(line), "seconds": cpu_seconds(job.pid)})
    if job.wait() != 0:
        sys.exit(f"the job ended with exit code {job.returncode}")
    events = [line for line in lines if line.get("event") == "progress" and line["phase"] in ("quantizing", "converting")]
    end = events[-1]["seconds"]
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps([0, events[-1]["source_bytes"], events[-1]["weights"]]) + "\n")
        for event in events:
            file.write(json.dumps([event["seconds"], event["source_bytes_done"], event["weights_done"]]) + "\n")
    print(f"{len(events)} lines of a job of {end:.1f} s")


if __name__ == "__main__":
    main()
