"""Several hosts on one machine, for tests of jobs over a network: some die, some lose their cable.

Every host has its own network, name, processes, shared memory and mounts; the rest of the file system is the machine's,
like a parallel file system that all see, but for one directory that can be private to each. The hosts and the launch
point hang on a bridge that nothing else can reach. All of it lives in one PID namespace, whose first process ends with
ours: nothing stays behind however the tests end, and no name is taken that another run could want.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HEAD = "head"
NETWORK = "10.77.0"
START_SECONDS = 20
TOOLS = ("hostname", "ip", "mount", "nsenter", "setpriv", "unshare")
# --kill-child: the first process of a PID namespace takes all others with it.
UNSHARE = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child"]

# A shell that says by which id we know it: /proc is still ours. $0: the work directory.
SAY_PID = 'read -r pid rest < /proc/self/stat; echo "$pid"'
# $shared: what lies under /dev/shm and is to be seen there still.
PRIVATE_MEMORY = """
  mount -t tmpfs -o mode=1777 none "$0/shm"
  if [ -n "$shared" ]; then
    mkdir -p "$0/shm/${shared#/dev/shm/}"
    mount --bind "$shared" "$0/shm/${shared#/dev/shm/}"
  fi
  mount --move "$0/shm" /dev/shm
"""
# $1...: the hosts, whose disks are here so that they outlive them. Ends with our end of the pipe.
HEAD_SCRIPT = f"""
  set -e
  hostname {HEAD}
  {PRIVATE_MEMORY}
  mount --bind "$0/etc_hosts" /etc/hosts
  for host; do mount -t tmpfs -o size=4g none "$0/disks/$host"; done
  {SAY_PID}
  cat > /dev/null
  exit
"""
# $1: the host; $2: where it has its disk, or nothing. The shell waits so as to reap orphans.
HOST_SCRIPT = f"""
  set -e
  hostname "$1"
  {PRIVATE_MEMORY}
  if [ -n "$2" ]; then mount --bind "$0/disks/$1" "$2"; fi
  mount -t tmpfs none "$0/disks"
  {SAY_PID}
  mount -t proc proc /proc
  sleep infinity
  exit
"""
SWITCH_SCRIPT = f"""
  ip link add br0 type bridge && ip link set br0 up && {SAY_PID}
  sleep infinity
  exit
"""
PROBE = """
  mount -t tmpfs none /dev/shm && mount -t proc proc /proc &&
  ip link add br0 type bridge && ip link add to-b type veth peer name b && ip link set to-b master br0
"""
# Says hello to each address until all have answered, if only that nobody listens there: a neighbour that could not be
# reached while the cable was out may count as lost a little longer, and Open MPI's daemons do not try twice.
GREET = """
import socket, sys, time
for address in sys.argv[1:]:
    while True:
        try:
            socket.create_connection((address, 9), timeout=1).close()
        except ConnectionRefusedError:
            break
        except OSError:
            time.sleep(0.02)
"""
# mpirun's way to another host. The environment goes along.
RSH_AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host="$1"; shift
exec nsenter -t "$(cat "${0%/*}/pids/$host")" -n -u -i -m -p -- sh -c "$*"
"""
MPI_SETTINGS = (
    "OMPI_ALLOW_RUN_AS_ROOT=1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
    "OMPI_MCA_rmaps_base_oversubscribe=1",
    "OMPI_MCA_hwloc_base_binding_policy=none",  # every host would bind its first rank to core 0
    "OMPI_MCA_mpi_yield_when_idle=1",
    # The launch point alone reaches the hosts. Its agents end once the daemons run, so that a loss is noticed by the
    # network, as it is between machines, and not by an agent that dies with its host.
    "OMPI_MCA_plm_rsh_no_tree_spawn=1",
    "OMPI_MCA_pml=ob1",
    "OMPI_MCA_btl=self,vader,tcp",
    "OMPI_MCA_btl_vader_single_copy_mechanism=none",
    "OMPI_MCA_btl_tcp_if_include=eth0",
    "OMPI_MCA_oob_tcp_if_include=eth0",
    # A lost host is noticed after 7 seconds instead of minutes.
    "OMPI_MCA_oob_tcp_keepalive_time=3",
    "OMPI_MCA_oob_tcp_keepalive_intvl=2",
    "OMPI_MCA_oob_tcp_keepalive_probes=2",
    # Private to each host, and gone with it.
    "OMPI_MCA_orte_tmpdir_base=/dev/shm",
    "TMPDIR=/dev/shm",
)


