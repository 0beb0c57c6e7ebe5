"""clang-format 14, where there is one; exit status 77 (skipped) where there is none: other versions format otherwise."""

import shutil
import subprocess
import sys

import source_tree


def find_clang_format():
    for candidate in ("clang-format-14", "clang-format"):
        path = shutil.which(candidate)
        if path and " 14." in subprocess.run([path, "--version"], capture_output=True, text=True).stdout:
            return path
    return None


def check(root):
    tool = find_clang_format()
    if tool is None:
        print("no clang-format 14 here: the format was not checked")
        sys.exit(77)
    names = source_tree.cpp_files(root, source_tree.ROOMS + ("tests",))
    run = subprocess.run([tool, "--dry-run", "--Werror", *map(str, names)], cwd=root, capture_output=True, text=True)
    wrong = sorted({line.split(":")[0] for line in run.stderr.split("\n") if "[-Wclang-format-violations]" in line})
    if run.returncode and not wrong:
        return [run.stderr]
    return [f"{name}: not formatted; run clang-format -i {name}" for name in wrong]


if __name__ == "__main__":
    source_tree.main(check)
