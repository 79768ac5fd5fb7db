# SPDX-License-Identifier: MIT
"""Rules of the source that no compiler checks: who may include whom, and what library code never calls."""

import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
CALLS = re.compile(r"\b(malloc|calloc|realloc|free|strdup|printf|fprintf|puts|abort|exit|getenv|assert|strcpy|sprintf)\(")
# The default allocator stands on the C library's.
ALLOCATES = {"lib/base/memory.c"}


def sources(*folders):
    for folder in folders:
        for path in sorted((TOP / folder).rglob("*")):
            if path.suffix in (".c", ".h", ".cu", ".cuh", ".cpp"):
                yield path.relative_to(TOP).as_posix(), path.read_text()


def code(text):
    """Without comments and strings."""
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def find(pattern, text):
    return [text.count("\n", 0, m.start()) + 1 for m in re.finditer(pattern, text, re.M)]


def calls():
    for name, text in sources("lib", "kernels"):
        for match in CALLS.finditer(code(text)):
            if name not in ALLOCATES:
                yield f"{name}:{code(text).count(chr(10), 0, match.start()) + 1}: calls {match.group(1)}"


def layers():
    for name, text in sources("kernels"):
        for line in find(r'#\s*include\s*[<"](imagine/|base/|model/|text/|dit/|vae/|sampler/|stage)', text):
            if "cpu.c" not in name:
                yield f"{name}:{line}: a kernel sees a handle's header"
    for name, text in sources("examples", "bindings"):
        for line in find(r'#\s*include\s*[<"](lib/|kernels/|base/|model/|text/|dit/|vae/|sampler/)', text):
            yield f"{name}:{line}: a program sees an internal header"


def cuda():
    """Kernels run on the emulator, too: what the hardware does is said in primitives.cuh alone."""
    words = r"\basm\b|<<<|\b__(?:shfl|syncthreads|syncwarp|ballot|any|all|ldg|cvta|float|uint_as)\w*|\batomic[A-Z]\w*\("
    for name, text in sources("kernels/cuda"):
        if not name.endswith("primitives.cuh"):
            for line in find(words, code(text)):
                yield f"{name}:{line}: a word of CUDA's that is no function of primitives.cuh"
    for name, text in sources("lib", "kernels", "include", "examples", "bindings"):
        if not name.startswith("kernels/cuda/"):
            for line in find(r'#\s*include\s*[<"](cuda|cublas|cudnn|nv)', text):
                yield f"{name}:{line}: a CUDA header outside kernels/cuda"


def state():
    """Mutable variables at file scope."""
    declaration = (r"^static (?!.*\bconst\b)(?:_Atomic |volatile |unsigned |_Thread_local |struct )*"
                   r"\w+[ *]+\w+(?:\[[^\]]*\])*\s*(?:=[^;(]*)?;")
    for name, text in sources("lib", "kernels"):
        for line in find(declaration, code(text)):
            yield f"{name}:{line}: a variable that can change at file scope"


def headings():
    for name, text in sources("lib", "kernels", "include", "examples", "tests"):
        if not text.startswith("/* SPDX-License-Identifier: MIT */"):
            yield f"{name}: no licence line at the top"


def width():
    for name, text in sources("lib", "kernels", "include", "examples"):
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > 140:
                yield f"{name}:{number}: {len(line)} columns"


def main():
    passed, failed = 0, 0
    for rule in (calls, layers, cuda, state, headings, width):
        faults = list(rule())
        for fault in faults:
            print(fault)
        passed += not faults
        failed += bool(faults)
    print(f"rules: {passed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
