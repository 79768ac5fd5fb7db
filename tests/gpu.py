# SPDX-License-Identifier: MIT
"""What tests/run --gpu runs: the kernels' tests on this machine's GPU, then again under compute-sanitizer where that is installed.
Builds all of it itself, in build-gpu, with nvcc and a C compiler, for this machine's GPU alone."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
BUILD = TOP / "build-gpu"
KERNELS, TESTS = TOP / "kernels/cuda", TOP / "tests/cuda_emulator"
PROGRAMS = ("attention", "conv", "elementwise", "linear", "norm", "streams")
ALL = (*PROGRAMS, "bench")
LIBRARY = BUILD / "library"
FAILING = pathlib.Path("tests/api/failing/libimagine_cuda.so")
CARRIED, LISTED = LIBRARY / "carried", LIBRARY / "programs.json"
TOOLS = ("memcheck", "racecheck", "initcheck")
CLOSING = re.compile(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?")
CC = ["-std=c11", "-O2", "-g", "-D_GNU_SOURCE", "-ffp-contract=off", "-I", TOP, "-I", TOP / "include",
      "-I", TOP / "lib"]


def run(command, timeout=600, env=None):
    """(exit status, output); a timeout reads as 124."""
    try:
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=timeout, cwd=TOP, env=dict(os.environ, **(env or {})))
        return done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        text = late.stdout or b""
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        return 124, f"{text}\nno end after {timeout} s\n"


def give_up(why):
    print(f"tests/run --gpu: {why}")
    print("0 passed, 1 failed")
    sys.exit(1)


def find_nvcc():
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if not nvcc:
        give_up("no nvcc on the path or in /usr/local/cuda/bin; install the CUDA toolkit, 12.5 or newer")
    return pathlib.Path(nvcc)


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
    linked.append([nvcc, "-shared", "-cudart", "static", *objects, "-o", module])
    for name, main in zip(ALL, plain[-len(ALL):]):
        linked.append([compiler, "-Wl,--gc-sections", main, *common, module, f"-Wl,-rpath,{BUILD}", "-lm", "-lpthread", "-o",
                       BUILD / name])
    return compiled, linked


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


def counted(code, text):
    """(passed, failed, skipped) of a test program."""
    found = CLOSING.findall(text)
    passed, failed, skipped = (int(n or 0) for n in found[-1]) if found else (0, 0, 0)
    if not failed and (code or not passed or "no device" in text):
        failed = 1
    return passed, failed, skipped


def watched(sanitizer, tool, program):
    """The program under one of compute-sanitizer's tools; what the tests found themselves is not counted again."""
    code, text = run([sanitizer, "--tool", tool, "--error-exitcode", "99", program])
    if "Device not supported" in text or "ERROR SUMMARY" not in text and "No attachable process" in text:
        return (0, 0, 1), f"compute-sanitizer cannot watch this GPU: {text.strip()[-300:]}"
    return (int(not code), int(bool(code)), 0), text


def suites():
    for name in ("primitives", *PROGRAMS):
        def plain(name=name):
            code, text = run([BUILD / name])
            return counted(code, text), text
        yield f"gpu {name}", plain
    yield "gpu library", library
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    for tool in TOOLS:
        for name in ("primitives", *PROGRAMS):
            if sanitizer:
                yield f"gpu {name} under {tool}", lambda tool=tool, name=name: watched(sanitizer, tool, BUILD / name)
            else:
                yield f"gpu {name} under {tool}", lambda: ((0, 0, 1), "compute-sanitizer is not installed")


def missing_for_library():
    """What the library's own build needs and this machine has not."""
    needs = {"meson": shutil.which("meson"), "ninja": shutil.which("ninja"), "g++": shutil.which("g++"),
             "libpng": shutil.which("pkg-config") and run(["pkg-config", "--exists", "libpng"])[0] == 0}
    return [name for name, found in needs.items() if not found]


