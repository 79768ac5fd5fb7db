# SPDX-License-Identifier: MIT
"""Guards the ABI: compares libimagine.so with the stored interfaces of earlier versions (tests/abi/v*), by abidiff, and
runs programs that were built for them.

    guard.py LIBRARY              the tests
    guard.py --write LIBRARY DIR  stores the interface of a library that is being released

What may change: functions, constants and types may be added, and fields behind the last one of a struct. All else fails.
Whether the guard would notice is tested too, on stand-ins for the library with planted changes."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import witness

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
# Handles are opaque: what is in them is dropped. abidw knows private headers by their names alone, and some are called as
# a public one; the label is the one that it gives to private types, so that they turn into declarations.
OPAQUE = """[suppress_type]
  label = Artificial private types suppression specification
  source_location_not_regexp = include/imagine/[a-z]+\\.h$
  drop = yes
"""
# Lines of abidiff's report that tell of an addition. What is not here is a fault.
HARMLESS = re.compile(r"\s*$|Leaf changes summary:|Changed leaf types summary:|Removed/Changed/Added \w+ summary:|"
                      r"\d+ Added functions?:|  \[A\] 'function |'struct \w+( at [\w.:]+)?' changed:|  \d+ data member insertions?:")
GROWN = re.compile(r"  type size changed from (\d+) to (\d+) \(in bits\)")
# Macros of another text than then and the same value, which tests/abi/layout.c holds them to: (name, text of then): text of now.
REWORDED = {("IMAGINE_ERROR_INIT", "{ (uint32_t)sizeof(imagine_error), 0, 0, 0, { 0 } }"): "{ sizeof(imagine_error), 0, 0, 0, { 0 } }"}
INSERTED = re.compile(r"    '.*', at offset (\d+) \(in bits\)")


def call(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True)


def interface(library, include, output):
    """Writes the interface of a library as abidw sees it; a fault, or None."""
    with tempfile.NamedTemporaryFile("w", suffix=".abignore") as opaque:
        opaque.write(OPAQUE)
        opaque.flush()
        done = call("abidw", "--exported-interfaces-only", "--drop-private-types", "--headers-dir", include, "--suppressions",
                    opaque.name, "--no-corpus-path", "--no-comp-dir-path", "--no-elf-needed", "--no-show-locs", "--out-file",
                    output, library)
    if done.returncode:
        return f"abidw {library}: {done.stderr.strip()}"
    text = pathlib.Path(output).read_text()
    symbols = set(re.findall(r"<elf-symbol name='(\w+)'", text))
    missing = symbols - set(re.findall(r"elf-symbol-id='(\w+)@", text))
    structs = set(re.findall(r"typedef struct (\w+) \{", "".join(p.read_text() for p in pathlib.Path(include).glob("*/*.h"))))
    missing |= structs - set(re.findall(r"<class-decl name='(\w+)' size-in-bits", text))
    return f"{library}: no debug information about {', '.join(sorted(missing))}" if missing or not symbols else None


def faults(report):
    """The lines of an abidiff report that are more than additions."""
    found, heading, size = [], "", 0
    for line in report.splitlines():
        if line and not line.startswith(" "):
            heading, size = line, 0
        grown, inserted = GROWN.match(line), INSERTED.match(line)
        if grown:
            size = int(grown[1])
        if HARMLESS.match(line) or grown and int(grown[2]) > size or inserted and size and int(inserted[1]) >= size:
            continue
        found.append(f"{heading} {line.strip()}")
    return found


def compare(baseline, library, include, folder):
    """What is wrong with a library, beside a stored interface."""
    output = pathlib.Path(folder) / "interface.abi"
    fault = interface(library, include, output)
    if fault:
        return [fault]
    done = call("abidiff", "--leaf-changes-only", "--harmless", "--no-show-locs", baseline, output)
    if done.returncode & 3:
        return [f"abidiff: {done.stderr.strip()}"]
    found = faults(done.stdout)
    return found or (["abidiff finds an incompatible change"] if done.returncode & 8 else [])


def constants(include):
    """name: (parameters, value) of every macro but the version's and the headers' own."""
    text = "".join(path.read_text() for path in sorted((include / "imagine").glob("*.h")))
    text = re.sub(r"\\\n", " ", re.sub(r"/\*.*?\*/", "", text, flags=re.S))
    found = re.findall(r"^#define (IMAGINE_\w+)(\([^)]*\))?[ \t]+(.*)$", text, re.M)
    return {name: (parameters, " ".join(value.split())) for name, parameters, value in found
            if not re.match(r"IMAGINE_(VERSION_M|VERSION_P|API|STATUS_ENUM)", name)}


def check_constants(old):
    now = constants(TOP / "include")
    text = {name: value for name, value in constants(old / "include").items() if name != "IMAGINE_STATUS_LIST"}
    found = [f"{name} was {value}, is {now.get(name)}" for name, value in text.items()
             if now.get(name) not in (value, (value[0], REWORDED.get((name, value[1]))))]
    listed = [re.findall(r"X\((\w+), (-?\d+)", c["IMAGINE_STATUS_LIST"][1]) for c in (constants(old / "include"), now)]
    return found + [f"status {pair} is gone" for pair in listed[0] if pair not in listed[1]]


def symbols(old):
    return (old / "symbols.txt").read_text().split()


def nodes(old):
    """The version nodes of then, with their symbols: a symbol never leaves its node, so today's map tells."""
    found = re.findall(r"^(IMAGINE_[\d.]+) \{(.*?)^\}", (TOP / "lib/imagine.map").read_text(), re.M | re.S)
    kept = [(node, [s for s in re.findall(r"(imagine_\w+);", text) if s in set(symbols(old))]) for node, text in found]
    return [(node, names) for node, names in kept if names]


