# SPDX-License-Identifier: MIT
"""Holds the built libimagine.so to its contract: exported symbols, SONAME, what it may and may not refer to."""

import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
# What would end or talk over the host's head. libpng's error path is the library's own longjmp buffer: png_set_longjmp_fn
# is imported, longjmp itself belongs to it.
BANNED = re.compile(r"^(_?abort|_?exit|_Exit|quick_exit|__assert.*|__printf_chk|__fprintf_chk|__vfprintf_chk|printf|fprintf|vprintf|"
                    r"vfprintf|puts|fputs|fputc|putchar|perror|stdout|stderr|getenv|secure_getenv|signal|sigaction|atexit|"
                    r"__cxa_atexit|system|strcpy|sprintf|vsprintf|strcat|gets|rand|srand|setlocale)$")


def lines(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout.splitlines()


def exported(library):
    return sorted(re.sub("@.*", "", line.split()[-1]) for line in lines("nm", "-D", "--defined-only", library)
                  if line.split()[-2] != "A")


def check_symbols(library):
    golden = (HERE / "symbols.txt").read_text().split()
    found = exported(library)
    missing, extra = sorted(set(golden) - set(found)), sorted(set(found) - set(golden))
    return [f"exported symbols: missing {missing}, not in tests/abi/symbols.txt {extra}"] if missing or extra else []


def check_map(_):
    golden = (HERE / "symbols.txt").read_text().split()
    named = re.findall(r"^    (\w+);$", (TOP / "lib/imagine.map").read_text(), re.M)
    return [] if sorted(named) == sorted(golden) else ["lib/imagine.map and tests/abi/symbols.txt differ"]


def check_nodes(library):
    """A symbol stays for ever in the version node in which it first came: programs ask for both."""
    first = set((HERE / "v0.1/symbols.txt").read_text().split())
    found = dict(re.findall(r"\b(imagine_\w+)@@(\w+(?:\.\d+)?)", "\n".join(lines("nm", "-D", "--defined-only", library))))
    return [f"{name} is in node {node}" for name, node in found.items() if node != ("IMAGINE_0" if name in first else "IMAGINE_0.2")]


def check_structs(_):
    """tests/abi/structs.c tries every struct of the headers."""
    text = "".join(h.read_text() for h in sorted((TOP / "include/imagine").glob("*.h")))
    public = set(re.findall(r"^typedef struct (imagine_\w+) \{\n    uint32_t struct_size;", text, re.M)) - {"imagine_error"}
    tried = set(re.findall(r"^    (?:INPUT|OUTPUT)\((\w+),", (HERE / "structs.c").read_text(), re.M))
    return [f"tests/abi/structs.c has no line for {name}" for name in sorted(public - tried)]


def check_version(_):
    """Everything that states the version states the same."""
    header = (TOP / "include/imagine/version.h").read_text()
    version = ".".join(re.search(rf"VERSION_{part} (\d+)", header).group(1) for part in ("MAJOR", "MINOR", "PATCH"))
    stated = [("meson.build", r"version: '([\d.]+)', license"), ("bindings/python/pyproject.toml", r'^version = "(.*)"'),
              ("bindings/rust/imagine-sys/Cargo.toml", r'^version = "(.*)"'), ("bindings/rust/imagine/Cargo.toml", r'^version = "(.*)"'),
              ("bindings/rust/imagine/Cargo.toml", r'^imagine-sys = .*version = "([^"]*)"')]
    found = [(path, re.search(pattern, (TOP / path).read_text(), re.M).group(1)) for path, pattern in stated]
    return [f"{path} says {other}, version.h {version}" for path, other in found if other != version]


def check_headers(_):
    golden = (HERE / "symbols.txt").read_text().split()
    text = "".join(h.read_text() for h in sorted((TOP / "include/imagine").glob("*.h")))
    declared = set(re.findall(r"IMAGINE_API\s[^;{]*?\b(imagine_\w+)\s*\(", text))
    return [] if declared == set(golden) else [f"declared but not exported, or the other way: {declared ^ set(golden)}"]


def check_soname(library):
    major = re.search(r"VERSION_MAJOR (\d+)", (TOP / "include/imagine/version.h").read_text()).group(1)
    name = [l for l in lines("readelf", "-d", library) if "SONAME" in l]
    return [] if name and f"[libimagine.so.{major}]" in name[0] else [f"SONAME is {name}"]


def check_references(library):
    used = [re.sub("@.*", "", line.split()[-1]) for line in lines("nm", "-D", "--undefined-only", library)]
    bad = [u for u in used if BANNED.match(u)]
    return [f"the library refers to {bad}"] if bad else []


def check_own_calls(library):
    """What the library calls of itself is its own, also where the process holds another copy: a host's and a plugin's, say."""
    own = sorted(set(re.findall(r"\b(imagine_\w+)", "\n".join(lines("readelf", "-rW", library)))))
    return [f"the loader may bind to another library's: {own}; link with -Bsymbolic-functions"] if own else []


def check_needed(library):
    allowed = {"libc.so.6", "libm.so.6", "libpng16.so.16", "libz.so.1", "libpthread.so.0", "ld-linux-x86-64.so.2"}
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", "\n".join(lines("readelf", "-d", library))))
    return [] if needed <= allowed else [f"the library needs {needed - allowed}"]


def check_stack(library):
    flags = [l for l in lines("readelf", "-lW", library) if "GNU_STACK" in l]
    return [] if flags and "RWE" not in flags[0] else ["the stack would be executable"]


def main():
    library, passed, failed = sys.argv[1], 0, 0
    for check in (check_symbols, check_map, check_nodes, check_headers, check_structs, check_version, check_soname, check_references,
                  check_own_calls, check_needed, check_stack):
        faults = check(library)
        for fault in faults:
            print(f"{check.__name__}: {fault}")
        passed += not faults
        failed += bool(faults)
    print(f"abi: {passed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
