"""Whole jobs on devices: the same bytes for any number of devices and ranks, and whatever the devices do.

Usage: test_devices.py HALFQUAD MPIEXEC --module FILE [--emulated] [unittest arguments]

--module: the module of devices to load; with --emulated the CUDA one, whose devices an emulator provides (its library
folder in LD_LIBRARY_PATH), otherwise one of fake devices.
"""

import os
import pathlib
import re
import shutil
import sys
import unittest

import test_ranks
from test_formats import files_of
from test_ranks import DONE, OPTIONS, USAGE, report_of

FORMATS = [  # whose zeros have any value
    ["hdf5", "--bits", "3", "--solver", "als", "--group-size", "32"],
    ["mlx", "--bits", "5", "--solver", "hqq"],
    ["torchao", "--solver", "als"],
    ["gguf", "--bits", "5", "--solver", "als"],
]
WHOLE_ZEROS = [  # with column weights and without, sizes in registers and others
    ["compressed-tensors", "--importance", "weights"],
    ["compressed-tensors", "--bits", "8", "--symmetric", "--solver", "rtn", "--group-size", "row"],
    ["compressed-tensors", "--symmetric", "--solver", "hqq", "--scale-dtype", "bf16"],
    ["awq", "--importance", "none", "--group-size", "128"],
    ["gptq", "--bits", "3", "--group-size", "32", "--importance", "weights"],
    ["gguf", "--symmetric", "--importance", "weights"],
]
FLOATS = [  # on floating-point grids
    ["compressed-tensors", "--type", "nvfp4", "--importance", "weights"],
    ["compressed-tensors", "--type", "mxfp4", "--solver", "rtn"],
    ["gguf", "--type", "nvfp4", "--importance", "none"],
    ["gguf", "--type", "mxfp4"],
]
FP8 = [  # of experts and of what is not
    ["hqq", "--solver", "hqq", "--group-size", "32"],
    ["hqq", "--solver", "rtn", "--bits", "3"],
    ["mlx", "--solver", "als"],
    ["gptq", "--group-size", "128"],
    ["compressed-tensors", "--type", "nvfp4"],
]


