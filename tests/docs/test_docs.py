"""Runs the commands that the documentation shows, in order, on a tiny model under the names that it uses.

usage: test_docs.py HALFQUAD MPIRUN FILE.md... [--devices] [unittest arguments]

Every block of commands (``` alone) is run by bash, and must end well. A comment on the line before a block says otherwise:

  <!-- not run: REASON -->      commands for Slurm, that install; the reason is printed
  <!-- devices -->              commands for GPUs: run with --devices alone, which runs no others
  <!-- file: NAME -->           the block is a file that the commands use
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HALFQUAD, MPIRUN, FILES = "", "", []
DEVICES = "--devices"
WITH_DEVICES = False
MODELS = ("M", "MODEL", "Llama-3.1-8B", "Llama-3.1-70B")
COMMANDS = ""
OTHERS = {"bash", "json", "python", "c++", "text"}
MARK = re.compile(r"<!-- (not run|file|devices)(?:: (.+))? -->")
DEADLINE = 120  # seconds for a block


class Block:
    def __init__(self, file: Path, line: int, language: str, mark):
        self.where, self.language, self.lines = f"{file.name}:{line}", language, []
        self.skipped = mark[2] if mark and mark[1] == "not run" else None
        self.file = mark[2] if mark and mark[1] == "file" else None
        self.for_devices = bool(mark) and mark[1] == "devices"


def blocks_of(file: Path) -> list:
    found, open_block, before = [], None, ""
    for number, line in enumerate(file.read_text().split("\n"), 1):
        if line.startswith("```"):
            if open_block is None:
                open_block = Block(file, number, line[3:].strip(), MARK.fullmatch(before.strip()))
            else:
                found.append(open_block)
                open_block = None
        elif open_block is not None:
            open_block.lines.append(line)
        before = line
    return found


def without_old_output(line: str) -> str:
    """The command, made able to run a second time: the documentation uses one OUT for many examples."""
    made = re.search(r"\bhalfquad (?:quantize|convert|importance) +(\S+) +([^\s-]\S*)", line)
    return line if not made or "--overwrite" in line else f"rm -rf {made[2]} {made[2]}.partial; {line}"


class DocsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="halfquad-docs-"))
        programs = cls.folder / "bin"
        programs.mkdir()
        (programs / "halfquad").symlink_to(HALFQUAD)
        (programs / "mpirun").symlink_to(MPIRUN)
        cls.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}", "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
            "OMPI_MCA_hwloc_base_binding_policy": "none"}
        first = cls.folder / MODELS[0]
        subprocess.run([HALFQUAD, "synth", first, "--preset", "tiny", "--progress", "none"], check=True, stdout=subprocess.DEVNULL)
        for name in MODELS[1:]:
            shutil.copytree(first, cls.folder / name)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_every_command_works(self):
        blocks = [block for file in FILES for block in blocks_of(Path(file))]
        self.assertTrue(blocks)
        for block in blocks:
            self.assertIn(block.language, {COMMANDS, *OTHERS}, f"{block.where}: what is it?")
            if block.file:
                (self.folder / block.file).write_text("\n".join(block.lines))
        ran = 0
        for block in blocks:
            if block.language != COMMANDS or block.file or block.for_devices != WITH_DEVICES:
                continue
            if block.skipped:
                print(f"{block.where}: not run: {block.skipped}", flush=True)
                continue
            with self.subTest(block.where):
                script = "\n".join(["set -euo pipefail", *map(without_old_output, block.lines)])
                done = subprocess.run(["bash", "-c", script.replace("/data/", f"{self.folder}/")], cwd=self.folder, env=self.environment,
                                      capture_output=True, text=True, timeout=DEADLINE)
                self.assertEqual(done.returncode, 0, f"{block.where}:\n{script}\n{done.stdout}{done.stderr}")
                ran += 1
        print(f"{ran} blocks of commands ran", flush=True)
        self.assertGreater(ran, 0)


if __name__ == "__main__":
    HALFQUAD, MPIRUN = sys.argv[1:3]
    FILES = [argument for argument in sys.argv[3:] if argument.endswith(".md")]
    WITH_DEVICES = DEVICES in sys.argv
    unittest.main(argv=[sys.argv[0], *(argument for argument in sys.argv[3:] if argument != DEVICES and argument not in FILES)])
