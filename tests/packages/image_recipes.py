"""The steps of cluster/Dockerfile and cluster/halfquad.def, read from these files, so that they can be done without an
engine. Knows what they use and refuses the rest."""

import dataclasses
import json
import re
import shlex


@dataclasses.dataclass
class Copy:
    sources: list
    target: str
    stage: str = ""  # empty: from the sources


@dataclasses.dataclass
class Run:
    command: str
    folder: str = "/"


@dataclasses.dataclass
class Stage:
    name: str
    base: str
    steps: list = dataclasses.field(default_factory=list)
    environment: dict = dataclasses.field(default_factory=dict)
    entry: str = ""  # a shell command that takes the user's arguments


def parse_dockerfile(text, arguments):
    """Its stages. `arguments`: as --build-arg has them."""
    stages, folder, known = [], "/", {}
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(None, 1)
        if word == "FROM":
            parts = rest.split()
            stages.append(Stage(name=parts[2] if len(parts) == 3 else "", base=parts[0]))
            folder, known = "/", {}
        elif word == "ARG":
            name, _, default = rest.partition("=")
            known[name] = arguments.get(name, default)
            stages[-1].environment[name] = known[name]
        elif word == "WORKDIR":
            folder = rest
        elif word == "ENV":
            name, _, value = rest.partition("=")
            stages[-1].environment[name] = value
        elif word == "RUN":
            stages[-1].steps.append(Run(rest, folder))
        elif word == "COPY":
            parts = rest.split()
            stage = parts.pop(0).removeprefix("--from=") if parts[0].startswith("--from=") else ""
            stages[-1].steps.append(Copy(parts[:-1], parts[-1], stage))
        elif word == "ENTRYPOINT":
            stages[-1].entry = " ".join(map(shlex.quote, json.loads(rest))) + ' "$@"'
        else:
            raise ValueError(f"{word} is no instruction that this test knows")
    return stages


def parse_definition(text, arguments):
    """Stages of an Apptainer definition."""
    stages, section, known = [], "header", {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith("Bootstrap:"):
            stages.append(Stage(name="", base=""))
            section, known = "header", {}
        if line.startswith("%"):
            section = line.strip()
            if section not in ("%arguments", "%files", "%files from build", "%post", "%environment", "%runscript",
                               "%test"):
                raise ValueError(f"{section} is no section that this test knows")
            if section == "%post":
                stages[-1].steps.append(Run("set -e\n"))
            continue
        line = re.sub(r"\{\{ *(\w+) *\}\}", lambda match: known[match.group(1)], line.strip())
        _take_line(stages[-1], section, line, known, arguments)
    return stages


def _take_line(stage, section, line, known, arguments):
    if section == "header":
        key, _, value = line.partition(":")
        if key == "Stage":
            stage.name = value.strip()
        elif key == "From":
            stage.base = value.strip()
        elif (key, value.strip()) != ("Bootstrap", "docker"):
            raise ValueError(f"{line} is no header that this test knows")
    elif section == "%arguments":
        name, _, default = line.partition("=")
        known[name] = arguments.get(name, default)
    elif section.startswith("%files"):
        source, target = line.split()
        stage.steps.append(Copy([source], target, section.removeprefix("%files").removeprefix(" from ").strip()))
    elif section in ("%post", "%test"):
        if section == "%test":
            stage.steps.append(Run(line))
        else:
            stage.steps[-1].command += line + "\n"
    elif section == "%environment":
        stage.entry += line + "\n"
    elif section == "%runscript":
        stage.entry += line + "\n"
