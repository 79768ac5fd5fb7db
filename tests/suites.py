# SPDX-License-Identifier: MIT
"""Runs the suites that tests/run names and adds up what they say."""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent.parent
BUILD = TOP / "build"
CLOSING = re.compile(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?")
SANITIZE = ["-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debugoptimized"]
THREAD = ["-Db_sanitize=thread", "-Db_lundef=false", "-Dbuildtype=debugoptimized"]
THREAD_ENV = {"TSAN_OPTIONS": "halt_on_error=1"}
# What has threads, and takes about a minute there.
THREAD_SUITES = ("api/crowd", "api/job", "api/life", "api/same", "api/threads")
FUZZER = ["-Dfuzzer=true", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dbuildtype=debugoptimized",
          "-Doptimization=1"]
# Of meson's, where the build has the compiled module.
MODULE_SUITES = {"api/device built", "cuda module", "cuda module code", "cuda primitives",
                 *("cuda " + name for name in ("attention", "conv", "elementwise", "linear", "norm", "streams"))}
FUZZ_TARGETS = ("safetensors", "json", "tokenizer", "png", "options")
SANITIZE_ENV = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}


def run(command, timeout=900, env=None, **kw):
    """The finished process, output and errors together; a timeout reads as exit status 124."""
    try:
        return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=timeout, env=dict(os.environ, **(env or {})), **kw)
    except subprocess.TimeoutExpired as late:
        text = late.stdout or b""
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        return subprocess.CompletedProcess(command, 124, f"{text}\nno end after {timeout} s\n")


def from_closing(done):
    """(passed, failed, skipped, output) of a test program."""
    found = CLOSING.findall(done.stdout)
    passed, failed, skipped = (int(n or 0) for n in found[-1]) if found else (0, 0, 0)
    if done.returncode and not failed:
        failed = 1
    if not found and not done.returncode:
        passed = 1
    return passed, failed, skipped, done.stdout


def meson_test(test, env):
    return from_closing(run(test["cmd"], env=dict(test["env"], **env), cwd=TOP))


def meson_tests(build):
    return json.loads(run(["meson", "introspect", "--tests", build]).stdout)


def meson_suites(build, prefix="", env=None, wanted=None):
    for test in meson_tests(build):
        if wanted is None or test["name"] in wanted:
            yield prefix + test["name"], lambda test=test: meson_test(test, env or {})


def make_build(folder, options, targets, env=None):
    """A build of its own, set up where it is not yet, of the targets that are asked for once it is; without `targets` only set up."""
    if not (TOP / folder / "build.ninja").exists():
        done = run(["meson", "setup", TOP / folder, TOP, "-Dwerror=true", *options], env=env)
        if done.returncode:
            return done
    return run(["ninja", "-C", TOP / folder, *targets()], timeout=1500) if targets else run(["true"])


def other_build(folder, options, prefix, env, listing, wanted=None):
    """The suites of a build of its own, all or those that are wanted; one that fails where it cannot be made. To list them it is
    set up and not compiled."""
    build = TOP / folder

    def targets():
        return [os.path.relpath(t["cmd"][0], build) for t in meson_tests(build) if wanted and t["name"] in wanted]

    done = make_build(folder, options, None if listing else targets)
    if done.returncode:
        yield prefix + "build", lambda: (0, 1, 0, done.stdout[-4000:])
    else:
        yield from meson_suites(build, prefix, env, wanted)


def fuzz_target(name, part, seconds):
    """libFuzzer on one target, which goes on from what it found before; (inputs or None, output). In CI the changes to the
    seeds are the same ones each time, other ones in each part, so that what fails there fails again."""
    build = TOP / "build-fuzz"
    corpus = build / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    done = run([build / "tests/fuzz" / ("fuzz_" + name), f"-max_total_time={seconds}", "-max_len=2048", "-timeout=60",
                "-rss_limit_mb=2048", "-print_final_stats=1", f"-seed={part if os.environ.get('CI') else 0}",
                f"-artifact_prefix={build}/{name}-", corpus, build / "tests/fuzz/seeds" / name], timeout=seconds + 300)
    count = re.search(r"number_of_executed_units: (\d+)", done.stdout)
    return int(count.group(1)) if count and not done.returncode else None, done.stdout[-4000:]