class HostsError(RuntimeError):
    """The hosts could not be made."""


def why_not(mpiexec: str) -> str:
    """Why no hosts can be emulated here, or nothing."""
    if os.geteuid() != 0:
        return "hosts are emulated by root only"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return "hosts are emulated with " + ", ".join(missing) + ", not found here"
    probe = subprocess.run([*UNSHARE, "sh", "-c", PROBE], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                           timeout=60, check=False)
    if probe.returncode != 0:  # in a chroot, or a container without the rights
        return "no hosts can be emulated here: " + (probe.stderr.strip() or "namespaces are refused")
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, timeout=60, check=False)
    said = version.stdout + version.stderr  # mpirun says "Open MPI", mpiexec "OpenRTE"
    if "Open MPI" not in said and "OpenRTE" not in said:
        return "over hosts only Open MPI's mpirun is tried"
    return ""


class Hosts:
    """Hosts h0, h1, ... and the launch point "head"; close() when done.

    shared: a directory that all see, wherever it is; private: one that is a disk of its own on every host.
    """

    def __init__(self, count: int, shared: Path, private: Path = None, mpiexec: str = "mpirun"):
        self.names = [f"h{i}" for i in range(count)]
        self._shared, self._private, self._mpiexec = Path(shared).resolve(), private, mpiexec
        self._holders = {}  # name -> our child that ends when all of the host has ended
        self._pids = {}  # name -> the process whose namespaces make the host
        self._addresses = {HEAD: f"{NETWORK}.250", **{name: f"{NETWORK}.{i + 1}" for i, name in enumerate(self.names)}}
        self._reached = set()  # hosts that run and have their cable
        self._root = None
        self._work = Path(tempfile.mkdtemp(prefix="halfquad-hosts-"))
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends and removes everything, whatever state it is in."""
        if self._root is not None:
            self._root.stdin.close()
            self._signal(HEAD)
            self._root.kill()
            self._end_of(self._root)
            self._root = None
        for holder in self._holders.values():
            holder.kill()
            self._end_of(holder)
        self._holders.clear()
        self._pids.clear()
        shutil.rmtree(self._work, ignore_errors=True)

    def run(self, host: str, command: list, **options) -> subprocess.CompletedProcess:
        """Runs a command on a host to its end."""
        options = {"capture_output": True, "text": True, "check": False, **options}
        return subprocess.run(self.on(host, command), **options)

    def on(self, host: str, command: list) -> list:
        """The command as one of this machine; it ends with the process that this starts."""
        return ["nsenter", "-t", str(self._pids[host]), "-n", "-u", "-i", "-m", "-p", "--",
                "setpriv", "--pdeathsig", "KILL", "--", "env", *MPI_SETTINGS, *map(str, command)]

    def mpirun(self, ranks_of_host: dict, command: list) -> list:
        """mpirun at the launch point, ranks in the order of the hosts."""
        places = ",".join(f"{host}:{ranks}" for host, ranks in ranks_of_host.items())
        return self.on(HEAD, [self._mpiexec, "--mca", "plm_rsh_agent", self._work / "rsh", "--host", places,
                              "-n", sum(ranks_of_host.values()), *command])

    def disk(self, host: str) -> Path:
        """Where we find what a host keeps in the private directory; it stays when the host dies."""
        return Path(f"/proc/{self._pids[HEAD]}/root{self._work}/disks/{host}")

    def kill(self, host: str):
        """All processes of a host die at once; its kernel still tells the others."""
        self._reached.discard(host)
        self._signal(host)
        self._end_of(self._holders.pop(host))
        del self._pids[host]
        (self._work / "pids" / host).unlink()

    def start(self, host: str):
        """Starts a host, again if it was killed."""
        holder = self._hold(["nsenter", "-t", str(self._pids[HEAD]), "-m", "-p", "--", *UNSHARE, "sh", "-c",
                             HOST_SCRIPT, self._work, host, self._private or ""], host)
        self._holders[host] = holder
        self._plug_in(host)
        (self._work / "pids" / host).write_text(str(self._pids[host]))

    def cut(self, host: str):
        """Pulls the cable: nothing arrives any more, and nobody is told."""
        self._reached.discard(host)
        self._link("set", f"to-{host}", "down")

    def heal(self, host: str):
        self._link("set", f"to-{host}", "up")
        self._greet(host)

    def _make(self):
        for name in ("shm", "pids", *(f"disks/{host}" for host in self.names)):
            (self._work / name).mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._addresses.items())]
        (self._work / "etc_hosts").write_text("\n".join(lines) + "\n")
        agent = self._work / "rsh"
        agent.write_text(RSH_AGENT)
        agent.chmod(0o755)
        self._root = self._hold([*UNSHARE, "sh", "-c", HEAD_SCRIPT, self._work, *self.names], HEAD, subprocess.PIPE)
        self._holders["switch"] = self._hold(["nsenter", "-t", str(self._pids[HEAD]), "-p", "--", "unshare", "--net",
                                              "sh", "-c", SWITCH_SCRIPT], "switch")
        self._plug_in(HEAD)
        for host in self.names:
            self.start(host)

    def _hold(self, command: list, name: str, stdin=subprocess.DEVNULL) -> subprocess.Popen:
        """Starts the process that holds the namespaces of a host, and waits until it says its id."""
        in_memory = self._shared.is_relative_to("/dev/shm")
        environment = {**os.environ, "shared": str(self._shared) if in_memory else ""}
        log = self._work / f"{name}.log"
        with open(log, "w", encoding="utf-8") as errors:
            holder = subprocess.Popen([*map(str, command)], stdin=stdin, stdout=subprocess.PIPE, stderr=errors,
                                      text=True, env=environment)
        with holder.stdout:
            line = holder.stdout.readline().strip()
        if not line:
            holder.kill()
            self._end_of(holder)
            raise HostsError(f"{name} does not start: {log.read_text().strip()}")
        self._pids[name] = int(line)
        return holder

    def _plug_in(self, host: str):
        """Lays a cable from a host to the switch; that of an earlier life may still be there."""
        pid, address, cable = str(self._pids[host]), self._addresses[host], f"to-{host}"
        card = f"02:00:00:00:00:{int(address.rsplit('.', 1)[1]):02x}"  # the same in every life
        self._link("del", cable, check=False)
        self._link("add", cable, "type", "veth", "peer", "name", "eth0", "address", card, "netns", pid)
        self._link("set", cable, "master", "br0", "up")
        inside = ["nsenter", "-t", pid, "-n", "--", "ip"]
        for words in (f"addr add {address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            self._tool([*inside, *words.split()])
        self._greet(host)

    def _greet(self, host: str):
        """Waits until a host reaches all others."""
        others = [self._addresses[name] for name in self._reached - {host}]
        self._tool(["nsenter", "-t", str(self._pids[host]), "-n", "--", sys.executable, "-c", GREET, *others])
        self._reached.add(host)

    def _link(self, *words: str, check: bool = True):
        self._tool(["nsenter", "-t", str(self._pids["switch"]), "-n", "--", "ip", "link", *words], check)

    @staticmethod
    def _tool(command: list, check: bool = True):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if check and ended.returncode != 0:
            raise HostsError(f"{' '.join(command)}: {ended.stderr.strip()}")

    def _signal(self, host: str):
        try:
            os.kill(self._pids[host], signal.SIGKILL)
        except (KeyError, ProcessLookupError):
            pass  # gone already

    @staticmethod
    def _end_of(process: subprocess.Popen):
        """A PID namespace's first process ends as the last one, so that all have ended now."""
        process.wait(timeout=START_SECONDS)