class DevicesTest(test_ranks.RanksTest):
    OPTIONS_OF_ALL = ["--solver", "hqq", "--rule", r"layers?\.1\.=solver:als,bits:3"]

    @classmethod
    def shapes(cls) -> dict:
        if not OPTIONS.emulated:
            return super().shapes()
        # Several orders of magnitude slower: a few tiles, but of every way through the pipeline.
        shapes = {"model.embed_tokens.weight": (64, 256)}
        for i in range(4):
            shapes[f"model.layers.{i}.mlp.up_proj.weight"] = (128, 256)
            shapes[f"model.layers.{i}.self_attn.k_proj.weight"] = (24, 256)
        return shapes

    def environment(self, devices: int, lost: str = "", wrong: str = "") -> dict:
        """lost: DEVICE:CALL."""
        environment = {"HALFQUAD_CUDA_MODULE": OPTIONS.module}
        if OPTIONS.emulated:
            environment |= {"CUDAEMU_DEVICES": str(devices), "CUDAEMU_MEMORY": "1G"}
            if lost:
                device, call = lost.split(":")
                environment["CUDAEMU_FAIL"] = f"device{device}:lost@{call}"
        else:
            environment["HALFQUAD_FAKE_DEVICES"] = str(devices)
            environment |= {"HALFQUAD_FAKE_LOST": lost} if lost else {}
            environment |= {"HALFQUAD_FAKE_WRONG": wrong} if wrong else {}
        return environment

    def on_devices(self, devices: str = "all", *options) -> list:
        # An emulated device is so slow that the host leaves it nothing to do.
        only = ["--devices-only"] if OPTIONS.emulated and "--devices-only" not in options else []
        return [word for word in self.quantize(*only, "--threads", "1", "--devices", devices, *options)
                if word not in ("--log-level", "off")]

    def check(self, command: list, environment: dict) -> tuple:
        """Runs the job; returns its report and its error stream."""
        shutil.rmtree(self.out, ignore_errors=True)
        error = self.run_to_end(command, DONE, environment)
        self.assert_complete()
        report = report_of(self.out)
        self.assertEqual(report["tensors"], report_of(self.reference)["tensors"])
        return report, error

    def test_any_number_of_devices_writes_the_same_bytes(self):
        for devices in (1, 2, 8):
            with self.subTest(devices=devices):
                report, error = self.check(self.on_devices("all", "--devices-only"), self.environment(devices))
                self.assertEqual(report["totals"]["device_weights"], report["totals"]["quantized_weights"])
                self.assertEqual(len(report["ranks"][0]["devices"]), devices)
                self.assertNotIn("warn:", error)

    def expect_the_hosts_files(self, form: str, options: list, ranks: int, devices: int, preset: str = "tiny") -> str:
        """Returns the error stream of the run on devices."""
        model, host = self.root / f"layers-{preset}", self.root / "host"
        if not model.exists():
            layers = ["--layers", "2" if "deepseek" in preset else "1"]  # the first without experts
            self.run_to_end([OPTIONS.halfquad, "synth", model, "--preset", preset, *layers, "--progress", "none"])
        command = [OPTIONS.halfquad, "quantize", model, "--format", form, *options, *test_ranks.QUIET, "--devices"]
        shutil.rmtree(host, ignore_errors=True)
        shutil.rmtree(self.out, ignore_errors=True)
        self.run_to_end([*command, "none", host])
        on_devices = [*command, "all", "--devices-only", self.out]
        environment = self.environment(devices) | {"CUDAEMU_STATS": "1"}
        error = self.run_to_end(self.mpirun(ranks, on_devices) if ranks > 1 else on_devices, DONE, environment)
        self.assertEqual(files_of(self.out), files_of(host))
        totals = report_of(self.out)["totals"]
        self.assertEqual(totals["device_weights"], totals["quantized_weights"])
        return error

    def test_devices_solve_for_other_formats(self):
        for form, *options in FORMATS:
            with self.subTest(format=form):
                self.expect_the_hosts_files(form, options, 1, 2)

    def test_devices_search_whole_zeros(self):
        for i, (form, *options) in enumerate(WHOLE_ZEROS):
            with self.subTest(format=form, options=options):
                self.expect_the_hosts_files(form, options, 1 + i % 2, 1 + i // 2 % 2)

    def test_devices_search_scales_of_floating_point_grids(self):
        for i, (form, *options) in enumerate(FLOATS):
            with self.subTest(format=form, options=options):
                self.expect_the_hosts_files(form, options, 1 + i % 2, 2)

    def test_devices_decode_fp8(self):
        for i, (form, *options) in enumerate(FP8):
            with self.subTest(format=form, options=options):
                error = self.expect_the_hosts_files(form, options, 1 + i % 2, 2, "tiny-deepseek-v3")
                if OPTIONS.emulated:  # more than the self-check's 12
                    blocks = sum(int(n) for n in re.findall(r"decode_kernel.*\n *launches .*? blocks (\d+)", error))
                    self.assertGreater(blocks, 100, error)

    def test_ranks_divide_the_devices_of_a_machine(self):
        for ranks, devices, counts in ((2, 2, [1, 1]), (2, 8, [4, 4]), (4, 2, [1, 1, 1, 1]), (3, 4, [2, 1, 1])):
            with self.subTest(ranks=ranks, devices=devices):
                report, _ = self.check(self.mpirun(ranks, self.on_devices()), self.environment(devices))
                self.assertEqual([len(rank["devices"]) for rank in report["ranks"]], counts)

    def test_gathering_writes_the_same_bytes(self):
        command = self.mpirun(2, self.on_devices("all", "--assembly", "gather"))
        report, _ = self.check(command, self.environment(2))
        self.assertEqual(report["assembly"]["how"], "gather")

    def gather(self, ranks: int, *options) -> list:
        return self.mpirun(ranks, self.on_devices("all", "--assembly", "gather", "--schedule", "static", *options))

    @unittest.skipUnless("--emulated" in sys.argv, "fake devices of different processes have no links")
    def test_gathered_results_travel_from_device_to_device(self):
        for ranks, devices, order in ((2, 2, "eager"), (2, 2, "late"), (3, 4, "random:1"), (4, 4, "random:2")):
            with self.subTest(ranks=ranks, devices=devices, order=order):
                report, error = self.check(self.gather(ranks), self.environment(devices) | {"CUDAEMU_ORDER": order})
                writer = report["ranks"][0]
                self.assertGreater(writer["bytes_received"], 0)
                self.assertEqual(writer["bytes_by_device_link"], writer["bytes_received"])
                self.assertNotIn(" warn: ", error)

    @unittest.skipUnless("--emulated" in sys.argv, "fake devices of different processes have no links")
    def test_without_a_link_they_travel_by_mpi(self):
        # All that the emulator has, but no NCCL: one that cannot be opened hides what may be installed.
        libraries = self.root / "libraries"
        libraries.mkdir()
        for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")):
            for file in pathlib.Path(folder).glob("lib*.so*"):
                if "nccl" not in file.name:
                    (libraries / file.name).symlink_to(file)
        (libraries / "libnccl.so.2").touch()
        nowhere = {"LD_LIBRARY_PATH": str(libraries)}
        for name, environment, options in (("turned off", {}, ["--link", "mpi"]), ("no NCCL", nowhere, [])):
            with self.subTest(name):
                report, error = self.check(self.gather(2, *options), self.environment(2) | environment)
                self.assertGreater(report["ranks"][0]["bytes_received"], 0)
                self.assertEqual(report["ranks"][0]["bytes_by_device_link"], 0)
                self.assertNotIn(" warn: ", error)
        with self.subTest("one device for both"):
            report, error = self.check(self.gather(2), self.environment(1))
            self.assertGreater(report["ranks"][0]["bytes_received"], 0)
            self.assertEqual(report["ranks"][0]["bytes_by_device_link"], 0)
            self.assertNotIn(" warn: ", error)

    @unittest.skipUnless("--emulated" in sys.argv, "fake devices of different processes have no links")
    def test_a_link_may_fail_at_any_of_its_calls_on_either_rank(self):
        command = self.on_devices("all", "--assembly", "gather", "--schedule", "static")
        for faulty in (0, 1):
            for call in ("cudaEventCreate:2", "cudaEventRecord:1", "cudaEventRecord:5", "cudaStreamWaitEvent:1",
                         "cudaStreamWaitEvent:4", "cudaEventQuery:2", "cudaEventQuery:5"):
                with self.subTest(rank=faulty, call=call):
                    fault = f"CUDAEMU_FAIL={call}:cudaErrorInvalidValue"
                    programs = [["env", fault if rank == faulty else "CUDAEMU_FAIL=", *command] for rank in (0, 1)]
                    environment = self.environment(2) | {"CUDAEMU_NCCL_TIMEOUT": "1"}
                    report, error = self.check(self.two_programs(*programs), environment)
                    writer = report["ranks"][0]
                    self.assertLess(writer["bytes_by_device_link"], writer["bytes_received"], error)
                    warnings = [line for line in error.splitlines() if " warn: " in line]
                    self.assertEqual(len(warnings), 1, error)
                    # With the failed call, or what the other end saw of it, whichever was known first.
                    self.assertIn("rank 1 go to rank 0 by MPI", warnings[0])

    @unittest.skipUnless("--emulated" in sys.argv, "fake devices of different processes have no links")
    def test_a_device_may_be_lost_while_it_has_a_link(self):
        for device in (0, 1):
            for call in (20, 45, 70, 90, 110):
                with self.subTest(device=device, call=call):
                    environment = self.environment(2, lost=f"{device}:{call}") | {"CUDAEMU_NCCL_TIMEOUT": "1"}
                    self.check(self.gather(2), environment)

    def test_a_list_chooses_devices(self):
        report, _ = self.check(self.on_devices("1"), self.environment(3))
        self.assertEqual(len(report["ranks"][0]["devices"]), 1)
        if not OPTIONS.emulated:
            self.assertEqual(report["ranks"][0]["devices"], ["Fake 1"])
        error = self.run_to_end(self.on_devices("1,7"), USAGE, self.environment(3))
        self.assert_one_error_line(error, "device 7", "sees 3")
        self.assertFalse(self.out.with_name("out.partial").exists())

    def test_one_device_may_be_lost_at_any_call(self):
        for call in (1, 2, 3, 5, 8, 40, 90) if OPTIONS.emulated else (1, 2, 3, 4, 5):
            with self.subTest(call=call):
                _, error = self.check(self.on_devices(), self.environment(2, lost=f"1:{call}"))
                lost = [line for line in error.splitlines() if "not used any more" in line]
                self.assertLessEqual(len(lost), 1, error)
                for line in lost:
                    self.assertIn("device 1", line)

    def test_all_devices_may_be_lost_on_one_rank(self):
        for call in (4, 60) if OPTIONS.emulated else (1, 2):
            with self.subTest(call=call):
                environment = self.environment(1, lost=f"0:{call}")
                self.check(self.mpirun(2, self.on_devices()), environment)

    @unittest.skipIf("--emulated" in sys.argv, "the emulator computes right")
    def test_a_device_with_wrong_bytes_is_refused(self):
        report, error = self.check(self.on_devices(), self.environment(1, wrong="0"))
        self.assertIn("failed its self-check", error)
        self.assertEqual(report["totals"]["device_weights"], 0)

    def test_what_is_asked_for_and_missing_is_an_error(self):
        missing = {"HALFQUAD_CUDA_MODULE": str(self.root / "nowhere.so")}
        error = self.run_to_end(self.on_devices(), USAGE, missing)
        self.assert_one_error_line(error, "--devices all", "nowhere.so", "--devices none")
        error = self.run_to_end(self.on_devices(), USAGE, self.environment(0))
        self.assert_one_error_line(error, "--devices all", "no GPU")
        error = self.run_to_end(self.on_devices("some"), USAGE, self.environment(1))
        self.assert_one_error_line(error, "--devices", '"some"')
        error = self.run_to_end(self.on_devices("all", "--link", "radio"), USAGE, self.environment(1))
        self.assert_one_error_line(error, "--link", "radio")
        self.assertFalse(self.partial.exists())

    def test_one_rank_without_devices_ends_the_job_that_asked_for_them(self):
        here = ["env", *(f"{name}={value}" for name, value in self.environment(1).items()), *self.on_devices()]
        there = ["env", "HALFQUAD_CUDA_MODULE=/nowhere.so", *self.on_devices()]
        error = self.run_to_end(self.two_programs(here, there), USAGE)
        self.assert_one_error_line(error, "rank 1", "--devices all")

    def test_devices_are_left_alone_unless_wanted(self):
        for options in (["--devices", "none"], ["--backend", "reference"], ["--isa", "SSE4"]):
            with self.subTest(options=options):
                report, _ = self.check(self.quantize(*options), self.environment(2))
                self.assertEqual(report["ranks"][0]["devices"], [])


if __name__ == "__main__":
    arguments = test_ranks.argparse.ArgumentParser(add_help=False)
    arguments.add_argument("--module", required=True, type=os.path.abspath)
    arguments.add_argument("--emulated", action="store_true")
    _, rest = arguments.parse_known_args(namespace=OPTIONS)
    sys.argv[1:] = rest
    if OPTIONS.emulated and os.path.exists("/dev/nvidiactl"):
        print("skipped: this machine has devices of its own")
        sys.exit(77)
    test_ranks.main()
