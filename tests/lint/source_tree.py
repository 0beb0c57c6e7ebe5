"""What every lint test needs: the repository's files, and C++ text without comments and strings."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOMS = ("runtime", "kernels", "io", "sharding", "launcher")
CPP_SUFFIXES = (".h", ".cpp", ".cu", ".cuh")

_NOISE = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"([^()\s\\]{0,16})\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-zA-Z])\'(?:\\.|[^\'\\\n])+\'',
    re.DOTALL)


def _names_from_git(root):
    git = subprocess.run(["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                         capture_output=True)
    top = subprocess.run(["git", "-C", str(root), "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    if git.returncode != 0 or Path(top.stdout.strip()).resolve() != Path(root).resolve():
        return None
    return [Path(name) for name in git.stdout.decode().split("\0") if name]


def repository_files(root):
    """Paths relative to root of what git tracks or would add; without git, all files outside build folders."""
    names = _names_from_git(root) if shutil.which("git") else None
    if names is None:
        names = [path.relative_to(root) for path in Path(root).rglob("*") if path.is_file()]
        names = [n for n in names if not n.parts[0].startswith("build") and n.parts[0] not in (".git", ".cache")
                 and "__pycache__" not in n.parts]
    return sorted(name for name in names if (Path(root) / name).is_file())


def cpp_files(root, folders=ROOMS):
    return [n for n in repository_files(root) if n.parts[0] in folders and n.suffix in CPP_SUFFIXES]


def read(root, name):
    return (Path(root) / name).read_text(encoding="utf-8", errors="replace")


def without_comments_and_strings(text):
    """Same line numbers, so that findings point at the right place."""
    return _NOISE.sub(lambda match: ('""' if '"' in match.group()[:2] else " ") + "\n" * match.group().count("\n"), text)


def main(check):
    """Runs check(root) -> list of findings; prints them and exits 1 if there are any."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
    findings = check(root)
    for finding in findings:
        print(finding)
    sys.exit(1 if findings else 0)
