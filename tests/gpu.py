# SPDX-License-Identifier: MIT
"""What tests/run --gpu runs: the kernels' tests on this machine's GPU, then again under compute-sanitizer where that is installed.
Builds all of it itself, in build-gpu, with nvcc and a C compiler, for this machine's GPU alone; or takes what was built
elsewhere and carried along."""

import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
BUILD = TOP / "build-gpu"
KERNELS, TESTS = TOP / "kernels/cuda", TOP / "tests/cuda_emulator"
PROGRAMS = ("attention", "conv", "elementwise", "linear", "norm", "streams")
ALL = (*PROGRAMS, "bench")
LIBRARY = BUILD / "library"
FAILING = pathlib.Path("tests/api/failing/libimagine_cuda.so")
CARRIED, LISTED = LIBRARY / "carried", LIBRARY / "programs.json"
SOURCES = BUILD / "sources"
LIVES = ("handles go on", "failing device", "lives", "shipped model") # of api_cuda_device, each by itself
TOOLS = ("memcheck", "racecheck", "initcheck")
# (tool, program): how compute-sanitizer runs it where that is not once and with nothing left out: its options; the tests' names, with
# a `-` of those that are left out.
ALLOWED = {
    # `spoilt` does on purpose what a stream cannot record: these errors are what it asks for.
    ("memcheck", "streams"): [(["--report-api-errors", "no"], []), ([], ["graph", "uploads"])],
    # Our own kernels; those of cuBLASLt and cuDNN, for large layers, are not ours to check, and take long.
    ("racecheck", "linear"): [([], ["-library", "-folded"])],
    ("racecheck", "conv"): [([], ["-library"])],
    # racecheck does not see that a warp which only arrives at a named barrier has read what it read before: it reports the
    # next write of the one that waits there. The reader has stored the value by then, so that it cannot still be on its way.
    ("racecheck", "primitives"): [(["--kernel-name-exclude", "kns=relay_kernel"], [])],
}
CLOSING = re.compile(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?")
CC = ["-std=c11", "-O2", "-g", "-D_GNU_SOURCE", "-ffp-contract=off", "-I", TOP, "-I", TOP / "include",
      "-I", TOP / "lib"]


RUNNING = set() # process groups
END = [float("inf")] # when all is to be over, by time.monotonic()


def end_all(*_):
    """Asked to end: with all that was started, which would go on in sessions of its own."""
    for group in list(RUNNING):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    os._exit(1)


def run(command, timeout=600, env=None):
    """(exit status, output); a timeout reads as 124, and ends the command with all that it has started."""
    timeout = min(timeout, max(1, END[0] - time.monotonic()))
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen([str(c) for c in command], stdout=output, stderr=subprocess.STDOUT, cwd=TOP,
                                   env=dict(os.environ, **(env or {})), start_new_session=True)
        RUNNING.add(process.pid)
        try:
            code, late = process.wait(timeout), ""
        except subprocess.TimeoutExpired:
            code, late = 124, f"\nno end after {timeout:.0f} s\n"
            os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                late += "and it cannot be ended: it waits in the driver\n"
        RUNNING.discard(process.pid)
        output.seek(0)
        return code, output.read() + late


def give_up(why):
    print(f"tests/run --gpu: {why}")
    print("0 passed, 1 failed")
    sys.exit(1)


def find_nvcc():
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if not nvcc:
        give_up("no nvcc on the path or in /usr/local/cuda/bin; install the CUDA toolkit, 12.5 or newer")
    return pathlib.Path(nvcc)


def find_libraries(nvcc):
    """Folders of cuBLASLt, cuDNN and what these open: of Python's packages, whose PyTorch uses them, and of the toolkit."""
    spec = importlib.util.find_spec("nvidia")
    packages = [pathlib.Path(p) for p in spec.submodule_search_locations or []] if spec else []
    folders = [str(lib) for package in packages for lib in sorted(package.glob("*/lib")) if any(lib.glob("*.so*"))]
    toolkit = nvcc.resolve().parent.parent / "lib64" if nvcc else pathlib.Path("/usr/local/cuda/lib64")
    return [*folders, *([str(toolkit)] if toolkit.is_dir() else [])]


def find_gpu():
    """(name, compute capability as 10 major + minor) of the first GPU."""
    if not shutil.which("nvidia-smi"):
        give_up("this machine has no NVIDIA GPU, or no driver for it (no nvidia-smi); run it on one that has, or "
                "tests/run 'cuda emulator' here")
    code, text = run(["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader", "-i", "0"], 60)
    found = re.match(r"(.*), (\d+)\.(\d+)\s*$", text.splitlines()[0] if text else "")
    if code or not found:
        give_up(f"nvidia-smi finds no GPU: {text.strip()}")
    return found.group(1), 10 * int(found.group(2)) + int(found.group(3))


def target(capability, hopper):
    """nvcc's words for machine code that this GPU runs. A kernel for Hopper alone is compiled, if never run, on others."""
    if capability == 90 or hopper:
        return ["-gencode", "arch=compute_90a,code=sm_90a"]
    if capability < 90:
        return ["-gencode", f"arch=compute_80,code=sm_{max(capability, 80)}"]
    return ["-gencode", "arch=compute_80,code=compute_80"]


def commands(nvcc, capability):
    """What is to be compiled, in any order; then what is to be linked."""
    compiler, objects, compiled, linked = os.environ.get("CC", "cc"), [], [], []
    for source in sorted(KERNELS.glob("*.cu")):
        objects.append(BUILD / (source.stem + ".o"))
        compiled.append([nvcc, "-std=c++17", "-O3", *target(capability, "hopper" in source.name), "-Xcompiler",
                         "-fPIC,-fvisibility=hidden", "-I", TOP, "-lineinfo", "-c", source, "-o", objects[-1]])
    # Of cpu.c no more is wanted than the table of plain C, and of the rest what that names: the linker drops the others.
    plain = []
    for source in [*sorted((TOP / "kernels/ref").glob("*.c")), TOP / "kernels/cpu/cpu.c", TOP / "kernels/device_bench.c", TESTS / "gpu.c",
                   *(TESTS / f"{name}.c" for name in ALL)]:
        plain.append(BUILD / f"{source.parent.name}-{source.stem}.o")
        compiled.append([compiler, *CC, "-fdata-sections", "-ffunction-sections", "-c", source, "-o", plain[-1]])
    common = plain[:-len(ALL)]
    compiled.append([nvcc, "-std=c++17", "-O2", *target(capability, True),
                     *([] if capability == 90 else target(capability, False)), "-I", TOP, TESTS / "primitives.cu", "-lineinfo", "-o",
                     BUILD / "primitives"])
    module = BUILD / "libimagine_cuda.so"
    linked.append([nvcc, "-shared", "-cudart", "static", "-Xlinker", f"-soname={module.name}", *objects, "-o", module])
    for name, main in zip(ALL, plain[-len(ALL):]):
        linked.append([compiler, "-Wl,--gc-sections", main, *common, module, "-Wl,-rpath,$ORIGIN", "-lm", "-lpthread", "-o",
                       BUILD / name])
    return compiled, linked


def sources():
    """A word for what is built, and tested with."""
    found = hashlib.sha256()
    for path in sorted(path for folder in ("include", "kernels", "lib", "examples", "tests") for path in (TOP / folder).rglob("*.*")):
        if path.suffix in (".c", ".cpp", ".cu", ".cuh", ".h", ".safetensors", ".json") and path.is_file():
            found.update(path.relative_to(TOP).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def build(nvcc, capability):
    BUILD.mkdir(exist_ok=True)
    compiled, linked = commands(nvcc, capability)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for code, text in pool.map(lambda c: run(c, 900), compiled):
            if code:
                give_up(f"the build fails:\n{text[-4000:]}")
    for command in linked:
        code, text = run(command, 900)
        if code:
            give_up(f"the build fails:\n{text[-4000:]}")
    SOURCES.write_text(sources())


def counted(code, text):
    """(passed, failed, skipped) of a test program."""
    found = CLOSING.findall(text)
    passed, failed, skipped = (int(n or 0) for n in found[-1]) if found else (0, 0, 0)
    if not failed and (code or not passed or "no device" in text):
        failed = 1
    return passed, failed, skipped


def watched(sanitizer, tool, program, limit):
    """The program under one of compute-sanitizer's tools; what the tests found themselves is not counted again."""
    code, text = 0, ""
    for options, names in ALLOWED.get((tool, program.name), [([], [])]):
        status, output = run([sanitizer, "--tool", tool, "--error-exitcode", "99", *options, program, *names], limit)
        code, text = code or status, text + output
    if "Device not supported" in text or "ERROR SUMMARY" not in text and "No attachable process" in text:
        return (0, 0, 1), f"compute-sanitizer cannot watch this GPU: {text.strip()[-300:]}"
    return (int(not code), int(bool(code)), 0), text


Suite = collections.namedtuple("Suite", "name call alone", defaults=[False])


def suites(limits=(600, 1800, 600)):
    """Each with a call that gives counts and output. `alone`: it looks at all of the GPU's memory. Limits: seconds for a test
    program, for one of the library's, for one that compute-sanitizer watches."""
    for name in ("primitives", *PROGRAMS):
        def plain(name=name):
            code, text = run([BUILD / name], limits[0])
            return counted(code, text), text
        yield Suite(f"gpu {name}", plain)
    yield from library_suites(limits[1])
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    for tool in TOOLS:
        for name in ("primitives", *PROGRAMS):
            if sanitizer:
                yield Suite(f"gpu {name} under {tool}",
                            lambda tool=tool, name=name: watched(sanitizer, tool, BUILD / name, limits[2]))
            else:
                yield Suite(f"gpu {name} under {tool}", lambda: ((0, 0, 1), "compute-sanitizer is not installed"))


def missing_for_library():
    """What the library's own build needs and this machine has not."""
    needs = {"meson": shutil.which("meson"), "ninja": shutil.which("ninja"), "g++": shutil.which("g++"),
             "libpng": shutil.which("pkg-config") and run(["pkg-config", "--exists", "libpng"])[0] == 0}
    return [name for name, found in needs.items() if not found]


def build_library():
    """(exit status, output). Leaves what its programs are, and the libraries of the system that they need beside toolkit and C
    library, so that build-gpu can be carried to a machine where nothing of it can be built."""
    if not (LIBRARY / "build.ninja").exists():
        code, text = run(["meson", "setup", LIBRARY, TOP, "-Dcuda=disabled"]) # whose compiler it is may warn of what ours does not
        if code:
            return code, text
    tests = [test for test in json.loads(run(["meson", "introspect", "--tests", LIBRARY])[1])
             if test["name"].startswith("api/cuda") and "watched" not in test["name"]]
    programs = {os.path.relpath(test["cmd"][0], LIBRARY): [] for test in tests}
    for test in tests: # of goldens, what the emulator's suite runs, and all of the shipped model's
        if "goldens" in test["name"] and not test["name"].endswith("tiny"):
            programs[os.path.relpath(test["cmd"][0], LIBRARY)] = test["cmd"][1:]
    if not programs:
        return 1, "no test of the name api/cuda"
    code, text = run(["ninja", "-C", LIBRARY, FAILING, "examples/imagine", *programs], 1500)
    if code:
        return code, text
    CARRIED.mkdir(exist_ok=True)
    for path in re.findall(r"=> (/\S*/lib(?:png|z)\S*)", run(["ldd", LIBRARY / "libimagine.so"])[1]):
        shutil.copy(path, CARRIED)
    LISTED.write_text(json.dumps(programs, indent=1))
    return 0, text


def prepare_library():
    """(counts, output) where the library's tests cannot run; (None, None) where they can."""
    missing = missing_for_library()
    if not missing:
        code, text = build_library()
        return ((0, 1, 0), text) if code else (None, None)
    if LISTED.exists():
        return None, None
    return (0, 0, 1), (f"the library cannot be built here without {', '.join(missing)}; tests/run --gpu --build where they are "
                       "makes build-gpu with all of it, to be carried along")


def library_suites(limit):
    """The library's stages beside the reference's goldens, jobs and the shipped model beside the CPU's, its memory running out, a
    thousand lives: its tests of the emulated module, with the real one."""
    # The built module inside of one whose allocations can be made to fail.
    env = {"LD_LIBRARY_PATH": ":".join(map(str, [LIBRARY / FAILING.parent, CARRIED, os.environ.get("LD_LIBRARY_PATH", "")])),
           "IMAGINE_TEST_MODULE": str(BUILD / "libimagine_cuda.so"), "IMAGINE_TEST_DEVICE": "cuda",
           "IMAGINE_TEST_DIR": str(TOP / "tests")}
    programs = json.loads(LISTED.read_text()) if LISTED.exists() else {}
    for program, words in sorted(programs.items()):
        parts = [[word] for word in LIVES] if program.endswith("api_cuda_device") else [words]
        for part in parts:
            def call(program=program, part=part):
                code, text = run([LIBRARY / program, *part], limit, env)
                return counted(code, text), text
            name = pathlib.Path(program).name.replace("_", " ")
            yield Suite(f"gpu library, {name}{' '.join(['', *part]) if len(parts) > 1 else ''}", call, part == ["lives"])


def build_all(capability):
    build(find_nvcc(), capability)
    missing = missing_for_library()
    code, text = (0, "") if missing else build_library()
    if code:
        give_up(f"the library's build fails:\n{text[-4000:]}")
    print(f"built for compute capability {capability / 10} in {BUILD.name}"
          + (f", without the library (no {', '.join(missing)} here)" if missing else ""))


def pack(path):
    """What --built takes, without what only the build needs; to be unpacked in a copy of the source tree."""
    def kept(member):
        name = pathlib.PurePosixPath(member.name).name
        of_the_build = name.endswith((".o", ".d", ".a", ".p", ".cpp", ".ninja")) or name.startswith(("meson-", ".ninja_", "compile_commands"))
        return None if of_the_build else member

    part = path.with_name(path.name + ".part")
    with tarfile.open(part, "w:gz") as archive:
        archive.add(BUILD, BUILD.name, filter=kept)
    part.replace(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def show(suite, counts, output, seconds, logs):
    if logs:
        (logs / (re.sub(r"\W+", "-", suite.name) + ".log")).write_text(output)
    if counts[1]:
        print(output.rstrip()[-3000 if logs else -6000:])
    elif counts[2] and not counts[0]:
        print(f"    {output.rstrip()[-1000:]}")
    print(f"{'FAILED' if counts[1] else 'ok    '} {suite.name}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped "
          f"({seconds:.1f} s)", flush=True)


def run_suites(chosen, jobs, logs):
    """Those that compute-sanitizer watches come last, those that look at the GPU's memory in between and one at a time."""
    def timed(suite):
        begin = time.monotonic()
        done = suite.call() if begin < END[0] else ((0, 0, 1), "no time was left for it")
        return suite, *done, time.monotonic() - begin

    totals = [0, 0, 0]
    watched_ones = [suite for suite in chosen if " under " in suite.name]
    for group, workers in (([s for s in chosen if s not in watched_ones and not s.alone], jobs),
                           ([s for s in chosen if s.alone], 1), (watched_ones, jobs)):
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for done in concurrent.futures.as_completed([pool.submit(timed, suite) for suite in group]):
                suite, counts, output, seconds = done.result()
                show(suite, counts, output, seconds, logs)
                totals = [a + b for a, b in zip(totals, counts)]
    return totals


def parse():
    parser = argparse.ArgumentParser(prog="tests/run --gpu")
    parser.add_argument("--build", action="store_true", help="only build, for --capability; needs no GPU")
    parser.add_argument("--capability", type=int, default=90, metavar="N", help="with --build: 80, 90, ...")
    parser.add_argument("--pack", type=pathlib.Path, metavar="FILE", help="with --build: an archive (.tar.gz) of what --built needs, "
                        "to carry to a machine with a GPU and unpack in a copy of this tree")
    parser.add_argument("--built", action="store_true", help="test what lies in build-gpu, built here or elsewhere")
    parser.add_argument("--bench", action="store_true", help="instead of testing, print how fast the operations are, those "
                        "whose names contain a NAME (peak, memory, launch, attention, linear, conv, norm)")
    parser.add_argument("--list", action="store_true", help="print the suites' names")
    parser.add_argument("--without", action="append", default=[], metavar="TEXT", help="no suites whose names contain this")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="so many suites at a time")
    parser.add_argument("--limits", default="600,1800,600", metavar="A,B,C", help="seconds for a test program, for one of the "
                        "library's, and for one under compute-sanitizer (default: %(default)s); what is cut off has failed")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="N", help="after which no suite is begun, and those "
                        "that run are cut off")
    parser.add_argument("--logs", type=pathlib.Path, metavar="FOLDER", help="all that each suite prints, a file each")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only suites whose names contain one of these")
    return parser.parse_args()


def main():
    options = parse()
    END[0] = time.monotonic() + options.seconds
    signal.signal(signal.SIGTERM, end_all)
    if options.list:
        print("\n".join(suite.name for suite in suites()))
        return
    if options.build:
        build_all(options.capability)
        return pack(options.pack) if options.pack else None
    if options.pack:
        give_up("--pack goes with --build")
    name, capability = find_gpu()
    nvcc = None if options.built else find_nvcc()
    if capability < 80:
        give_up(f"{name} is of compute capability {capability / 10}; the kernels need 8.0")
    print(f"{name}, compute capability {capability / 10}{'' if options.built else '; building'}", flush=True)
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), *find_libraries(nvcc)]))
    if not options.built:
        build(nvcc, capability)
    elif not SOURCES.exists() or SOURCES.read_text() != sources():
        print(f"WARNING: {BUILD.name} was not made from these sources")
    if options.bench:
        sys.exit(subprocess.run([BUILD / "bench", *options.names], check=False).returncode)
    totals = [0, 0, 0]
    counts, text = (None, None) if options.built else prepare_library()
    if counts:
        show(Suite("gpu library", None), counts, text, 0, None)
        totals = list(counts)
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
    chosen = [suite for suite in suites(tuple(map(float, options.limits.split(","))))
              if (not options.names or any(n in suite.name for n in options.names))
              and not any(text in suite.name for text in options.without)]
    totals = [a + b for a, b in zip(totals, run_suites(chosen, options.jobs, options.logs))]
    if not any(totals):
        give_up("no suite of that name")
    print(f"{totals[0]} passed, {totals[1]} failed" + (f", {totals[2]} skipped" if totals[2] else ""))
    sys.exit(1 if totals[1] else 0)


if __name__ == "__main__":
    main()
