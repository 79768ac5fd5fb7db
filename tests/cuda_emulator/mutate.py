# SPDX-License-Identifier: MIT
"""Takes one thing after another out of the kernels with copies under way and sees whether their tests on the emulator notice.

    python3 tests/cuda_emulator/mutate.py build [WORD...]

About seven minutes on one core; not a suite of tests/run. The exit status is 1 when a fault goes unnoticed."""

import pathlib
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
HOPPER, AMPERE, PRODUCT, FEW, EXACT = "attention_hopper", "attention", "product_bf16", "product_few", "product"
FLOATS = "attention_f32"
# Of each kernel: the program with its tests, and which of them.
TESTS = {HOPPER: ("attention", "sm_90a"), AMPERE: ("attention", "sm_80"), PRODUCT: ("linear", "tensor_cores"),
         FEW: ("linear", "few_rows"), EXACT: ("linear", "deep"), FLOATS: ("attention", "f32")}
MUTATIONS = [
    (HOPPER, "no wait for the output's product", "    products_wait<0>(c.o);\n", ""),
    (HOPPER, "no wait for a strip's last output", "        products_wait<0>(c.o);\n", ""),
    (HOPPER, "no wait for the scores' product", "products_wait<1>(c.s)", "products_wait<2>(c.s)"),
    (HOPPER, "no wait for the ragged scores", "products_wait<PENDING>", "products_wait<PENDING + 1>"),
    (HOPPER, "no wait for Q", "    mbarrier_wait(&b->q_full[group_of()], 0);\n", ""),
    (HOPPER, "no wait for the next strip's Q", "        mbarrier_wait(&b->q_full[group_of()], q_turn ^= 1);\n", ""),
    (HOPPER, "no wait for V", "    wait_for_values<D>(b, c.n);\n    begin_output", "    begin_output"),
    (HOPPER, "no wait for a strip's last V", "        wait_for_values<D>(b, c.n);\n        i +=", "        i +="),
    (HOPPER, "no wait for V to clear", "    wait_for_values<D>(b, n);\n    for", "    for"),
    (HOPPER, "V behind the length is not cleared", "    clear_values<D>(b, 0, tile, end, a.kv);\n", ""),
    (HOPPER, "V behind a later clip's length is not cleared", "        clear_values<D>(b, c.n, tile, end, a.kv);\n", ""),
    (HOPPER, "no fence after clearing V", "    fence_async_proxy();\n    sync_threads(1,", "    sync_threads(1,"),
    (HOPPER, "wrong parity", "&b->k_empty[stage], turn ^ 1", "&b->k_empty[stage], turn"),
    (HOPPER, "wrong parity of Q", "q_turn ^ 1);\n", "q_turn);\n"),
    (HOPPER, "no wait for an empty buffer", "            mbarrier_wait(&b->v_empty[stage], turn ^ 1);\n", ""),
    (HOPPER, "no wait for an empty Q", "                mbarrier_wait(&b->q_empty[j], q_turn ^ 1);\n", ""),
    (HOPPER, "V is never released", "    release(&b->v_empty[c.n % S::STAGES]);\n", ""),
    (HOPPER, "Q is released before its last use", "    if (tile == 0)\n", ""),
    (HOPPER, "too few arrivals", "&b->k_empty[i], S::CONSUMERS * 4);", "&b->k_empty[i], S::CONSUMERS);"),
    (HOPPER, "no fence after making the barriers", "        fence_async_proxy();\n    }\n    sync_block();", "    }\n    sync_block();"),
    (HOPPER, "no fence before the products", "    products_begin();\n", ""),
    (HOPPER, "no mask", "    mask_keys(scores, tile * shape<D>::KEYS, end);\n", ""),
    (HOPPER, "a tile too short", "a->kv > S::KEYS && rest && rest <= S::SHORT", "a->kv > S::KEYS && rest"),
    (HOPPER, "the strip before's rows", "c, sum, a, i - (int)gridDim.x", "c, sum, a, i"),
    (HOPPER, "the next strip's sums", "float sum[2] = {c.r.sum[0], c.r.sum[1]};", "float sum[2] = {1, 1};"),
    (HOPPER, "sums go on into the next strip", "        clear_output(c);\n", ""),
    (AMPERE, "no barrier before K", "        sync_block(); /* for all; and the other buffers are read no more */\n", ""),
    (AMPERE, "no barrier before V", "        copy_async_wait<2>(); /* V of this tile */\n        sync_block();\n",
     "        copy_async_wait<2>();\n"),
    (AMPERE, "no wait for V", "copy_async_wait<2>()", "copy_async_wait<3>()"),
    (AMPERE, "no wait for K", "copy_async_wait<1>()", "copy_async_wait<2>()"),
    (AMPERE, "no mask", "        mask_keys(s, tile * KEYS, kv);\n", ""),
    (AMPERE, "no barrier after Q", "        load_matrices(q[i], row + i * 16);\n    sync_block();\n",
     "        load_matrices(q[i], row + i * 16);\n"),
    (AMPERE, "no sync_warp before the output is read", "    sync_warp();\n", ""),
    (FLOATS, "no wait for K", "        copy_async_wait<0>(); /* K", "        /* K"),
    (FLOATS, "no barrier before the scores", "        sync_block(); /* for all; and the last V", "        /* for all; and the last V"),
    (FLOATS, "no wait for V", "        copy_async_wait<0>(); /* V", "        /* V"),
    (FLOATS, "no barrier before the output", "        sync_block(); /* for all, and the weights", "        /* for all, and the weights"),
    (FLOATS, "no mask", "there ? s[i][j] * a.scale + more : MINUS_INFINITY", "s[i][j] * a.scale + more"),
    (FLOATS, "rows behind the last", "value < d ? end - first - row : 0", "value < d ? COUNT : 0"),
    (FLOATS, "values behind the head's", "value < d ? end - first - row : 0", "end - first - row"),
    (FLOATS, "a bias behind the last query", "&& i * 8 < rows", ""),
    (FLOATS, "the first tile's bias for all", "bias += BIAS ? KEYS : 0;", ""),
    (FLOATS, "the sum does not shrink", "            sum[i] *= shrink[i];\n", ""),
    (FLOATS, "the output does not shrink", "o[i][c] * shrink[i] + part", "o[i][c] + part"),
    (FLOATS, "an infinite maximum is subtracted", "larger == MINUS_INFINITY ? 0 : larger", "larger"),
    (FLOATS, "a row's sum of a lane alone", "1 / sum_of_row(sum[i])", "1 / sum[i]"),
    (FLOATS, "the output behind the last query", "if (first + ty + 8 * i < a.tokens && ", "if ("),
    (FLOATS, "the output behind the head", " && tx * 4 + c * 16 < d)", ")"),
    (PRODUCT, "no wait for a stage", "        copy_async_wait<STAGES - 2>();\n", ""),
    (PRODUCT, "waits for one stage less", "copy_async_wait<STAGES - 2>()", "copy_async_wait<STAGES - 1>()"),
    (PRODUCT, "no barrier before a stage", "        sync_block(); /* the stage", "        /* the stage"),
    (PRODUCT, "copies into the stage that is read", "(i + STAGES - 1) % STAGES", "i % STAGES"),
    (PRODUCT, "no barrier before the sums", "    copy_async_wait<0>();\n    sync_block();\n", "    copy_async_wait<0>();\n"),
    (PRODUCT, "no sync_warp before the sums are read", "    sync_warp();\n", ""),
    (PRODUCT, "x behind its last row", "at_most(brought_row(first, i), s.m)", "brought_row(first, i)"),
    (PRODUCT, "W behind its last row", "at_most(brought_row(column, i), w.n)", "brought_row(column, i)"),
    (PRODUCT, "no sync_warp before the other half", "    sync_warp(); /* before the other half */\n", ""),
    (FEW, "no wait for a step", "        copy_async_wait<STAGES - 2>();\n", ""),
    (FEW, "waits for one step less", "copy_async_wait<STAGES - 2>()", "copy_async_wait<STAGES - 1>()"),
    (FEW, "no sync_warp before a step", "        sync_warp(); /* the step", "        /* the step"),
    (FEW, "copies into the step that is read", "bring(s + i % STAGES", "bring(s + (i + 1) % STAGES"),
    (FEW, "no barrier before the sums are added up", "        sync_block();\n        if", "        if"),
    (FEW, "no barrier before the next chains' sums", "        sync_block(); /* before the next", "        /* before the next"),
    (FEW, "sums go on into the next chain", "            sum[row] = 0;\n", ""),
    (FEW, "W behind its last row", "row < w.n && at < x.k;", "at < x.k;"),
    (FEW, "W behind the last of k", "row < w.n && at < x.k;", "row < w.n;"),
    (FEW, "x behind its last row", "row < x.m ? count_before(at, x.k) : 0", "count_before(at, x.k)"),
    (FEW, "chunks of W in another place than they are read", "chunk ^ line % CHUNKS", "chunk"),
    (FEW, "rows whose W is no vectors", "(w.row | x.k) % (w.type == IMAGINE__W_F32 ? 4 : 8) == 0", "true"),
    (FEW, "on tensor cores, W behind its last row", "at_most(column + line + 8, w.n)", "(column + line + 8)"),
    (FEW, "on tensor cores, x behind its last row", "at_most(line, x.m)", "line"),
    (FEW, "on tensor cores, k behind its last", "WHOLE || x.k - at >= 8", "WHOLE || x.k - at > 0"),
    (FEW, "on tensor cores, no barrier before the sums", "    sync_block();\n    if", "    if"),
    (FEW, "on tensor cores, a warp too few", "add_slots(sums, WARPS,", "add_slots(sums, WARPS - 1,"),
    (EXACT, "no barrier before a step", "        sync_block(); /* the step", "        /* the step"),
    (EXACT, "places the step that is read", "s + step % 2", "s"),
    (EXACT, "x in another place than it is read", "(row ^ turn_of(k, APART))] = v.x", "row] = v.x"),
    (EXACT, "W in another place than it is read", "(row ^ turn_of(k, WIDE * 4))] = v.w", "row] = v.w"),
    (EXACT, "x behind its last row", "at_most(row_of(first, i), s.m)", "row_of(first, i)"),
    (EXACT, "W behind its last row", "at_most(row_of(column, i), w.n)", "row_of(column, i)"),
    (EXACT, "values behind the last of k", "x.read(source, part, k, k < depth,", "x.read(source, part, k, true,"),
    (EXACT, "W behind the last of k", "k, depth, k < depth, next.w);\n        }\n        multiply", "k, depth, true, next.w);\n        }\n        multiply"),
    (EXACT, "a chain too long", "step % FOLD == FOLD - 1)", "false)"),
    (EXACT, "totals of the chain before are lost", "step == FOLD - 1);", "true);"),
    (EXACT, "sums go on into the next chain", "        sum[i / WIDE][i % WIDE] = 0;", "        ;"),
    (EXACT, "few columns' W by too many lanes", "row >= tile<WIDE>::COLUMNS)", "false)"),
]
COMPILE = ["g++", "-std=c++17", "-O1", "-w", "-Wno-psabi", "-DIMAGINE__EMULATED", "-fsanitize=thread,bounds", "-ffp-contract=off",
           "--param=tsan-instrument-func-entry-exit=0", "-I", TOP, "-x", "c++", "-c"]


