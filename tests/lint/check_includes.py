"""Rooms and fences: an include may only point down, and each outside interface has one place."""

import re

import source_tree

BELOW = {
    "runtime": {"runtime"},
    "kernels": {"kernels", "runtime"},
    "io": {"io", "runtime"},
    "sharding": {"sharding", "kernels", "io", "runtime"},
    "launcher": {"launcher", "sharding", "kernels", "io", "runtime"},
}

POSIX_HEADERS = r"(fcntl|dirent|ftw|aio|libaio|liburing|sys/(stat|statfs|statvfs|vfs|uio|file|sendfile|mount))\.h"
# (what is fenced, header pattern, paths that may include it)
FENCES = (
    ("MPI", r"mpi\.h|mpi/.*", r"runtime/communicator[^/]*"),
    ("CUDA", r"(cuda|cublas|nccl|cufile|nvml|nvtx|thrust/|cub/|cooperative_groups|driver_types).*", r"[^/]+/cuda/.*"),
    ("Highway", r"hwy/.*", r"kernels/simd/.*"),
    ("BLAS", r"(cblas|f77blas|lapacke?|mkl|blis/).*", r"kernels/blas_[^/]*"),
    ("HDF5", r"(hdf5|H5\w*)\.h(pp)?", r"io/hdf5[^/]*"),
    ("POSIX files", POSIX_HEADERS, r"io/posix_[^/]*"),
    ("std file streams", r"fstream", r"io/posix_[^/]*|runtime/.*|launcher/.*"),
    ("Oniguruma and utf8proc", r"onig\w*\.h|utf8proc\.h", r"sharding/tokenizer/.*"),
    ("command line", r"CLI/.*", r"launcher/.*"),
)
# unistd.h also holds sysconf and isatty, so its file calls are found by name.
POSIX_CALLS = re.compile(r"(?<![\w>])::\s*(open|openat|creat|close|read|write|pread|pwrite|preadv2?|pwritev2?|lseek|fsync|"
                         r"fdatasync|ftruncate|truncate|unlink|unlinkat|rename|renameat2?|mkdir|rmdir|link|symlink|"
                         r"readlink|fallocate|posix_fallocate|posix_fadvise|flock|statvfs|fstat|stat|lstat)\s*\(")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.MULTILINE)


def includes_of(text):
    """(line, bracket, name) of every include, comments aside."""
    text = re.sub(r"/\*.*?\*/", lambda match: "\n" * match.group().count("\n"), text, flags=re.DOTALL)
    for match in INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1), match.group(2)


def _check_ours(name, line, target):
    room = name.parts[0]
    head = target.split("/")[0]
    if head not in BELOW:
        return [f'{name}:{line}: "{target}" must be written from the repository root, as in "runtime/error.h"']
    if head not in BELOW[room]:
        return [f"{name}:{line}: {room} must not include {target}: an include may only point down"]
    if "/cuda/" in target and "/cuda/" not in name.as_posix():
        return [f"{name}:{line}: {target} may only be seen in */cuda/"]
    return []


def _check_theirs(name, line, target):
    return [f"{name}:{line}: <{target}> ({what}) is only allowed in {where}" for what, header, where in FENCES
            if re.fullmatch(header, target) and not re.fullmatch(where, name.as_posix())]


def _check_file(root, name):
    text = source_tree.read(root, name)
    findings = []
    for line, bracket, target in includes_of(text):
        findings += _check_ours(name, line, target) if bracket == '"' else _check_theirs(name, line, target)
    if not re.fullmatch(r"io/posix_.*", name.as_posix()):
        code = source_tree.without_comments_and_strings(text)
        for match in POSIX_CALLS.finditer(code):
            line = code.count("\n", 0, match.start()) + 1
            findings.append(f"{name}:{line}: ::{match.group(1)} is a file call; only io/posix_* may make it")
    return findings


def _cycles(root, names):
    """Include cycles, which #pragma once hides from the compiler."""
    graph = {name.as_posix(): [t for _, bracket, t in includes_of(source_tree.read(root, name)) if bracket == '"']
             for name in names if name.suffix == ".h"}
    done, findings = set(), []

    def visit(name, path):
        if name in path:
            findings.append("include cycle: " + " -> ".join(path[path.index(name):] + [name]))
        elif name in graph and name not in done:
            for target in graph[name]:
                visit(target, path + [name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return findings


def check(root):
    names = source_tree.cpp_files(root)
    findings = [] if names else ["no source file found; is this the repository root?"]
    for name in names:
        findings += _check_file(root, name)
    return findings + _cycles(root, names)


if __name__ == "__main__":
    source_tree.main(check)