def build_library():
    """(exit status, output). Leaves what its programs are, and the libraries of the system that they need beside toolkit and C
    library, so that build-gpu can be carried to a machine where nothing of it can be built."""
    if not (LIBRARY / "build.ninja").exists():
        code, text = run(["meson", "setup", LIBRARY, TOP, "-Dcuda=disabled"])
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
    code, text = run(["ninja", "-C", LIBRARY, FAILING, *programs], 1500)
    if code:
        return code, text
    CARRIED.mkdir(exist_ok=True)
    for path in re.findall(r"=> (/\S*/lib(?:png|z)\S*)", run(["ldd", LIBRARY / "libimagine.so"])[1]):
        shutil.copy(path, CARRIED)
    LISTED.write_text(json.dumps(programs, indent=1))
    return 0, text


def library():
    """The library's stages beside the reference's goldens, jobs and the shipped model beside the CPU's, its memory running out, a
    thousand lives: its tests of the emulated module, with the real one."""
    missing, text = missing_for_library(), ""
    if not missing:
        code, text = build_library()
        if code:
            return (0, 1, 0), text
    elif not LISTED.exists():
        return (0, 0, 1), (f"the library cannot be built here without {', '.join(missing)}; tests/run --gpu --build where they are "
                           "makes build-gpu with all of it, to be carried along")
    totals = [0, 0, 0]
    # The built module inside of one whose allocations can be made to fail.
    paths = [LIBRARY / FAILING.parent, *([CARRIED] if missing else []), os.environ.get("LD_LIBRARY_PATH", "")]
    env = {"LD_LIBRARY_PATH": ":".join(map(str, paths)), "IMAGINE_TEST_MODULE": str(BUILD / "libimagine_cuda.so"),
           "IMAGINE_TEST_DEVICE": "cuda", "IMAGINE_TEST_DIR": str(TOP / "tests")}
    for program, words in sorted(json.loads(LISTED.read_text()).items()):
        code, output = run([LIBRARY / program, *words], 1800, env)
        totals = [a + b for a, b in zip(totals, counted(code, output))]
        text += output
    return tuple(totals), text


def main():
    parser = argparse.ArgumentParser(prog="tests/run --gpu")
    parser.add_argument("--build", action="store_true", help="only build, for --capability; needs no GPU")
    parser.add_argument("--capability", type=int, default=90, metavar="N", help="with --build: 80, 90, ...")
    parser.add_argument("--bench", action="store_true", help="instead of testing, print how fast the operations are, those "
                        "whose names contain a NAME (peak, memory, launch, attention, linear, conv, norm)")
    parser.add_argument("--list", action="store_true", help="print the suites' names")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only suites whose names contain one of these")
    options = parser.parse_args()
    if options.list:
        print("\n".join(name for name, _ in suites()))
        return
    if options.build:
        build(find_nvcc(), options.capability)
        missing = missing_for_library()
        code, text = (0, "") if missing else build_library()
        if code:
            give_up(f"the library's build fails:\n{text[-4000:]}")
        print(f"built for compute capability {options.capability / 10} in {BUILD.name}"
              + (f", without the library (no {', '.join(missing)} here)" if missing else ""))
        return
    name, capability = find_gpu()
    nvcc = find_nvcc()
    if capability < 80:
        give_up(f"{name} is of compute capability {capability / 10}; the kernels need 8.0")
    print(f"{name}, compute capability {capability / 10}; building", flush=True)
    # cuBLASLt lies beside the toolkit, on the system's path or not.
    library = nvcc.resolve().parent.parent / "lib64"
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(library)]))
    build(nvcc, capability)
    if options.bench:
        sys.exit(subprocess.run([BUILD / "bench", *options.names], check=False).returncode)
    totals = [0, 0, 0]
    for name, suite in suites():
        if options.names and not any(n in name for n in options.names):
            continue
        begin = time.monotonic()
        counts, output = suite()
        if counts[1]:
            print(output.rstrip()[-6000:])
        elif counts[2] and not counts[0]:
            print(f"    {output}")
        print(f"{'FAILED' if counts[1] else 'ok    '} {name}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped "
              f"({time.monotonic() - begin:.1f} s)", flush=True)
        totals = [a + b for a, b in zip(totals, counts)]
    if not any(totals):
        give_up("no suite of that name")
    print(f"{totals[0]} passed, {totals[1]} failed" + (f", {totals[2]} skipped" if totals[2] else ""))
    sys.exit(1 if totals[1] else 0)


if __name__ == "__main__":
    main()