def mutant(build, folder, kernel, old, new):
    """The kernel's test program with one thing changed."""
    text = (TOP / f"kernels/cuda/{kernel}.cu").read_text()
    if old not in text:
        sys.exit(f"kernels/cuda/{kernel}.cu no longer has {old!r}")
    source, object_file, program = folder / "changed.cu", folder / "changed.o", folder / "changed"
    source.write_text(text.replace(old, new, 1))
    subprocess.run([*COMPILE, source, "-o", object_file], check=True)
    here, test = build / "tests/cuda_emulator", TESTS[kernel][0]
    # The changed object comes before the archive, whose own is then left out.
    subprocess.run(["g++", here / f"emulated_{test}.p/{test}.c.o", object_file, here / "libemulated_module.a",
                    here / "libcuda_emulator.a", build / "libimagine_core.a", "-lpng", "-lz", "-lpthread", "-ldl", "-lm", "-o", program],
                   check=True)
    return program


def noticed(program, kernel):
    """What the tests said first, or None."""
    done = subprocess.run([program, TESTS[kernel][1]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    reports = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("block (")]
    return (reports or ["other numbers than plain C's"])[0] if done.returncode else None


def main():
    build, words, missed = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:], 0
    with tempfile.TemporaryDirectory() as folder:
        for kernel, name, old, new in MUTATIONS:
            if words and not any(w in f"{kernel} {name}" for w in words):
                continue
            what = noticed(mutant(build, pathlib.Path(folder), kernel, old, new), kernel)
            missed += what is None
            print(f"{'noticed ' if what else 'MISSED  '} {kernel}: {name}: {what or ''}"[:200], flush=True)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
