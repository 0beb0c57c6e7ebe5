"""Running English text from documentation packages of Debian, which no solver has seen and anyone can fetch again."""

import html.parser
import re
import subprocess
from pathlib import Path

import torch

PACKAGES = ["debian-handbook", "debian-policy", "debian-faq"]
CALIBRATION = ["debian-reference-en"]  # which nothing is judged by
SKIPPED = {"script", "style", "pre", "head", "nav", "table", "title"}
PARAGRAPH = 200  # characters; shorter ones are headings, menus and commands


class Paragraphs(html.parser.HTMLParser):
    """The paragraphs of an HTML page, without code and tables."""

    def __init__(self):
        super().__init__()
        self.found, self.open, self.skipped = [], None, 0

    def handle_starttag(self, tag, attributes):
        self.skipped += tag in SKIPPED
        if tag == "p" or (tag == "div" and ("class", "para") in attributes):
            self.open = []

    def handle_endtag(self, tag):
        self.skipped -= tag in SKIPPED and self.skipped > 0
        if tag in ("p", "div") and self.open is not None:
            self.found.append(" ".join("".join(self.open).split()))
            self.open = None

    def handle_data(self, data):
        if self.open is not None and not self.skipped:
            self.open.append(data)


def paragraphs(package: str, folder: Path) -> list:
    """Downloads the package once, and takes the English pages out of it."""
    unpacked = folder / package
    if not unpacked.exists():
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        archive = next(folder.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg", "-x", archive, unpacked], check=True)
        archive.unlink()
    texts = []
    for page in sorted(unpacked.rglob("*.html")):
        if page.is_symlink() or not page.is_file() or re.search(r"\.(?!en)[a-z]{2}(-[a-z]+)?\.html$|/(?!en)[a-z]{2}-[A-Z]{2}/", str(page)):
            continue
        reader = Paragraphs()
        reader.feed(page.read_text(errors="ignore"))
        texts += [text for text in reader.found if len(text) >= PARAGRAPH]
    return list(dict.fromkeys(texts))


def sequences(tokenizer, folder: Path, packages: list, count: int, length: int) -> torch.Tensor:
    """`count` token sequences of each package, [packages * count, length], spread over all of its text."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for package in packages:
        ids = tokenizer("\n\n".join(paragraphs(package, folder)), add_special_tokens=False)["input_ids"]
        first = tokenizer("")["input_ids"]  # a start token, for models that were trained with one
        body = length - len(first)
        if len(ids) < count * body:
            raise RuntimeError(f"{package} holds {len(ids)} tokens; {count * body} are wanted")
        stride = (len(ids) - body) // count
        found += [first + ids[i * stride:i * stride + body] for i in range(count)]
    return torch.tensor(found)
