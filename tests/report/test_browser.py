"""Report pages in a headless Chromium: light, dark, narrow and printed. Pictures go to the directory given.

Usage: test_browser.py HALFQUAD PICTURES [unittest arguments]
"""

import struct
import sys
import unittest
import zlib
from pathlib import Path

import browser
from reports import EVIL, ReportTest, write_model

PICTURES = Path()

# Text of pictures that leaves them, or lies over other text of them.
CLIPPED = """
[...document.querySelectorAll('.chart svg')].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect(), text]);
  const out = texts.filter(([, t]) => t.left < box.left - 1 || t.right > box.right + 1 || t.top < box.top - 1 ||
                                      t.bottom > box.bottom + 1).map(([name]) => 'clipped: ' + name);
  const over = [];
  for (let i = 0; i < texts.length; ++i) for (let j = i + 1; j < texts.length; ++j) {
    const a = texts[i][1], b = texts[j][1];
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) over.push('over: ' + texts[i][0] + ' / ' + texts[j][0]);
  }
  return out.concat(over);
})"""

# Contrast of text with the first background behind it, in the page and inside cells of heat maps.
CONTRAST = """
(() => {
  const color = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = color(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > .99) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || seen.has(element) || !element.checkVisibility?.()) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const inside = element.ownerSVGElement;
    const front = color(inside ? style.fill : style.color);
    const cell = inside && element.classList.contains('in') ? element.previousElementSibling : null;
    const found = ratio(front, cell && !cell.classList.contains('undefined') ? color(getComputedStyle(cell).fill) : behind(element));
    if (found < 4.5) poor.push(found.toFixed(2) + ' ' + element.outerHTML.slice(0, 120));
  }
  return poor;
})()"""


@unittest.skipUnless(browser.find(), "no chromium: cluster/install-deps --with browser")
class BrowserTest(ReportTest):
    def setUp(self):
        super().setUp()
        self.browser = browser.Browser(browser.find())
        self.addCleanup(self.browser.close)

    def check(self, name, path):
        """Looks at the page in every way that people do."""
        url = path.resolve().as_uri()
        self.browser.show(1280)
        self.browser.open(url)
        self.assertEqual(self.browser.complaints(), [])
        self.assertEqual(self.browser.requests(), [url])
        for kind, width, scheme, mobile in (("light", 1280, "light", False), ("dark", 1280, "dark", False),
                                            ("narrow", 360, "light", True), ("narrow-dark", 320, "dark", True)):
            with self.subTest(name=name, kind=kind):
                self.browser.show(width, scheme=scheme, mobile=mobile)
                self.assertLessEqual(self.browser.evaluate("document.scrollingElement.scrollWidth"), width)
                self.assertEqual(self.browser.evaluate(CLIPPED), [])
                self.assertEqual(self.browser.evaluate(CONTRAST), [])
                self.browser.screenshot(PICTURES / f"{name}-{kind}.png")
        self.check_printed(name)
        self.check_without_mouse()
        self.assertEqual(self.browser.complaints(), [])
        self.assertEqual(self.browser.requests(), [url])

    def check_printed(self, name):
        self.browser.show(700, scheme="dark", media="print")
        self.assertEqual(self.browser.evaluate("getComputedStyle(document.body).backgroundColor"), "rgb(255, 255, 255)")
        self.assertLessEqual(self.browser.evaluate("document.scrollingElement.scrollWidth"), 700)
        self.assertEqual(self.browser.evaluate(CLIPPED), [])
        self.browser.screenshot(PICTURES / f"{name}-print.png")
        self.browser.print(PICTURES / f"{name}.pdf")
        self.assertTrue((PICTURES / f"{name}.pdf").read_bytes().startswith(b"%PDF"))

    def check_without_mouse(self):
        """Everything that scrolls or opens can be reached by keyboard, and has a name."""
        self.browser.show(360)
        unnamed = self.browser.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex !== 0 || !e.getAttribute('aria-label')).length")
        self.assertEqual(unnamed, 0)
        tree = self.browser.call("Accessibility.getFullAXTree")["nodes"]
        nameless = [node["role"]["value"] for node in tree if not node.get("ignored") and
                    node["role"]["value"] in ("image", "img", "table", "region", "link") and not node["name"]["value"]]
        self.assertEqual(nameless, [])

    def test_single_output(self):
        model, out, trace = self.synth(layers=8), self.root / "tiny-4bit", self.root / "trace.json"
        self.quantize(model, out, "--rule", "down_proj=bits:3", "--rule", "layers.3.=bits:8", "--trace", trace)
        self.check("single", self.report_html(out, "--source", model, "--trace", trace))

    def test_comparison(self):
        model = self.synth(layers=8)
        outs = [self.quantize(model, self.root / f"tiny-{bits}bit", "--bits", bits) for bits in ("4", "3", "8")]
        self.check("comparison", self.report_html(*outs))

    def test_odd_names(self):
        names = [f"a.very.long.name.of.a.stack.{block}.{'and_a_long_projection' * 3}.{EVIL}.{kind}.weight"
                 for block in range(120) for kind in "qk"]
        write_model(self.root / "model", names, rows=32, cols=32)
        out = self.quantize(self.root / "model", self.root / ("long" * 40), "--rule", ".=group-size:32")
        self.check("odd", self.report_html(out))

    def test_picture_is_not_blank(self):
        out = self.quantize(self.synth(), self.root / "out")
        self.browser.show(1280)
        self.browser.open(self.report_html(out).resolve().as_uri())
        self.browser.screenshot(PICTURES / "blank.png")
        data = (PICTURES / "blank.png").read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        self.assertEqual(width, 1280)
        self.assertGreater(height, 2000)
        packed, at = b"", 8
        while at < len(data):
            length, kind = struct.unpack(">I4s", data[at:at + 8])
            packed += data[at + 8:at + 8 + length] if kind == b"IDAT" else b""
            at += 12 + length
        self.assertGreater(len(set(zlib.decompress(packed))), 20)


if __name__ == "__main__":
    ReportTest.halfquad = sys.argv.pop(1)
    PICTURES = Path(sys.argv.pop(1))
    PICTURES.mkdir(parents=True, exist_ok=True)
    if not browser.find():
        print("skipped: there is no chromium; cluster/install-deps --with browser installs it")
    unittest.main(verbosity=2)
