"""The top level holds what was agreed on, and no file speaks of the machine or the work it was written in."""

import re

import source_tree

TOP_LEVEL = {
    "CMakeLists.txt", "runtime", "sharding", "kernels", "io", "launcher", "tests", "cluster", "README.md",
    "CMakePresets.json", "LICENSE", ".ci", ".clang-format", ".clang-tidy", ".editorconfig", ".gitignore", ".gitattributes",
}
# Put together from parts so that this file does not find itself.
FORBIDDEN = (
    ("a path of one machine", r"(?<![\w.$}/-])/" + r"(work|root|home)/"),
    ("a path outside the repository", r"\.\./" + r"shared\b"),
    ("a registry's host", r"(pypi|pythonhosted|debian|npmjs|github" + r"usercontent)\.org/|files\.python" + r"hosted"),
    ("talk of the work instead of the product",
     r"\bissue" + r" #?\d|\b(this|previous|next|an?) " + r"session\b|\b(coding|AI) " + r"(assistant|agent)\b"),
)
BINARY = (".safetensors", ".bin", ".gguf", ".h5", ".png", ".npy")


def check_text(name, text):
    findings = []
    for line_number, line in enumerate(text.split("\n"), 1):
        for what, pattern in FORBIDDEN:
            match = re.search(pattern, line)
            if match:
                findings.append(f"{name}:{line_number}: '{match.group()}' is {what}; the repository speaks of the product")
    return findings


def check(root):
    names = source_tree.repository_files(root)
    findings = [f"{top}: not allowed at the top level" for top in sorted({n.parts[0] for n in names} - TOP_LEVEL)]
    for name in names:
        # Foreign data, such as a tokenizer, says what it says.
        if name.suffix not in BINARY and not name.as_posix().startswith(("tests/golden/", "tests/fuzz/corpus/")):
            findings += check_text(name, source_tree.read(root, name))
    return findings


if __name__ == "__main__":
    source_tree.main(check)
