"""Whole reports: pages, their data tables, summaries, CSV and JSON of real outputs.

Usage: test_report.py HALFQUAD [unittest arguments]
"""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import unittest
from html.parser import HTMLParser

from reports import EVIL, QUIET, ReportTest, count_bins, float32, read_tensor, write_model

VOID = {"meta", "link", "br", "hr", "img", "input", "rect", "path", "circle", "line"}
FETCHES = {"src", "srcset", "action", "formaction", "data", "poster", "background", "ping", "manifest", "xlink:href"}
FORMATS = {
    "hqq": [], "hdf5": [], "gguf": ["--group-size", "32"], "mlx": [], "compressed-tensors": [], "torchao": [],
    "awq": [], "gptq": [],
}
FILES = {"m.gguf": ["--group-size", "32"], "m.h5": [], "m.safetensors": []}


class Page(HTMLParser):
    """Checks that elements nest, and keeps what tests look at."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.problems, self.open, self.headings = [], [], []
        self.tables, self.figures, self.ids, self.links = [], [], [], []
        self.elements = {}
        self.text = ""
        self.feed(text)
        self.close()
        if self.open:
            self.problems.append(f"not closed: {self.open}")

    def handle_starttag(self, tag, attributes, closed=False):
        self.elements[tag] = self.elements.get(tag, 0) + 1
        for name, value in attributes:
            if name.startswith("on") or name in FETCHES:
                self.problems.append(f"{tag} has {name}")
            if name == "href":
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
        if tag == "table":
            self.tables.append({"caption": "", "header": [], "rows": []})
        if tag == "tr":
            self.row = []
        if tag in ("th", "td"):
            self.row.append("")
        if tag == "figure":
            self.figures.append({"svg": 0, "tables": 0, "labels": []})
        if "figure" in self.open and "ul" not in self.open and tag == "svg" and ("role", "img") in attributes:
            self.figures[-1]["svg"] += 1
            self.figures[-1]["labels"].append(dict(attributes).get("aria-label", ""))
        if "figure" in self.open and "details" in self.open and tag == "table":
            self.figures[-1]["tables"] += 1
        if not closed and tag not in VOID - {"rect", "path"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, closed=True)

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> in {self.open}")
            return
        self.open.pop()
        if tag == "tr":
            self.tables[-1]["header" if "thead" in self.open else "rows"].append(self.row)

    def handle_data(self, data):
        self.text += data
        if not self.open:
            return
        if "caption" in self.open:
            self.tables[-1]["caption"] += data
        if "th" in self.open or "td" in self.open:
            self.row[-1] += data
        if self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(int(self.open[-1][1]))

    def table(self, caption):
        found = [table for table in self.tables if table["caption"].startswith(caption)]
        assert len(found) == 1, (caption, [table["caption"] for table in self.tables])
        return found[0]


class PageTest(ReportTest):
    def page(self, path):
        text = path.read_text()
        page = Page(text)
        self.assertEqual(page.problems, [])
        self.assertNotIn("script", page.elements)
        self.assertEqual([link for link in page.links if not link.startswith("#") and link != "data:,"], [])
        self.assertEqual([link for link in page.links if link.startswith("#") and link[1:] not in page.ids], [])
        self.assertEqual(len(page.ids), len(set(page.ids)))
        style = text[text.index("<style>"):text.index("</style>")]
        self.assertNotRegex(style, r"url\(|@import")
        self.assertNotRegex(text, r"https?:")
        self.assertEqual(page.headings[0], 1)
        self.assertEqual(page.headings.count(1), 1)
        for before, after in zip(page.headings, page.headings[1:]):
            self.assertLessEqual(after, before + 1)
        for figure in page.figures:
            self.assertIn(figure["svg"], (1, 2))  # bars are there for wide and for narrow pages
            self.assertEqual(figure["tables"], 1)
            self.assertTrue(all(figure["labels"]))
        for table in page.tables:
            self.assertTrue(table["caption"])
            self.assertEqual({len(row) for row in table["rows"]} | {len(table["header"][0])}, {len(table["header"][0])})
        return page

    def test_page_holds_every_cell_of_the_report(self):
        out = self.quantize(self.synth(), self.root / "out", "--rule", "down_proj=bits:3", "--trace", self.root / "trace")
        page = self.page(self.report_html(out, "--source", self.root / "model", "--trace", self.root / "trace"))

        report = json.loads((out / "halfquad_report.json").read_text())
        grid = page.table("Relative error by block and projection of model.layers")
        names = grid["header"][0][1:]
        found = {f"model.layers.{row[0]}.{name}": cell for row in grid["rows"] for name, cell in zip(names, row[1:])}
        self.assertEqual(found, {layer["module"]: f"{layer['relative_error']:.5f}" for layer in report["layers"]})
        bits = page.table("Bits per weight by block")
        self.assertEqual([row[0] for row in bits["rows"]], ["0", "1", "2"])
        worst = max(report["layers"], key=lambda layer: layer["relative_error"])
        self.assertEqual(page.table("The 20 layers")["rows"][0][0], worst["module"])
        sizes = page.table("Bytes before and after")["rows"]
        totals = report["totals"]
        self.assertEqual(sizes[-1], ["all", str(totals["source_bytes"]), str(totals["output_bytes"])])
        self.assertEqual(sum(int(row[2]) for row in sizes[:-1]), totals["output_bytes"])
        checksums = [table for table in page.tables if table["caption"].endswith("tensors of the weight files")][0]
        self.assertEqual({row[0]: row[1] for row in checksums["rows"]},
                         {name: entry["xxh3"] for name, entry in report["tensors"].items()})
        lanes = {row[0] for row in page.table("Seconds of threads")["rows"]}
        self.assertIn("rank 0, worker 1", lanes)
        self.assertIn("halfquad quantize", page.text)
        self.assertEqual(sum("Histogram" in figure["labels"][0] for figure in page.figures), 12)

    def test_page_is_the_same_for_any_threads(self):
        out = self.quantize(self.synth(), self.root / "out")
        options = [out, "--source", self.root / "model"]
        first = self.report_html(*options, "--threads", "1").read_bytes()
        self.assertEqual(self.report_html(*options, "--threads", "3", "--memory", "64MiB").read_bytes(), first)

    def test_names_cannot_become_markup(self):
        names = [EVIL + str(i) + ".weight" for i in range(3)]
        write_model(self.root / "model", names)
        out = self.quantize(self.root / "model", self.root / "<img src=x>", "--rule", ".=group-size:64")
        report = json.loads((out / "halfquad_report.json").read_text())
        self.assertEqual(len(report["layers"]), 3)

        for arguments in ([out, "--source", self.root / "model"], [out, out]):
            path = self.report_html(*arguments)
            page = self.page(path)
            self.assertIn("<script>alert(1)</script>\"'&\\u202e\\x1b[31m\\n", page.text)
            self.assertNotIn("\x1b", path.read_text())
        self.assertNotIn("\x1b", self.run_program("report", out))
        rows = list(csv.DictReader(io.StringIO(self.run_program("report", out, "--csv", "-"), newline="")))
        self.assertEqual([row["module"] + ".weight" for row in rows], names)

    def test_every_format_has_a_report(self):
        model = self.synth()
        for name, options in FORMATS.items():
            with self.subTest(name):
                out = self.quantize(model, self.root / name, "--format", name, *options)
                page = self.page(self.report_html(out, "--source", model))
                self.assertTrue(page.text.count(name))
                self.assertEqual(sum("Histogram" in figure["labels"][0] for figure in page.figures), 12)
                self.assertIn(f"{name}: ", self.run_program("report", out))

    def test_single_files_have_their_report_beside_them(self):
        model = self.synth()
        for name, options in FILES.items():
            with self.subTest(name):
                out = self.quantize(model, self.root / name, *options)
                self.page(self.report_html(out))
                self.assertIn(name, self.run_program("report", out))
        note = self.page(self.report_html(self.root / "m.gguf")).text
        self.assertIn("histograms of its layers need the source", note)
        alone = shutil.copy(self.root / "m.gguf.halfquad_report.json", self.root / "alone.json")
        self.assertIn("The report file alone was given", self.page(self.report_html(alone)).text)

    def test_converted_outputs_are_compared_with_what_they_came_from(self):
        model = self.synth()
        first = self.quantize(model, self.root / "first", "--format", "mlx")
        second = self.root / "second"
        self.run_program("convert", first, second, "--format", "torchao", *QUIET)
        page = self.page(self.report_html(second, "--source", first))
        self.assertIn("converted from", page.text)

    def test_mixture_of_experts_is_put_together(self):
        out = self.quantize(self.moe(), self.root / "out")
        page = self.page(self.report_html(out))
        self.assertIn("mlp.experts.*.up_proj", [row[0] for row in page.table("Relative error by projection")["rows"]])
        cells = self.report_json(out)["outputs"][0]["stacks"][0]["cells"]
        experts = [cell for cell in cells if cell["projection"] == "mlp.experts.*.up_proj"]
        self.assertEqual([cell["modules"] for cell in experts], [8, 8])

    def moe(self):
        model = self.root / "moe"
        write_model(model, [f"model.layers.{block}.mlp.experts.{expert}.{projection}_proj.weight"
                            for block in range(2) for expert in range(8) for projection in ("gate", "up", "down")])
        return model


class FiguresTest(ReportTest):
    def test_histograms_count_every_weight(self):
        model = self.synth(layers=2)
        out = self.quantize(model, self.root / "out", "--bits", "3")
        self.run_program("dequantize", out, self.root / "plain", "--dtype", "f32", *QUIET)
        histograms = self.report_json(out, "--source", model, "--histograms", "2")["outputs"][0]["histograms"]
        self.assertEqual(len(histograms), 2)
        for layer in histograms:
            name = layer["module"] + ".weight"
            found = read_tensor(self.root / "plain" / "model.safetensors", name)
            wanted = read_tensor(model / "model.safetensors", name)
            errors = [float32(a - b) for a, b in zip(found, wanted)]
            for kind, values in (("quantized", found), ("source", wanted), ("error", errors)):
                view = layer[kind]
                self.assertEqual((view["counts"], view["below"], view["above"]), count_bins(values, view), kind)
                self.assertGreater(sum(view["counts"]), 0.99 * len(values))

    def test_csv_and_json_have_the_reports_figures(self):
        out = self.quantize(self.synth(), self.root / "out", "--skip", "q_proj")
        told = self.run_program("report", out, "--csv", self.root / "layers.csv", "--json", self.root / "report.json")
        self.assertRegex(told, r'layers\.csv": [\d.]+ KiB')
        report = json.loads((out / "halfquad_report.json").read_text())
        rows = list(csv.DictReader(io.StringIO((self.root / "layers.csv").read_text())))
        for row, layer in zip(rows, report["layers"], strict=True):
            self.assertEqual(row["module"], layer["module"])
            self.assertEqual(float(row["relative_error"]), layer["relative_error"])
            self.assertEqual(float(row["bits_per_weight"]),
                             8 * layer["stored_bytes"] / (layer["shape"][0] * layer["shape"][1]))
        summary = json.loads((self.root / "report.json").read_text())["outputs"][0]
        for key in ("source_bytes", "output_bytes", "relative_error", "sqnr_db"):
            self.assertEqual(summary["totals"][key], report["totals"][key])
        weights = sum(layer["stored_bytes"] for layer in report["layers"])
        self.assertEqual(weights, report["totals"]["quantized_bytes"])

    def test_comparison_finds_what_differs(self):
        model = self.synth()
        four = self.quantize(model, self.root / "four")
        three = self.quantize(model, self.root / "three", "--rule", "up_proj=bits:3")
        difference = self.report_json(four, three)["differences"][0]
        self.assertEqual((difference["smaller_errors"], difference["larger_errors"]), (0, 3))
        self.assertEqual({change["module"].split(".")[-1] for change in difference["changes"][:3]}, {"up_proj"})
        self.assertGreater(difference["tensors_same_bytes"], 0)
        text = self.run_program("report", four, three)
        self.assertIn("smaller errors 0, larger 3", text)
        self.assertLessEqual(max(map(len, text.split("\n"))), 80)
        page = Page(self.report_html(four, three).read_text())
        self.assertEqual(page.problems, [])
        self.assertEqual(len(page.table("Change of the relative error")["rows"]), 3)

    def test_summary_fits_a_terminal(self):
        text = self.run_program("report", self.quantize(self.synth(), self.root / "out"))
        self.assertLessEqual(max(map(len, text.split("\n"))), 80, text)
        self.assertRegex(text, r"relative 0\.\d+ \(weighted 0\.\d+\), SQNR \d+\.\d dB")
        self.assertNotIn("accuracy", text.lower())


class RefusalTest(ReportTest):
    def refuse(self, code, part, *arguments):
        line = self.run_program("report", *arguments, "--progress", "none", code=code)
        self.assertEqual(line.count("\n"), 1, line)
        self.assertIn(part, line)

    def test_what_cannot_be_reported_is_named(self):
        out = self.quantize(self.synth(), self.root / "out")
        report = out / "halfquad_report.json"
        self.refuse(3, "does not exist", self.root / "nothing")
        self.refuse(3, "is not an output of halfquad", self.root / "model")
        self.refuse(2, "is what the report is made from", out, "--json", report)
        self.refuse(2, "is not a file", out, "--html", out)
        self.refuse(2, "cannot both go to", out, "--csv", "-", "--json", "-")
        self.refuse(2, "belongs to one output", out, out, "--source", self.root / "model")
        self.refuse(2, "at most 8 outputs", *[out] * 9)
        self.refuse(3, "is not a time line", out, "--trace", report)
        self.refuse(4, "create", out, "--html", self.root / "no" / "where.html")

        whole = report.read_text()
        report.write_text(whole[:len(whole) // 2])
        self.refuse(3, "halfquad_report.json", out)
        report.write_text(re.sub(r'"output_bytes": \d+', '"output_bytes": "many"', whole))
        self.refuse(3, '"totals.output_bytes" is not a non-negative integer', out)
        report.write_text(whole)
        weights = out / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        self.refuse(3, "--histograms 0 makes the report without", out, "--html", self.root / "page.html")
        self.run_program("report", out, "--html", self.root / "page.html", "--histograms", "0")


if __name__ == "__main__":
    ReportTest.halfquad = sys.argv.pop(1)
    version = subprocess.run([ReportTest.halfquad, "--version"], capture_output=True, text=True, check=True).stdout
    if not re.search(r"^HDF5 +yes", version, re.MULTILINE):
        del FORMATS["hdf5"], FILES["m.h5"]
    unittest.main(verbosity=2)
