"""The documentation's tables of exit codes and messages, against the sources: a message that was reworded must not stay in them.

usage: test_messages.py SOURCES [unittest arguments]

A table under a heading "Messages, and what to do" has messages between backquotes in its column "message"; words in capitals
stand for what the program fills in.
"""

import pathlib
import re
import sys
import unittest

SOURCES = pathlib.Path()
ROOMS = ("launcher", "sharding", "io", "kernels", "runtime")
HEADING = "### Messages, and what to do"
FILLED_IN = re.compile(r"\b[A-Z]+(?=MiB)|\b[A-Z]+\b|\.\.\.")
NAMES = {"MPI", "GPU", "GGUF", "LFS", "PMI"}  # of things, not of what is filled in
# Said by others: Slurm, its plugins, Open MPI and the kernel.
FOREIGN = {
    "OPAL ERROR: Unreachable", "direct launched using srun", "Couldn't find the specified plugin name for mpi/...", "Invalid MPI type",
    "cluster configuration lacks support for cpu binding", "Requested node configuration is not available", "Invalid partition name",
    "Requested operation is presently disabled", "Out Of Memory", "oom-kill", "Node failure on NODE",
    "CANCELLED ... DUE TO NODE FAILURE", "DUE TO JOB REQUEUE", "DUE TO PREEMPTION", "DUE TO TIME LIMIT", "BeginTime", "File exists",
    "spmix_appdir_*", "Address already in use", "stepd.slurm.pmix.*"}


def string_literals(text):
    """Of C++: neighbours joined, what is filled in as {}."""
    joined = re.sub(r'"\s*\n?\s*"', "", text)
    return "\n".join(match.replace('\\"', '"') for match in re.findall(r'"((?:[^"\\\n]|\\.)*)"', joined))


def said_by_sources():
    files = [path for room in ROOMS for path in (SOURCES / room).rglob("*") if path.suffix in (".cpp", ".h")]
    scripts = [SOURCES / "cluster" / "slurm" / "job.sh", *(SOURCES / "cluster" / "slurm").glob("*.sbatch")]
    shell = "\n".join(re.sub(r"' \\\n *'", " ", path.read_text()) for path in scripts)
    return "\n".join([*(string_literals(path.read_text()) for path in files), shell])


def rows(file):
    """[{column: cell}] of the tables below the heading."""
    section = (SOURCES / file).read_text().split(HEADING + "\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.split("\n") if line.startswith("|")]
    names = [name.strip() for name in lines[0].strip("|").split("|")]
    return [dict(zip(names, (cell.strip() for cell in line.strip("|").split("|")))) for line in lines[2:]]


def parts(message):
    """What a message says in its own words."""
    fragments, last = [], 0
    for word in FILLED_IN.finditer(message):
        if word.group() in NAMES:
            continue
        fragments.append(message[last:word.start()])
        last = word.end()
    return [part.strip() for part in [*fragments, message[last:]] if len(part.strip()) > 2]


class MessagesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.said = said_by_sources()

    def check_said(self, message, where):
        found = parts(message)
        self.assertTrue(found, f"{where}: {message!r} has no words of its own")
        for part in found:
            self.assertTrue(part in self.said, f"{where}: nothing says {part!r} (of {message!r})")

    def test_every_message_of_the_readme_is_said(self):
        for row in rows("README.md"):
            for message in re.findall(r"`([^`]+)`", row["message"]):
                with self.subTest(message):
                    self.check_said(message, "README.md")

    def test_every_message_of_the_cluster_readme_is_said_here_or_elsewhere(self):
        for row in rows("cluster/README.md"):
            for message in set(re.findall(r"`([^`]+)`", row["message"])) - FOREIGN:
                with self.subTest(message):
                    self.check_said(message, "cluster/README.md")

    def test_exit_codes_are_those_of_the_program(self):
        header = (SOURCES / "launcher" / "exit_code.h").read_text()
        codes = set(map(int, re.findall(r"inline constexpr int kExit\w+ = (\d+);", header)))
        readme = (SOURCES / "README.md").read_text().split("### Exit codes\n", 1)[1].split("\n#", 1)[0]
        listed = list(map(int, re.findall(r"^\| (\d+) \|", readme, re.MULTILINE)))
        self.assertEqual(sorted(listed), sorted(codes))

    def test_every_exit_code_of_an_error_has_a_message(self):
        header = (SOURCES / "launcher" / "exit_code.h").read_text()
        errors = set(re.findall(r"inline constexpr int kExit\w+ = (\d+);", header)) - {"0"}
        told = {code for row in rows("README.md") for code in row["code"].replace(" ", "").split(",")}
        self.assertEqual(errors - told, set())
        self.assertEqual(told - errors, {"warning"})


if __name__ == "__main__":
    SOURCES = pathlib.Path(sys.argv.pop(1))
    unittest.main()
