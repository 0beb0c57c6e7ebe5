"""All recipes name what cluster/dependencies.txt names, and are written as their readers want them.

usage: test_recipes.py SOURCES
"""

import ast
import pathlib
import re
import subprocess
import sys
import unittest

import image_recipes

SOURCES = None
BUILD_SECTIONS = ("core", "mpi", "hdf5", "blas")
SPACK_SECTIONS = BUILD_SECTIONS + ("cuda",)
SPACK_ONLY = {"c"}  # g++ and gcc are one package of Debian


def sections():
    """{section: its lines} of the list."""
    found, lines = {}, None
    for line in (SOURCES / "cluster" / "dependencies.txt").read_text().splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line.strip() and not line.startswith("#"):
            lines.append(line)
    return found


def installed_by(command):
    """Sections that the calls of install-deps in a command install; those of CUDA apart."""
    found = set()
    for how, names in re.findall(r"install-deps --(with|only) ([a-z0-9,-]+)", command):
        found |= set(names.split(",")) | ({"core"} if how == "with" else set())
    return found


class ListTest(unittest.TestCase):
    def test_every_line_says_why(self):
        for name, lines in sections().items():
            self.assertTrue(lines, f"[{name}] is empty")
            for line in lines:
                self.assertRegex(line, r"^[a-z0-9][a-z0-9.+-]+ +\S.*$", f"[{name}]")

    def test_install_deps_prints_its_sections(self):
        listed = subprocess.run([SOURCES / "cluster" / "install-deps", "--only", "runtime", "--list"], text=True,
                                capture_output=True, check=True).stdout.split()
        self.assertEqual(listed, [line.split()[0] for line in sections()["runtime"]])


class ImageTest(unittest.TestCase):
    """The images install what the list names by install-deps, and nothing by a way of their own."""

    def check(self, stages, variant):
        build, final = stages
        for stage, wanted in ((build, set(BUILD_SECTIONS)), (final, {"runtime"})):
            commands = "\n".join(step.command for step in stage.steps if isinstance(step, image_recipes.Run))
            self.assertNotRegex(commands, r"\bapt(-get)? install\b|\bpip install\b")
            self.assertEqual(installed_by(commands) - {"cuda", "cuda-runtime"}, wanted)
            self.assertIn("cuda" if stage is build else "cuda-runtime", installed_by(commands))
            for command in commands.split("\n"):
                subprocess.run(["sh", "-n", "-c", command], check=True)
            self.assertTrue(f'"{variant}" = cuda' in commands or '"$VARIANT" = cuda' in commands)
        self.assertTrue(final.entry)

    def test_dockerfile(self):
        text = (SOURCES / "cluster" / "Dockerfile").read_text()
        for variant in ("cpu", "cuda"):
            stages = image_recipes.parse_dockerfile(text, {"VARIANT": variant})
            self.assertEqual([stage.environment["VARIANT"] for stage in stages], [variant, variant])
            self.check(stages, variant)

    def test_definition(self):
        text = (SOURCES / "cluster" / "halfquad.def").read_text()
        for variant in ("cpu", "cuda"):
            self.check(image_recipes.parse_definition(text, {"VARIANT": variant}), variant)

    def test_both_do_the_same(self):
        def commands(stages):
            return [[line for step in stage.steps if isinstance(step, image_recipes.Run)
                     for line in step.command.replace('"$VARIANT"', '"cpu"').split("\n")
                     if line and line != "set -e" and not line.startswith("cd ") and "--version" not in line]
                    for stage in stages]

        docker = image_recipes.parse_dockerfile((SOURCES / "cluster" / "Dockerfile").read_text(), {})
        apptainer = image_recipes.parse_definition((SOURCES / "cluster" / "halfquad.def").read_text(), {})
        self.assertEqual(commands(docker), commands(apptainer))


class SpackTest(unittest.TestCase):
    def setUp(self):
        text = (SOURCES / "cluster" / "spack" / "packages" / "halfquad" / "package.py").read_text()
        self.calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]

    def arguments(self, function):
        return [call.args[0].value for call in self.calls
                if isinstance(call.func, ast.Name) and call.func.id == function]

    def test_depends_on_what_the_list_names(self):
        named = {name for section in SPACK_SECTIONS for line in sections()[section]
                 for name in re.findall(r"\(Spack: ([a-z0-9-]+)\)", line)}
        depended = {re.match(r"[a-z0-9-]+", spec).group() for spec in self.arguments("depends_on")}
        self.assertEqual(depended - SPACK_ONLY, named)
        for section in BUILD_SECTIONS:
            for line in sections()[section]:
                if not line.startswith("openmpi-bin") and not line.startswith("iproute2"):
                    self.assertIn("(Spack: ", line, "a dependency that Spack is not told of")

    def test_variants_are_options_of_the_build(self):
        text = (SOURCES / "CMakeLists.txt").read_text()
        variants = set(self.arguments("variant"))
        self.assertEqual({name.lower() for name in re.findall(r"^ *halfquad_optional\((\w+)", text, re.MULTILINE)},
                         variants)


class PackageTest(unittest.TestCase):
    def test_cpack_lets_the_linker_say_what_is_needed(self):
        text = (SOURCES / "cluster" / "package.cmake").read_text()
        self.assertIn("set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)", text)
        recommended = set(re.findall(r"list\(APPEND recommended ([a-z0-9-]+)\)", text))
        named = {line.split()[0].removesuffix("-pthread") for line in sections()["runtime"]}
        self.assertLessEqual(recommended, named)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    SOURCES = pathlib.Path(sys.argv.pop()).resolve()
    unittest.main(verbosity=2)
