"""Hard size budgets of files and functions."""

import re

import source_tree

HEADER_LINES, SOURCE_LINES, TEST_LINES = 300, 500, 600
FUNCTION_LINES, KERNEL_LINES = 80, 120

# What may stand before the brace that opens a function: "...)" and its trailing words, or a constructor's initializers.
_FUNCTION = re.compile(r"\)\s*(const|noexcept(\(.*\))?|override|final|mutable|volatile|&&?|->[^;{}]*|try|requires[^;{}]*|"
                       r":[^;]*|\s)*$", re.DOTALL)
_CONTROL = re.compile(r"^\s*(if|for|while|switch|catch|else|do|return|namespace|class|struct|union|enum|extern)\b")


def functions_of(text):
    """(first line, last line) of every outermost function body, by braces; its signature counts too."""
    code = source_tree.without_comments_and_strings(text)
    code = re.sub(r"^[ \t]*#(?:[^\n\\]|\\\n|\\.)*", lambda m: "\n" * m.group().count("\n"), code, flags=re.MULTILINE)
    depth, start, opened_at, found = 0, 0, None, []
    for position, character in enumerate(code):
        if character == "{":
            head = code[start:position]
            if opened_at is None and _FUNCTION.search(head) and not _CONTROL.match(head):
                first = start + len(head) - len(head.lstrip())
                opened_at = (depth, code.count("\n", 0, first) + 1)
            depth += 1
        elif character == "}":
            depth -= 1
            if opened_at is not None and depth == opened_at[0]:
                found.append((opened_at[1], code.count("\n", 0, position) + 1))
                opened_at = None
        if character in "{};":
            start = position + 1
    return found


def _check_file(root, name):
    text = source_tree.read(root, name)
    lines = text.count("\n")
    in_tests = name.parts[0] == "tests"
    limit = TEST_LINES if in_tests else HEADER_LINES if name.suffix in (".h", ".cuh") else SOURCE_LINES
    if name.name.endswith("-inl.h"):
        limit = SOURCE_LINES
    findings = [f"{name}: {lines} lines, at most {limit} allowed; divide it"] if lines > limit else []
    limit = KERNEL_LINES if name.parts[0] == "kernels" else FUNCTION_LINES
    for first, last in functions_of(text):
        if last - first + 1 > limit:
            findings.append(f"{name}:{first}: function of {last - first + 1} lines, at most {limit} allowed; divide it")
    return findings


def check(root):
    findings = []
    for name in source_tree.cpp_files(root, source_tree.ROOMS + ("tests",)):
        findings += _check_file(root, name)
    return findings


if __name__ == "__main__":
    source_tree.main(check)