def fuzz(seconds):
    """Every target for as long, two side by side; a long time in two parts, so that both processors have work to the end."""
    if not shutil.which("clang"):
        print("no clang here: the fuzz targets run on changed seeds only")
        return 0, 0, 1, ""
    done = make_build("build-fuzz", FUZZER, lambda: ["tests/fuzz/seeds", *("tests/fuzz/fuzz_" + t for t in FUZZ_TARGETS)],
                      {"CC": "clang"})
    if done.returncode:
        return 0, 1, 0, done.stdout[-4000:]
    parts = [seconds] if seconds < 20 else [seconds - seconds // 2, seconds // 2]
    jobs = [(name, part, length) for part, length in enumerate(parts, 1) for name in FUZZ_TARGETS]
    bad, output = set(), ""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for (name, part, length), (count, text) in zip(jobs, pool.map(lambda job: fuzz_target(*job), jobs)):
            print(f"  fuzz {name}: {'FAILED' if count is None else f'{count} inputs'} in {length} s", flush=True)
            if count is None:
                bad.add(name)
                output += text
    return len(FUZZ_TARGETS) - len(bad), len(bad), 0, output


def unittest_suite(folder):
    done = run([sys.executable, "-m", "unittest", "discover", "-s", folder], cwd=TOP,
               env={"IMAGINE_LIBRARY": str(BUILD / "libimagine.so"), "IMAGINE_PROGRAM": str(BUILD / "examples/imagine")})
    count = re.search(r"Ran (\d+) test", done.stdout)
    bad = sum(int(n) for n in re.findall(r"(?:failures|errors)=(\d+)", done.stdout))
    skipped = sum(int(n) for n in re.findall(r"skipped=(\d+)", done.stdout))
    if done.returncode and not bad:
        bad = 1
    total = int(count.group(1)) if count else 0
    return max(total - bad - skipped, 0), bad, skipped, done.stdout


def cargo_suite(folder):
    """The crates' own tests, with what cargo builds kept in the build folder."""
    if not shutil.which("cargo"):
        print("no cargo here: the Rust binding is skipped")
        return 0, 0, 1, ""
    done = run(["cargo", "test", "--offline", "--no-fail-fast"], cwd=folder,
               env={"IMAGINE_LIB_DIR": str(BUILD), "CARGO_TARGET_DIR": str(BUILD / "rust")})
    found = re.findall(r"test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored", done.stdout)
    passed, failed, skipped = (sum(int(n) for n in column) for column in zip(*found)) if found else (0, 0, 0)
    return passed, failed or int(done.returncode != 0), skipped, done.stdout


def training_smoke():
    """A few steps of every stage of the 64x64 model's training and of what grows from it; the library makes a clip with both packs."""
    needs = ["python", "-c", "import torch, diffusers, transformers, sentencepiece"]
    shared = pathlib.Path(os.environ.get("IMAGINE_SHARED", TOP.parent / "shared"))
    if not shutil.which("python") or run(needs).returncode or not (shared / "data/pictures").is_dir():
        print("no PyTorch with diffusers, or no shared data folder: the training is skipped")
        return 0, 0, 3, ""
    with tempfile.TemporaryDirectory() as folder:
        done = run([TOP / "models/tiny/train/run", "--smoke", "--state", folder], timeout=1800)
        output, failed = done.stdout, done.returncode != 0
        for pack in ("pack64", "pack"):
            done = run([BUILD / "examples/imagine", "generate", "a red apple", "--model", folder + "/" + pack, "--steps",
                        "2", "--out", folder + "/apple.png"])
            output += done.stdout
            failed += done.returncode != 0
    return 3 - failed, failed, 0, output


def strict_cxx():
    """(exit status, output) for each compiler of a program in C++ that uses the headers' macros, where casts of C's are errors."""
    for compiler in filter(shutil.which, ("g++", "clang++")):
        done = run([compiler, "-std=c++17", "-Wall", "-Wextra", "-Wold-style-cast", "-Wconversion", "-Wsign-conversion", "-Werror",
                    "-fsyntax-only", "-I", TOP / "include", TOP / "examples/clip.cpp"])
        yield done.returncode, done.stdout


def headers():
    """Each public header alone, as C11 and as C++17, without padding or any warning; and strict_cxx()."""
    passed, failed, output = 0, 0, ""
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Wpadded", "-Werror", "-fsyntax-only", "-I", TOP / "include"]
    for header in sorted((TOP / "include/imagine").glob("*.h")):
        for compiler, standard, language in (("gcc", "c11", "c"), ("g++", "c++17", "c++")):
            with tempfile.NamedTemporaryFile("w", suffix="." + language.replace("+", "p")) as source:
                source.write(f"#include <imagine/{header.name}>\nint alone;\n")
                source.flush()
                done = run([compiler, "-std=" + standard, *flags, "-x", language, source.name])
            passed += done.returncode == 0
            failed += done.returncode != 0
            output += done.stdout
    for status, said in strict_cxx():
        passed += status == 0
        failed += status != 0
        output += said
    return passed, failed, 0, output


def gpu_refusal():
    """tests/run --gpu was asked for a GPU: where there is none it fails and says so."""
    if shutil.which("nvidia-smi"):
        print("this machine may have a GPU: tests/run --gpu would run there")
        return 0, 0, 1, ""
    done = run([TOP / "tests/run", "--gpu"])
    good = done.returncode == 1 and "no NVIDIA GPU" in done.stdout and done.stdout.endswith("0 passed, 1 failed\n")
    return int(good), int(not good), 0, done.stdout


def missing_module():
    """The suites of the compiled CUDA module where the build has none: skipped, for want of nvcc. Where CI is set an nvcc that is there
    and could not be used is a failure: nobody would see that they are gone."""
    tests = {test["name"] for test in meson_tests(BUILD)}
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if MODULE_SUITES <= tests:
        return
    why = f"{nvcc} is there, and the build has no CUDA module" if nvcc else "no nvcc here: the CUDA module was not built"
    bad = bool(nvcc and os.environ.get("CI"))

    def say():
        print(why)
        return 0, int(bad), int(not bad), why if bad else ""

    for name in sorted(MODULE_SUITES - tests):
        yield name, say


def suites(quick, fuzz_seconds, listing):
    yield from meson_suites(BUILD)
    yield from missing_module()
    yield "headers", headers
    yield "abi", lambda: from_closing(run([sys.executable, TOP / "tests/abi/check.py", BUILD / "libimagine.so"]))
    yield "abi guard", lambda: from_closing(run([sys.executable, TOP / "tests/abi/guard.py", BUILD / "libimagine.so"]))
    yield "source rules", lambda: from_closing(run([sys.executable, TOP / "tests/rules.py"]))
    yield "gpu refusal", gpu_refusal
    yield "program", lambda: unittest_suite(TOP / "tests/program")
    yield "install", lambda: unittest_suite(TOP / "tests/install")
    yield "training", lambda: unittest_suite(TOP / "tests/training")
    yield "python binding", lambda: unittest_suite(TOP / "bindings/python/tests")
    yield "rust binding", lambda: cargo_suite(TOP / "bindings/rust")
    if quick:
        return
    yield "smoke of the trainings", training_smoke
    yield from other_build("build-sanitize", SANITIZE, "sanitized ", SANITIZE_ENV, listing)
    yield from other_build("build-thread", THREAD, "thread-sanitized ", THREAD_ENV, listing, THREAD_SUITES)
    yield "fuzz with libFuzzer", lambda: fuzz(fuzz_seconds)


def main():
    parser = argparse.ArgumentParser(prog="tests/run")
    parser.add_argument("--quick", action="store_true", help="without the builds with sanitizers")
    parser.add_argument("--list", action="store_true", help="print the suites' names")
    parser.add_argument("--fuzz", type=int, metavar="SECONDS", default=120 if os.environ.get("CI") else 3,
                        help="for each target of libFuzzer; 3, or 120 where CI is set")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only suites whose names contain one of these")
    options = parser.parse_args()
    names, listing = options.names, options.list
    needs_all = any(word in name for name in names for word in ("sanitize", "libFuzzer", "smoke"))
    totals = [0, 0, 0]
    for name, suite in suites(options.quick or bool(names and not needs_all), options.fuzz, listing):
        if names and not any(n in name for n in names):
            continue
        if listing:
            print(name)
            continue
        begin = time.monotonic()
        passed, failed, skipped, output = suite()
        if failed:
            print(output.rstrip()[-6000:])
        print(f"{'FAILED' if failed else 'ok    '} {name}: {passed} passed, {failed} failed, {skipped} skipped "
              f"({time.monotonic() - begin:.1f} s)", flush=True)
        totals = [a + b for a, b in zip(totals, (passed, failed, skipped))]
    if listing:
        return
    if not any(totals):
        print("no suite of that name")
        totals[1] = 1
    print(f"{totals[0]} passed, {totals[1]} failed" + (f", {totals[2]} skipped" if totals[2] else ""))
    sys.exit(1 if totals[1] else 0)


if __name__ == "__main__":
    main()
