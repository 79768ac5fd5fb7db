# SPDX-License-Identifier: MIT
"""What code is in the compiled libimagine_cuda.so, whether attention's for Hopper is in the order that it was written in, products in f32
are little but multiply-adds, and the PTX is for newer GPUs too: nothing is run, only disassembled and assembled. Arguments: the
module, nvcc."""

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

MACHINE = {"sm_80", "sm_90a"} # and of whatever nvcc links for by itself, which is empty
PTX = "sm_80"
# GPUs that run the PTX or sm_80's code, those of them that this ptxas knows: not one of these has been tried.
NEWER = ("sm_86", "sm_89", "sm_100", "sm_120")
EXPONENTIAL, WAIT = "MUFU.EX2", r"WARPGROUP\.DEPBAR\S* gsb0, 0x" # until no more groups of products than the number behind are unfinished


def run(*command, **options):
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def find(name, nvcc):
    """A tool of the toolkit's: beside nvcc, on the path, or of those that come with Triton."""
    triton = importlib.util.find_spec("triton")
    folders = [nvcc.resolve().parent, *(pathlib.Path(p) / "backends/nvidia/bin" for p in
                                        (triton.submodule_search_locations if triton else []))]
    found = [folder / name for folder in folders if (folder / name).exists()]
    return found[0] if found else shutil.which(name)


def check_list(cuobjdump, module):
    elf, ptx = (run(cuobjdump, option, module).stdout for option in ("--list-elf", "--list-ptx"))
    machine = set(re.findall(r"\.(sm_\w+)\.cubin", elf))
    text = set(re.findall(r"\.(sm_\w+)\.ptx", ptx))
    print(f"    machine code for {', '.join(sorted(machine))}; PTX of {', '.join(sorted(text))}")
    return machine >= MACHINE and text == {PTX}


def loops_of(code):
    """The instructions of each loop of a kernel's machine code, a line each."""
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", code)]
    for end, text in lines:
        begin = re.search(r"\bBRA\b.*\b0x([0-9a-f]+)", text)
        if begin and int(begin[1], 16) <= end:
            yield "\n".join(text for at, text in lines if int(begin[1], 16) <= at <= end)


def tile_loop(code):
    """The shortest loop that waits for scores and for an output and has exponentials."""
    return min((loop for loop in loops_of(code) if "HGMMA" in loop and EXPONENTIAL in loop and re.search(WAIT + "1", loop) and
                re.search(WAIT + "0", loop)), key=len, default="")


def check_products(cuobjdump, module, arch):
    """A step of products in f32 from vectors is in the kernels for many columns to four fifths multiply-adds, in those for few to a half;
    and the registers of three blocks fit, with nothing in local memory but the totals."""
    usage = run(cuobjdump, "-res-usage", "-arch", arch, module).stdout
    results = []
    for code in run(cuobjdump, "-sass", "-arch", arch, module).stdout.split("Function : ")[1:]:
        name = code.split()[0]
        wide = re.match(r"_Z14product_kernelI.*Li(\d)ELb1E", name)
        if not wide:
            continue
        loop = max(loops_of(code), key=lambda text: text.count("FFMA")).split("\n")
        step = loop[:1 + max(i for i, text in enumerate(loop) if "FFMA" in text)] # behind it totals are added up
        share = sum("FFMA" in text for text in step) / len(step)
        registers, stack = map(int, re.search(rf"Function {name}:\s+REG:(\d+) STACK:(\d+)", usage).groups())
        print(f"    {arch} {name}: {share:.0%} of {len(step)} instructions, {registers} registers, {stack} bytes of local memory")
        results.append(share > (0.75 if wide[1] == "8" else 0.5) and registers <= 168 and stack <= 32 * int(wide[1]))
    return len(results) == 8 and all(results)


def check_overlap(cuobjdump, module):
    """In the loops over tiles exponentials come after the wait for the scores and before that for the output's product, to run beside
    it. ptxas is free to move the second wait above all of them, and did: source, PTX and results are the same, only time is lost."""
    results = []
    for code in run(cuobjdump, "-sass", "-arch", "sm_90a", module).stdout.split("Function : ")[1:]:
        if "HGMMA" in code and EXPONENTIAL in code:
            loop = tile_loop(code)
            beside = re.split(WAIT + "0", (re.split(WAIT + "1", loop + loop, maxsplit=1) + [""])[1])[0].count(EXPONENTIAL)
            print(f"    {code.split()[0]}: {beside} of {loop.count(EXPONENTIAL)} exponentials beside the output's product")
            results.append(beside > 0 and beside >= 0.8 * loop.count(EXPONENTIAL))
    return len(results) > 0 and all(results)


def spills(ptxas, arch, ptx):
    """Bytes that each kernel spills; the output where ptxas refuses."""
    done = run(ptxas, "-v", f"-arch={arch}", ptx, "-o", "/dev/null")
    if done.returncode:
        return done.stdout
    found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads", done.stdout, re.S)
    return {name: int(stores) + int(loads) for name, stores, loads in found}


def check_newer(ptxas, arch, files, known):
    """Every kernel of the PTX is taken, without spills where sm_80's has none."""
    kernels, bad = 0, []
    for file in files:
        found = spills(ptxas, arch, file)
        if isinstance(found, str):
            print(found[-2000:])
            return False
        if arch == PTX:
            known[file] = found
        kernels += len(found)
        bad += [name for name, size in found.items() if size and not known[file].get(name)]
    print(f"    {arch}: {kernels} kernels" + (f", spilling: {', '.join(bad)}" if bad else ""))
    return kernels > 0 and not bad


def main():
    module, nvcc = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(shutil.which(sys.argv[2]) or sys.argv[2])
    cuobjdump, ptxas = (find(name, nvcc) for name in ("cuobjdump", "ptxas"))
    missing = [name for name, path in (("cuobjdump", cuobjdump), ("ptxas", ptxas)) if not path]
    if missing:
        print(f"    no {' and no '.join(missing)} here: what code the module has is not looked at")
        print("cuda/module code: 0 passed, 0 failed, 1 skipped")
        return 0
    results = [check_list(cuobjdump, module), check_overlap(cuobjdump, module),
               *(check_products(cuobjdump, module, arch) for arch in sorted(MACHINE))]
    with tempfile.TemporaryDirectory() as folder:
        run(cuobjdump, "--extract-ptx", "all", module, cwd=folder)
        files, known = sorted(pathlib.Path(folder).glob("*.ptx")), {}
        knows = run(ptxas, "--help").stdout
        results.append(check_newer(ptxas, PTX, files, known))
        for arch in NEWER:
            if re.search(rf"'{arch}'", knows):
                results.append(check_newer(ptxas, arch, files, known))
            else:
                print(f"    {arch}: this ptxas does not know it")
    print(f"cuda/module code: {sum(results)} passed, {results.count(False)} failed, 0 skipped")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
