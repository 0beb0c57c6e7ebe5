"""Lines that ran, room by room, of a summary that gcovr --json-summary wrote.

usage: rooms.py SUMMARY.json
"""

import collections
import json
import sys

LEAST_COVERED_SHOWN = 10


def rooms_of(summary):
    """{room: (lines that ran, all lines)}, a room being the first folder of a file."""
    rooms = collections.defaultdict(lambda: (0, 0))
    for file in summary["files"]:
        ran, lines = rooms[file["filename"].split("/")[0]]
        rooms[file["filename"].split("/")[0]] = (ran + file["line_covered"], lines + file["line_total"])
    return dict(rooms)


def percent(ran, lines):
    return 100 * ran / lines if lines else 100.0


def table(summary):
    rooms = rooms_of(summary)
    rooms["all"] = tuple(map(sum, zip(*rooms.values()))) if rooms else (0, 0)
    rows = [f"{'room':<10} {'lines':>7} {'ran':>7} {'':>7}"]
    rows += [f"{room:<10} {lines:>7} {ran:>7} {percent(ran, lines):>6.1f}%" for room, (ran, lines) in rooms.items()]
    files = [file for file in summary["files"] if file["line_covered"] < file["line_total"]]
    files.sort(key=lambda file: file["line_covered"] - file["line_total"])
    rows += ["", "most lines that did not run:"]
    rows += [f"{file['line_total'] - file['line_covered']:>7} of {file['line_total']:>5} {file['filename']}"
             for file in files[:LEAST_COVERED_SHOWN]]
    return "\n".join(rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        print(table(json.load(file)))
