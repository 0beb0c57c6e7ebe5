"""The lint tests find what they are there to find: each is given one good and several bad trees."""

import tempfile
import unittest
from pathlib import Path

import check_includes
import check_layout
import check_sizes


def findings(check, files):
    with tempfile.TemporaryDirectory() as root:
        for name, text in files.items():
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return check(root)


class Includes(unittest.TestCase):
    def expect(self, name, text, *words):
        found = findings(check_includes.check, {name: text})
        self.assertEqual(len(found), 1, found)
        for word in (name, *words):
            self.assertIn(word, found[0])

    def test_downward_includes_and_fenced_headers_in_their_place_pass(self):
        self.assertEqual(findings(check_includes.check, {
            "runtime/error.h": "#include <string>\n",
            "runtime/communicator_mpi.cpp": "#include <mpi.h>\n",
            "runtime/cuda/stream.cpp": '#include <cuda_runtime_api.h>\n#include "runtime/cuda/stream.h"\n',
            "io/posix_file.cpp": '#include <fcntl.h>\n#include "runtime/error.h"\nint f() { return ::open("x", 0); }\n',
            "io/hdf5_feature.cpp": "#include <H5public.h>\n",
            "kernels/blas_gemm.cpp": "#include <cblas.h>\n",
            "kernels/simd/solver.cpp": '#include <hwy/highway.h>\n#include "kernels/solver.h"\n',
            "sharding/run.cpp": '#include "io/json.h"\n#include "kernels/pack.h"\n',
            "launcher/main.cpp": '#include <unistd.h>\n#include <CLI/CLI.hpp>\n#include "sharding/run.h"\n',
        }), [])

    def test_upward_include_fails(self):
        self.expect("runtime/error.cpp", '#include "io/json.h"\n', "only point down")

    def test_kernels_and_io_do_not_know_each_other(self):
        self.expect("kernels/pack.cpp", '#include "io/json.h"\n', "only point down")
        self.expect("io/json.cpp", '\n  #  include "kernels/pack.h"\n', ":2:", "only point down")

    def test_product_does_not_include_tests(self):
        self.expect("io/json.cpp", '#include "tests/support/faulty.h"\n', "repository root")

    def test_relative_include_fails(self):
        self.expect("io/json.cpp", '#include "json.h"\n', "repository root")

    def test_headers_outside_their_fence_fail(self):
        for header in ("mpi.h", "cuda_runtime.h", "nccl.h", "cublas_v2.h", "cblas.h", "hwy/highway.h", "hdf5.h", "H5public.h",
                       "fcntl.h", "sys/stat.h", "dirent.h", "fstream", "CLI/CLI.hpp"):
            self.expect("sharding/run.cpp", f"#include <{header}>\n", header, "only allowed in")

    def test_cuda_header_of_ours_outside_cuda_fails(self):
        self.expect("sharding/run.cpp", '#include "runtime/cuda/stream.h"\n', "*/cuda/")

    def test_file_call_outside_posix_files_fails(self):
        self.expect("sharding/run.cpp", "#include <unistd.h>\nvoid f() { ::fsync(3); }\n", ":2:", "::fsync")

    def test_comments_and_qualified_names_are_no_file_calls(self):
        self.assertEqual(findings(check_includes.check, {
            "sharding/run.cpp": '// ::open(x)\nvoid f() { Reader::open(1); const char* s = "::open("; }\n/*\n#include <mpi.h>\n*/\n',
        }), [])

    def test_include_cycle_fails(self):
        found = findings(check_includes.check, {"io/a.h": '#include "io/b.h"\n', "io/b.h": '#include "io/a.h"\n'})
        self.assertEqual(len(found), 1)
        self.assertIn("io/a.h -> io/b.h -> io/a.h", found[0])

    def test_empty_tree_fails(self):
        self.assertEqual(len(findings(check_includes.check, {})), 1)


class Sizes(unittest.TestCase):
    def test_files_up_to_their_limit_pass_and_longer_ones_fail(self):
        for name, limit in (("io/a.h", 300), ("io/a.cpp", 500), ("tests/unit/io/test_a.cpp", 600)):
            self.assertEqual(findings(check_sizes.check, {name: "\n" * limit}), [])
            self.assertIn(f"at most {limit}", findings(check_sizes.check, {name: "\n" * (limit + 1)})[0])

    def test_function_limit(self):
        body = "int f(int x)\n    noexcept {\n" + "  ++x;\n" * 77 + "}\n"
        self.assertEqual(findings(check_sizes.check, {"io/a.cpp": body}), [])
        longer = body.replace("{\n", "{\n\n", 1)
        self.assertIn("io/a.cpp:1: function of 81 lines", findings(check_sizes.check, {"io/a.cpp": longer})[0])
        self.assertEqual(findings(check_sizes.check, {"kernels/a.cpp": longer}), [])

    def test_functions_inside_classes_and_namespaces_are_found(self):
        text = ('namespace x {  // {\nstruct S {\n  S() : a_(1), b_{2} { g("{"); }\n  int f() const override {\n    if (a) {\n    }\n'
                "    return 1;\n  }\n  int a_ = '{', b_;\n};\n}\n")
        self.assertIn((4, 8), check_sizes.functions_of(text))
        self.assertEqual(len(check_sizes.functions_of(text)), 2)


class Layout(unittest.TestCase):
    def test_unknown_top_level_name_fails(self):
        self.assertEqual(findings(check_layout.check, {"README.md": "", "io/a.h": ""}), [])
        self.assertIn("src: not allowed", findings(check_layout.check, {"src/a.h": ""})[0])

    def test_leaks_fail(self):
        for leak in ("/wo" + "rk/main", "see ../sha" + "red/design", "/ro" + "ot/x", "iss" + "ue 3", "py" + "pi.org/x"):
            self.assertEqual(len(check_layout.check_text("README.md", "fine\n" + leak)), 1, leak)

    def test_plain_text_passes(self):
        self.assertEqual(check_layout.check_text("README.md", "work/root, ../io, build/tests/work/x, an I/O issue"), [])


if __name__ == "__main__":
    unittest.main()
