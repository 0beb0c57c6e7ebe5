"""Fresh roots of Debian 12, and commands in them. Wants to be root; what is mounted is gone with each command."""

import os
import pathlib
import shutil
import subprocess
import sys

SKIPPED = 77
SUITE = "bookworm"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def run(command, **options):
    """Output of a command that has to succeed."""
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-6000:]}")
    return done.stdout


def require_means():
    """Skips the tests where they cannot be done."""
    if os.geteuid() != 0:
        skip("fresh roots need root (debootstrap, chroot)")
    for tool in ("debootstrap", "unshare", "chroot"):
        if shutil.which(tool) is None:
            skip(f"no {tool} here; cluster/install-deps --only packages brings it")


def base_root(work):
    """The least of a Debian, made once and kept in `work`."""
    base = work / f"{SUITE}-base"
    if base.exists():
        return base
    part = work / f"{SUITE}-base.part"
    shutil.rmtree(part, ignore_errors=True)
    fetched = work / "debs"  # what was fetched stays, should the rest fail
    fetched.mkdir(exist_ok=True)
    done = subprocess.run(["debootstrap", "--variant=minbase", f"--cache-dir={fetched}", SUITE, str(part)], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines() or ["no output"]
        shutil.rmtree(part, ignore_errors=True)
        skip(f"debootstrap could not make a root (no network?): {lines[-1]}")
    part.rename(base)
    return base


class FreshRoot:
    """A copy of the base root that is removed in the end."""

    def __init__(self, work, name, binds=None):
        self.path = pathlib.Path(work) / f"root-{name}"
        self.binds = binds or {}  # folder in the root: folder outside
        shutil.rmtree(self.path, ignore_errors=True)
        run(["cp", "-a", "--reflink=auto", base_root(work), self.path])
        shutil.copy("/etc/resolv.conf", self.path / "etc" / "resolv.conf")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def run(self, command, folder="/", environment=None, network=True):
        """Output of a command in the root, which has to succeed there. Nothing of the caller's environment is there."""
        mounts = [f'mount -t proc proc "{self.path}/proc"']
        for inside, outside in self.binds.items():
            (self.path / inside.lstrip("/")).mkdir(parents=True, exist_ok=True)
            mounts.append(f'mount --bind "{outside}" "{self.path}{inside}"')
        script = " && ".join([*mounts, f'exec chroot "{self.path}" "$@"'])
        variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
                     "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", **(environment or {})}
        inner = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", folder, *command]
        apart = ["--mount", "--pid", *([] if network else ["--net"])]
        return run(["nice", "-n", "5", "unshare", *apart, "--fork", "--kill-child", "sh", "-c", script, "sh", *inner], env=variables)

    def install(self, *packages):
        self.run(["apt-get", "update"])
        return self.run(["apt-get", "install", "-y", "--no-install-recommends", *packages])