def check_stand_in(old, folder):
    """The stored headers and the stored interface tell the same."""
    library = folder / "libimagine.so.0"
    witness.build(old / "include", library, nodes(old))
    done = compare(old / "libimagine.abi", library, old / "include", folder)
    return done + ([] if witness.declared(old / "include/imagine") == symbols(old) else ["symbols.txt and the headers differ"])


def check_program(old, folder, library):
    """Links the program of then with the stand-in of then, and runs it with the library of now."""
    program = folder / "program"
    built = call("gcc", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O1", "-I", old / "include", old / "program.c",
                 f'-DIMAGINE_TEST_DIR="{TOP / "tests"}"', folder / "libimagine.so.0", "-o", program)
    if built.returncode:
        return [built.stdout + built.stderr]
    here = folder / "now"
    here.mkdir()
    (here / "libimagine.so.0").symlink_to(pathlib.Path(library).resolve())
    used = set(re.findall(r"(imagine_\w+)@IMAGINE_", call("nm", "-D", "--undefined-only", program).stdout))
    unused = set(symbols(old)) - used
    ran = subprocess.run([program], capture_output=True, text=True, env=dict(os.environ, LD_LIBRARY_PATH=str(here), LD_BIND_NOW="1"))
    return ([ran.stdout + ran.stderr] if ran.returncode else []) + ([f"program.c does not use {sorted(unused)}"] if unused else [])


