"""What the compiler made of the kernels: no spills, no more registers than their launch bounds leave, and in the PTX no
fused, flushed or approximate instruction, for every architecture.

Usage: check_kernels.py NVCC REPOSITORY ARCHITECTURES (80,90,100)
"""

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLAGS = ["-O3", "-std=c++17", "-fmad=false"]
REGISTERS = 65536
FORBIDDEN = re.compile(r"^\s*(?:@\S+\s+)?((?:fma\.\S*)|(?:\S*\.ftz\b\S*)|(?:\S*\.approx\b\S*)|(?:div\.full\S*)|(?:mad\.\S*f(?:32|64)))", re.MULTILINE)
ENTRY = re.compile(r"\.entry\s+(\w+)\((.*?)\n\{", re.DOTALL)
USAGE = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                   r"(\d+) bytes spill loads.*?Used (\d+) registers", re.DOTALL)


def compile_one(nvcc, root, source, architecture, folder):
    """(PTX, what ptxas says)."""
    ptx = Path(folder) / f"{source.stem}.{architecture}.ptx"
    subprocess.run([nvcc, *FLAGS, f"-I{root}", f"-arch=compute_{architecture}", "-ptx", str(source), "-o", str(ptx)], check=True)
    done = subprocess.run([nvcc, "-Xptxas", "-v", f"-arch=sm_{architecture}", "-cubin", str(ptx), "-o", str(ptx) + ".cubin"],
                          check=True, capture_output=True, text=True)
    return ptx.read_text(), done.stdout + done.stderr


def check_ptx(where, ptx):
    return [f"{where}: {match.group(1)}" for match in FORBIDDEN.finditer(ptx)]


def bounds_of(ptx):
    """Registers that each kernel's launch bounds leave to a thread."""
    bounds = {}
    for name, head in ENTRY.findall(ptx):
        threads = re.search(r"\.maxntid (\d+)", head)
        blocks = re.search(r"\.minnctapersm (\d+)", head)
        if threads:
            most = REGISTERS // (int(threads.group(1)) * (int(blocks.group(1)) if blocks else 1))
            bounds[name] = min(255, most // 8 * 8)
    return bounds


def check_usage(where, bounds, said):
    findings, kernels = [], USAGE.findall(said)
    if {name for name, *_ in kernels} != set(bounds):
        findings.append(f"{where}: launch bounds and compiled kernels are not the same")
    for name, _, stack, stores, loads, registers in kernels:
        if int(stack) or int(stores) or int(loads):
            findings.append(f"{where}: {name} spills {stores} and {loads} bytes, stack {stack}")
        if int(registers) > bounds.get(name, 0):
            findings.append(f"{where}: {name} has {registers} registers, its launch bounds leave {bounds.get(name, 0)}")
    return findings, kernels


def self_test():
    """The patterns find what they are for."""
    bad = ["fma.rn.f32 \t%f1, %f2;", "\t@%p1 fma.rn.f64 %f1;", "add.ftz.f32 %f1;", "  rcp.approx.f32 %f1;", "div.full.f32 %f1;", "mad.rn.f32 %f1;"]
    good = ["mad.lo.s32 %r1;", "div.rn.f32 %f1;", "add.rn.f32 %f1, %fma;", "// fma.rn.f32"]
    assert all(check_ptx("", line) for line in bad), bad
    assert not any(check_ptx("", line) for line in good), good
    bounds = bounds_of(".entry k(\n)\n.maxntid 128, 1, 1\n.minnctapersm 4\n{\n}\n")
    assert bounds == {"k": 128}, bounds
    said = "Compiling entry function 'k' for 'sm_80'\n 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n Used 128 registers"
    assert check_usage("", bounds, said)[0] == []
    for old, new in (("128 reg", "129 reg"), ("0 bytes spill stores", "4 bytes spill stores"), ("'k'", "'other'")):
        assert check_usage("", bounds, said.replace(old, new))[0], new


def main():
    nvcc, root, architectures = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(",")
    self_test()
    sources = sorted((root / "kernels/cuda").glob("*.cu"))
    findings = [] if sources else ["no kernels found"]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        jobs = [(source, arch) for source in sources for arch in architectures]
        for (source, arch), (ptx, said) in zip(jobs, pool.map(lambda job: compile_one(nvcc, root, *job, folder), jobs)):
            where = f"{source.name} for sm_{arch}"
            used, kernels = check_usage(where, bounds_of(ptx), said)
            findings += check_ptx(where, ptx) + used
            print(f"{where}: {len(kernels)} kernels, at most {max((int(k[5]) for k in kernels), default=0)} registers")
    print("\n".join(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
