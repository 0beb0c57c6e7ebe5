"""Debian packages and container images, made and used in fresh roots of Debian 12.

usage: test_packages.py SOURCES BUILD WORK [DebTest | OfflineTest | DockerTest | ApptainerTest]

SOURCES is the repository, BUILD a finished build of it, WORK a folder that keeps the base root and compiled objects for the
next time. The images' steps are those of cluster/Dockerfile and cluster/halfquad.def, done one after the other in roots of
their own, as an engine would do them. Needs root and network; skipped without.
"""

import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

import fresh_root
import image_recipes

SOURCES = BUILD = WORK = None
ALWAYS_THERE = {"libc6", "libgcc-s1"}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed(section):
    return set(fresh_root.run([SOURCES / "cluster" / "install-deps", "--only", section, "--list"]).split())


def reference_output():
    """Digest of what the program of this build makes of a tiny model."""
    place = WORK / "reference"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    program = BUILD / "launcher" / "halfquad"
    fresh_root.run([program, "synth", place / "model", "--progress", "none"])
    fresh_root.run([program, "quantize", place / "model", place / "out", "--progress", "none"])
    return digest(place / "out" / "model.safetensors")


class PackageTest(unittest.TestCase):
    maxDiff = None

    def check_program(self, root, halfquad):
        """Quantizes a tiny model in the root; the bytes have to be those of this machine. `halfquad`: runs it there."""
        halfquad("synth", "/model", "--progress", "none")
        halfquad("quantize", "/model", "/out", "--progress", "none")
        self.assertRegex(halfquad("verify", "/out", "--source", "/model"), r"(?m)^OK$")
        self.assertEqual(digest(root.path / "out" / "model.safetensors"), reference_output())


class MadePackagesTest(PackageTest):
    def setUp(self):
        self.folder = WORK / "packages"
        shutil.rmtree(self.folder, ignore_errors=True)
        fresh_root.run(["cpack", "-G", "DEB", "--config", BUILD / "CPackConfig.cmake", "-B", self.folder])
        self.packages = {path.name.split("_")[0]: path for path in self.folder.glob("*.deb")}


class DebTest(MadePackagesTest):
    def field(self, package, name):
        return fresh_root.run(["dpkg-deb", "--field", self.packages[package], name]).strip()

    def files(self, package):
        return fresh_root.run(["dpkg-deb", "--contents", self.packages[package]])

    def test_packages(self):
        with fresh_root.FreshRoot(WORK, "deb") as root:
            for package in ("halfquad", "halfquad-dev"):
                shutil.copy(self.packages[package], root.path / "tmp")
            root.install(*(f"/tmp/{self.packages[package].name}" for package in ("halfquad", "halfquad-dev")))
            self.check_program(root, lambda *arguments: root.run(["halfquad", *arguments]))
            root.run(["test", "-e", "/usr/share/man/man1/halfquad.1"])
            root.run(["test", "-e", "/usr/include/halfquad/quantize.h"])
            self.check_lmod(root)
            root.run(["apt-get", "purge", "-y", "halfquad"])
            left = [path for path in root.path.glob("usr/**/*halfquad*")]
            self.assertEqual(left, [], "a purge leaves files behind")

    def check_lmod(self, root):
        """environment-modules, which Debian lets nobody have beside Lmod, runs the module file in install_consumer."""
        root.install("lmod")
        load = 'eval "$(/usr/share/lmod/lmod/libexec/lmod sh load halfquad)" && echo "root $HALFQUAD_ROOT" && command -v halfquad'
        told = root.run(["sh", "-c", load], environment={"MODULEPATH": "/usr/share/modulefiles"})
        self.assertIn("root /usr\n/usr/bin/halfquad\n", told)

    def test_depends_on_what_the_list_names(self):
        found = {re.split(r"[ (:]", name.strip())[0] for name in self.field("halfquad", "Depends").split(",")}
        # A parallel HDF5 where there was one to build with; the name that ties spdlog to its fmt.
        found = {name.replace("libhdf5-openmpi-", "libhdf5-").removesuffix("-fmt9") for name in found} - ALWAYS_THERE
        recommended = {name.strip() for name in self.field("halfquad", "Recommends").split(",")}
        named = {name.removesuffix("-pthread") for name in listed("runtime")}
        self.assertEqual(found | recommended, named)
        self.assertRegex(self.field("halfquad-dev", "Depends"), r"^halfquad \(= [0-9.]+\)$")

    def test_cuda_package_holds_the_module(self):
        if "HALFQUAD_WITH_CUDA:BOOL=ON" not in (BUILD / "CMakeCache.txt").read_text():
            self.skipTest("this build has no CUDA")
        self.assertIn("libhalfquad_cuda.so", self.files("halfquad-cuda"))
        self.assertNotIn("libhalfquad_cuda.so", self.files("halfquad"))
        self.assertIn("halfquad (= ", self.field("halfquad-cuda", "Depends"))
        self.assertIn("cuda-cudart-", self.field("halfquad-cuda", "Depends"))