SEED, SHIFT, CANCEL = "uint64_t seed;", "double shift;", "/* NULL, or a token that the handle retains */\n}"
APPENDED = ("sampler.h", CANCEL, CANCEL.replace("}", "uint64_t more; int32_t one, two; }"))
RESET = "IMAGINE_API void imagine_vae_reset(imagine_vae *vae);"
# name: changes of the stored headers as (file, old, new)
ADDITIONS = {
    "a function": [("vae.h", RESET, RESET + " IMAGINE_API int32_t imagine_vae_planted(const imagine_vae *vae);")],
    "fields at the end of options": [APPENDED],
    "a field at the end of an output": [("job.h", "uint64_t memory_peak;", "uint64_t memory_peak; double planted;")],
    "a struct and a function": [("vae.h", "typedef struct imagine_vae imagine_vae;", "typedef struct imagine_vae imagine_vae; "
                                 "typedef struct imagine_planted { uint32_t struct_size, planted; } imagine_planted;"),
                                ("vae.h", RESET, RESET + " IMAGINE_API void imagine_plant(imagine_planted *planted);")],
}
BREAKS = {
    "a function removed": [("vae.h", RESET, "")],
    "a parameter added": [("vae.h", "imagine_vae_reset(imagine_vae *vae)", "imagine_vae_reset(imagine_vae *vae, int32_t planted)")],
    "a parameter's type": [("buffer.h", "const char *name, imagine_error", "const int32_t *name, imagine_error")],
    "a handle's type": [("vae.h", "imagine_vae_reset(imagine_vae *vae)", "imagine_vae_reset(imagine_buffer *vae)")],
    "a returned type": [("buffer.h", "uint64_t imagine_buffer_size", "int32_t imagine_buffer_size")],
    "a field removed": [("job.h", "int32_t preview_every;", "")],
    "a field in the middle": [("sampler.h", SEED, SEED + " uint64_t planted;")],
    "a field's type": [("sampler.h", SHIFT, "uint64_t shift;")],
    "a field's type beside an appended one": [("sampler.h", SHIFT, "uint64_t shift;"), APPENDED],
    "a field's sign": [("sampler.h", SEED, "int64_t seed;"), APPENDED],
    "a field's name": [("sampler.h", SEED, "uint64_t planted;"), APPENDED],
    "two fields swapped": [("sampler.h", "int32_t width, height, frames;", "int32_t height, width, frames;")],
    "an enumeration's width": [("context.h", "typedef int32_t imagine_device;", "typedef int64_t imagine_device;")],
    "a callback's parameter": [("context.h", "void *pointer, size_t size)", "void *pointer)")],
    "an output's field": [("model.h", "uint64_t bytes;", "uint32_t bytes, planted;")],
    "the size of an error": [("status.h", "char message[496];", "char message[504];")],
}


def check_planted(old, folder, changes):
    """What the guard says of stand-ins for headers with these changes."""
    include = folder / "include"
    shutil.copytree(old / "include", include, dirs_exist_ok=True)
    for name, before, after in changes:
        path = include / "imagine" / name
        text = path.read_text()
        if before not in text:
            return [f"{before!r} is not in {name}: nothing was planted"] * 2
        path.write_text(text.replace(before, after, 1))
    library = folder / "planted.so"
    witness.build(include, library, [("IMAGINE_0", witness.declared(include / "imagine"))])
    return compare(old / "libimagine.abi", library, include, folder)


def tests(library):
    """(name, faults) of each test."""
    for old in sorted(HERE.glob("v*.*")):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            yield f"{old.name}: constants", check_constants(old)
            yield f"{old.name}: stored headers and interface agree", check_stand_in(old, folder)
            yield f"{old.name}: the library's interface", compare(old / "libimagine.abi", library, TOP / "include", folder)
            yield f"{old.name}: program", check_program(old, folder, library)
    old = HERE / "v0.1"
    for what, changes in ADDITIONS.items():
        with tempfile.TemporaryDirectory() as name:
            yield f"allows {what}", check_planted(old, pathlib.Path(name), changes)
    for what, changes in BREAKS.items():
        with tempfile.TemporaryDirectory() as name:
            noticed = check_planted(old, pathlib.Path(name), changes)
            yield f"notices {what}", [] if noticed and "nothing was planted" not in noticed[0] else noticed or ["not noticed"]


def main():
    if sys.argv[1] == "--write":
        sys.exit(interface(sys.argv[2], TOP / "include", pathlib.Path(sys.argv[3]) / "libimagine.abi"))
    if not (shutil.which("abidw") and shutil.which("abidiff")):
        print("abi guard: 0 passed, 0 failed, 1 skipped (no abidiff here: abigail-tools has it)")
        return
    passed, failed = 0, 0
    for name, found in tests(sys.argv[1]):
        for fault in found:
            print(f"{name}: {fault}")
        passed += not found
        failed += bool(found)
    print(f"abi guard: {passed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