class OfflineTest(MadePackagesTest):
    """The commands of cluster/README.md for nodes without a network: fetched in one fresh root, installed in another that has none."""

    def commands(self):
        """Those of the section's blocks, in order."""
        section = (SOURCES / "cluster" / "README.md").read_text().split("## Nodes without a network\n", 1)[1].split("\n## ", 1)[0]
        fetching, using = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        return fetching, using

    def root(self, name):
        root = fresh_root.FreshRoot(WORK, name)
        (root.path / "etc/apt/apt.conf.d/90yes").write_text('APT::Get::Assume-Yes "true";\n')
        (root.path / "work").mkdir()
        return root

    def test_a_node_without_a_network(self):
        fetching, using = self.commands()
        with self.root("fetching") as root:
            made = root.path / "work/build/package/packages"
            made.mkdir(parents=True)
            shutil.copy(self.packages["halfquad"], made)
            root.run(["apt-get", "update"])
            root.run(["sh", "-ec", fetching], folder="/work")
            carried = WORK / "carried"
            shutil.rmtree(carried, ignore_errors=True)
            shutil.copytree(root.path / "work/debs", carried)
        place = WORK / "offline-model"
        shutil.rmtree(place, ignore_errors=True)
        fresh_root.run([BUILD / "launcher" / "halfquad", "synth", place, "--progress", "none"])
        with self.root("offline") as root:
            shutil.copytree(carried, root.path / "work/debs")
            shutil.copytree(place, root.path / "work/MODEL")
            with self.assertRaises(AssertionError, msg="there is a network"):
                root.run(["apt-get", "update", "-o", "APT::Update::Error-Mode=any"], network=False)
            self.assertRegex(root.run(["sh", "-ec", using], folder="/work", network=False), r"(?m)^OK$")
            self.assertEqual(digest(root.path / "work/OUT/model.safetensors"), reference_output())


class ImageTest(PackageTest):
    """Does the stages of a recipe. Both recipes compile the same, so that ccache keeps the objects for the other one."""

    def copy(self, step, root, roots):
        origin = roots[step.stage].path if step.stage else SOURCES
        for source in step.sources:
            target = root.path / step.target.lstrip("/")
            if source == ".":
                target.mkdir(parents=True)
                names = fresh_root.run(["git", "-C", SOURCES, "ls-files", "-z", "--cached", "--others",
                                        "--exclude-standard"])
                archive = subprocess.Popen(["tar", "-C", SOURCES, "--null", "--files-from=-", "-cf", "-"],
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                extract = subprocess.Popen(["tar", "-C", target, "-xf", "-"], stdin=archive.stdout)
                archive.stdout.close()  # here; the extraction has it
                archive.stdin.write(names.encode())
                archive.stdin.close()
                self.assertEqual((archive.wait(), extract.wait()), (0, 0), "the sources could not be copied")
                continue
            path = origin / source.lstrip("/")
            inside = target / path.name if step.target.endswith("/") else target
            inside.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, inside, symlinks=True)
            else:
                shutil.copy(path, inside)

    def do_stage(self, stage, root, roots):
        self.assertEqual(stage.base, "debian:bookworm-slim", "another base than the root that is made here")
        environment = dict(stage.environment)
        if not roots:  # the one that compiles
            root.install("ccache")
            environment |= {"CMAKE_CXX_COMPILER_LAUNCHER": "ccache", "CCACHE_DIR": "/ccache"}
        for step in stage.steps:
            if isinstance(step, image_recipes.Copy):
                self.copy(step, root, roots)
            else:
                root.run(["sh", "-c", step.command], folder=step.folder, environment=environment)

    def check_image(self, stages):
        (WORK / "ccache").mkdir(exist_ok=True)
        roots = {}
        try:
            for stage in stages:
                binds = {} if roots else {"/ccache": WORK / "ccache"}
                root = fresh_root.FreshRoot(WORK, f"{type(self).__name__}-{len(roots)}", binds)
                name = stage.name or "final"
                self.do_stage(stage, root, roots)
                roots[name] = root
            last = stages[-1]
            self.assertFalse((root.path / "usr/bin/g++").exists(), "the last stage is to be without a compiler")
            self.check_program(root, lambda *arguments: root.run(["sh", "-c", last.entry, "sh", *arguments],
                                                                 environment=last.environment))
        finally:
            for root in roots.values():
                shutil.rmtree(root.path, ignore_errors=True)


class DockerTest(ImageTest):
    def test_image(self):
        text = (SOURCES / "cluster" / "Dockerfile").read_text()
        self.check_image(image_recipes.parse_dockerfile(text, {}))


class ApptainerTest(ImageTest):
    def test_image(self):
        text = (SOURCES / "cluster" / "halfquad.def").read_text()
        self.check_image(image_recipes.parse_definition(text, {}))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    SOURCES, BUILD, WORK = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
    WORK.mkdir(parents=True, exist_ok=True)
    fresh_root.require_means()
    fresh_root.base_root(WORK)
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)
