# SPDX-License-Identifier: MIT
"""The command-line program on the two-layer pack: exit codes, files, JSON, Ctrl-C."""

import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
import zlib

import numpy

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("IMAGINE_PROGRAM", str(TOP / "build/examples/imagine"))
PACK = str(TOP / "tests/packs/two-layer")


def load(path):
    """The f32, i32 and u8 tensors of a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    kinds = {"U8": "u1", "F32": "<f4", "I32": "<i4"}
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            begin, end = (8 + size + n for n in t["data_offsets"])
            out[name] = numpy.frombuffer(data[begin:end], kinds[t["dtype"]]).reshape(t["shape"])
    return out


def save(path, tensors):
    header, body = {}, b""
    for name, value in tensors.items():
        raw = numpy.ascontiguousarray(value).tobytes()
        kind = {"float32": "F32", "int64": "I64", "int32": "I32", "int8": "I8"}[str(value.dtype)]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


class Program(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def run_program(self, *arguments, status=0, **kw):
        done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                              cwd=self.folder.name, **kw)
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def generate(self, *arguments, **kw):
        return self.run_program("generate", "a red apple", "--model", PACK, *arguments, **kw)

    def test_usage_errors_are_2_and_failures_1(self):
        self.assertIn("usage", self.run_program(status=2).stderr)
        self.assertIn("no command", self.run_program("paint", status=2).stderr)
        self.generate("--colour", status=2)
        self.generate("--width", "ten", status=2)
        self.generate("--schedule", "fast", status=2)
        for cut in ("1,0.5,", "1,,0", ",1,0", "1,0.5,0,x"):
            self.assertIn(f'"{cut}" is neither', self.generate("--schedule", cut, status=2).stderr)
        self.generate("--out", "a.jpg", status=2)
        self.assertIn("does not apply", self.run_program("decode", "x", "--prompt", "y", status=2).stderr)
        self.assertIn("96 and 112", self.generate("--width", "100", status=1).stderr)
        self.assertIn("5 and 9", self.generate("--frames", "6", status=1).stderr)
        self.assertIn("/no/model", self.run_program("info", "--model", "/no/model", status=1).stderr)
        self.generate("--out", "/no/folder/a.png", status=1)

    def test_no_input_is_replaced(self):
        self.generate("--frames", "1", "--out", "a.png")
        before = pathlib.Path(self.path("a.png")).read_bytes()
        for option in ("--image", "--last-image", "--init", "--mask"):
            more = ("--init", "b.png") if option == "--mask" else ()
            refused = self.generate(option, "./a.png", *more, "--out", "a.png", status=2).stderr
            self.assertIn('--out: "a.png" is what is read, and would be gone', refused)
        self.assertEqual(pathlib.Path(self.path("a.png")).read_bytes(), before)
        self.generate("--frames", "1", "--out", "a.png")  # which may be written again

    def test_the_machine_is_the_limit(self):
        """Where none is given: what it has no memory for is refused at once, with what would do."""
        kib = re.search("MemTotal: +([0-9]+) kB", pathlib.Path("/proc/meminfo").read_text())[1]
        limit = json.loads(self.run_program("info", PACK, "--json").stdout)["memory"]["limit_bytes"]
        self.assertTrue(0 < limit < int(kib) * 1024, limit)
        little = ["sh", "-c", 'ulimit -v 100000; exec "$@"', "sh", PROGRAM, "generate", "a dog", "--model", PACK, "--threads", "1",
                  "--out", self.path("a.png")]
        big = ["--width", "1024", "--height", "1024", "--frames", "253"]
        refused = subprocess.run([*little, *big], capture_output=True, text=True)
        self.assertRegex(refused.stderr, "the job needs .* MB of memory .*the context's limit is [5-9].* would fit")
        self.assertIn("what this machine has left now; --memory-limit sets another", refused.stderr)
        self.assertNotIn("machine", self.generate(*big, "--memory-limit", "50", status=1).stderr)
        subprocess.run(little, check=True, capture_output=True)

    def test_a_limit_is_in_megabytes(self):
        for text in ("8G", "8000MB", "1.5", "-1", ""):
            self.assertIn(f'"{text}" is no whole number of MB', self.generate("--memory-limit", text, status=2).stderr)
        self.assertIn("1..", self.generate("--memory-limit", "0", status=2).stderr)

    def test_what_would_be_ignored_is_refused(self):
        for command in ("info", "bench"):
            self.assertIn("--quiet does not apply", self.run_program(command, "--quiet", status=2).stderr)
            self.assertNotIn("--quiet", self.run_program(command, "--help").stdout)
        self.assertEqual(self.generate("--quiet").stdout, "")
        self.assertIn("not both", self.run_program("info", PACK, "--model", PACK, status=2).stderr)
        self.assertIn("guidance, which is 1", self.generate("--negative", "blur", "--guidance", "1", status=2).stderr)
        self.generate("--negative", "", "--guidance", "1")
        self.generate("--negative", "blur", "--guidance", "3")

    def test_fps_without_a_rate_and_eta_without_its_rule(self):
        self.generate("--frames", "1", "--out", "a.safetensors")
        for command in (("generate", "a dog"), ("decode", "a.safetensors")):
            refused = self.run_program(*command, "--model", PACK, "--fps", "8", "--out", "b.safetensors", status=2).stderr
            self.assertRegex(refused, "--fps: .* no rate")
            self.assertFalse(os.path.exists(self.path("b.safetensors")))
            self.run_program(*command, "--model", PACK, "--fps", "8", "--out", "b.png")
        for options, rule in (((), "unipc"), (("--schedule", "rcm"), "trigflow"), (("--step-rule", "heun"), "heun")):
            self.assertEqual(self.generate("--frames", "1", "--eta", "0.5", *options).stderr,
                             f"imagine: warning: eta: 0.5 has no use with the step rule {rule}, only with ancestral\n")
        for options in (("--eta", "0.5", "--step-rule", "ancestral"), ("--eta", "1"), ("--eta", "0.5", "--quiet")):
            self.assertEqual(self.generate("--frames", "1", *options).stderr, "")

    def test_one_is_no_plural(self):
        one = ("--frames", "1", "--schedule", "1,0")
        self.assertIn(": 1 frame of 32x32, 1 step, ", self.generate(*one, "--out", "one.png").stdout)
        self.assertIn(" 5 frames of 32x32, 4 steps, ", self.generate().stdout)
        self.assertIn(" 32x32, 1 frame, guidance", self.run_program("info", PACK, *one).stdout)
        self.assertIn("1 token, the model", self.run_program("text", "", "--model", PACK, "--ids-only").stdout)
        self.assertRegex(self.run_program("bench", "--model", PACK, "--filter", "model", "--runs", "1", "--threads", "1").stdout,
                         "kernels, 1 thread\n.* 5 frames, 4 steps, ")
        for options, says in ((("--init", "one.png", "--frames", "5"), "1 frame, but the clip has 5"),
                              (("--image", "one.png", "--frames", "1"), "with 1 frame nothing"),
                              (("--init", "one.png", "--strength", "0.5", *one), "0.5 of 1 step is less"),
                              (("--schedule", "1,0.5,0", "--steps", "1"), "steps: 1 does not fit 3 sigmas")):
            self.assertIn(says, self.generate(*options, status=1).stderr)

    def test_tiles_are_estimated_as_they_are_used(self):
        def estimated(*options):
            told = json.loads(self.run_program("info", PACK, "--width", "256", "--height", "256", "--json", *options).stdout)
            return told["memory"]["stages"]["vae"]["peak_bytes"]
        self.assertLess(estimated("--tile", "64"), 0.7 * estimated())

    def test_the_summary_adds_up(self):
        self.picture("begin.png", 100)
        for options, parts in (((), 4), (("--image", "begin.png"), 5)):
            line = self.generate("--frames", "5", *options).stdout.splitlines()[-1]
            seconds = [float(s) for s in re.findall(r"(\d+\.\d+) s", line)]
            self.assertEqual(len(seconds), parts + 1)
            self.assertAlmostEqual(sum(seconds[:-1]), seconds[-1], delta=0.006 * parts)

    def test_event_loop(self):
        """The example makes a clip, and stops when there is a line on its input, with nothing left of its memory."""
        loop = pathlib.Path(PROGRAM).parent / "event_loop"
        done = subprocess.run([loop, PACK, "a red apple", "e.png"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=60, cwd=self.folder.name)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.generate("--out", "g.png")
        self.assertEqual(*(pathlib.Path(self.path(name)).read_bytes() for name in ("e.png", "g.png")))
        done = subprocess.run([loop, PACK, "a red apple", "f.png"], input="\n", capture_output=True, text=True, timeout=60,
                              cwd=self.folder.name)
        if done.returncode:  # else it was done before
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, "^(job|the job|.*)cancel")
            self.assertNotIn("are left", done.stderr)

    def test_quickstart_has_help(self):
        for arguments, status in ((["--help"], 0), ([], 2)):
            done = subprocess.run([TOP / "examples/quickstart", *arguments], capture_output=True, text=True, timeout=60)
            self.assertEqual((done.returncode, done.stderr), (status, ""))
            self.assertIn("examples/quickstart", done.stdout)

    def test_tensors_are_written_as_such(self):
        self.picture("in.png", 100)
        before = pathlib.Path(self.path("in.png")).read_bytes()
        for command in ("encode", "text", "denoise"):
            refused = self.run_program(command, "in.png", "--model", PACK, "--out", "in.png", status=2).stderr
            self.assertIn('--out: "in.png" does not end with .safetensors', refused)
        self.assertEqual(pathlib.Path(self.path("in.png")).read_bytes(), before)

    def test_a_full_output_is_a_failure(self):
        for arguments in (["--version"], ["info", PACK], ["info", "--json", PACK], ["text", "a", "--model", PACK]):
            with open("/dev/full", "w") as full:
                done = subprocess.run([PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120,
                                      cwd=self.folder.name)
            self.assertEqual((done.returncode, done.stderr), (1, "imagine: the standard output could not be written\n"))

    def test_help_has_examples(self):
        for command in ("generate", "encode", "decode", "text", "denoise", "info", "bench"):
            self.assertIn(f"  imagine {command}", self.run_program(command, "--help").stdout)
        self.assertRegex(self.run_program("--version").stdout, r"^imagine \d+\.\d+\.\d+\n$")

    def test_help_of_a_command(self):
        overview = self.run_program("--help").stdout
        for word in ("help", "--help", "-h"):
            self.assertEqual(self.run_program(word).stdout, overview)
            self.assertEqual(self.run_program(word, "help").stdout, overview)
            for command in ("generate", "info"):
                self.assertEqual(self.run_program(word, command).stdout, self.run_program(command, "--help").stdout)
            refused = self.run_program(word, "nonsense", status=2)
            self.assertEqual((refused.stdout, refused.stderr), ("", 'imagine: "nonsense" is no command\n' + overview))
            self.assertIn('one argument too many: "info"', self.run_program(word, "decode", "info", status=2).stderr)

    def test_schedules_and_step_rules(self):
        text = self.run_program("generate", "--help").stdout
        for name in ("self-forcing", "causvid", "rcm", "z-image", "heun", "ancestral"):
            self.assertIn(name, text)
        one = self.generate("--schedule", "rcm", "--steps", "3", "--json", "--out", "a.safetensors")
        self.assertEqual([json.loads(one.stdout)[k] for k in ("steps", "guidance")], [3, 1])
        self.generate("--schedule", "rcm", "--steps", "3", "--step-rule", "heun", "--out", "b.safetensors")
        a, b = (load(self.path(n))["latents"] for n in ("a.safetensors", "b.safetensors"))
        self.assertTrue((a != b).any())
        self.assertIn("self-forcing has 4", self.generate("--schedule", "self-forcing", "--steps", "9", status=1).stderr)
        self.assertIn("heun", self.generate("--step-rule", "leap", status=2).stderr)

    def test_pictures_to_begin_with_and_to_keep(self):
        """What is kept is what `encode` makes of the same pictures."""
        self.generate("--frames", "9", "--out", "clip.png")
        self.generate("--frames", "1", "--seed", "3", "--out", "still.png")
        self.generate("--frames", "5", "--seed", "4", "--out", "begun.png")
        for name in ("clip", "still", "begun"):
            self.run_program("encode", f"{name}.png", "--model", PACK, "--out", f"{name}.safetensors")
        clip, still, begun = (load(self.path(f"{n}.safetensors"))["latents"] for n in ("clip", "still", "begun"))

        def latents(*options):
            self.generate(*options, "--out", "l.safetensors")
            return load(self.path("l.safetensors"))["latents"]

        for known in ("clean", "renoised"):
            one = latents("--frames", "9", "--image", "still.png", "--last-image", "still.png", "--known", known)
            self.assertTrue((one[:, :1] == still).all() and (one[:, 1] != 0).any())
        more = latents("--frames", "9", "--extend", "begun.png")
        self.assertTrue((more[:, :2] == begun).all())
        self.assertTrue((latents("--frames", "9", "--extend", "begun.safetensors") == more).all())
        weak, strong = (latents("--init", "clip.png", "--strength", s) for s in ("0.25", "1"))
        self.assertEqual(weak.shape, clip.shape)
        self.assertLess(abs(weak - clip).mean(), abs(strong - clip).mean())
        self.assertTrue((latents("--init", "clip.safetensors", "--strength", "0.25") == weak).all())
        dark = latents("--init", "clip.png", "--mask", self.picture("dark.png", 0))
        bright = latents("--init", "clip.png", "--mask", self.picture("bright.png", 255))
        self.assertTrue((dark == clip).all() and (bright == strong).all())
        self.assertIn("goes with --init", self.generate("--strength", "0.5", status=2).stderr)
        self.assertIn("--extend says", self.generate("--image", "a.png", "--extend", "b.png", status=2).stderr)
        self.generate("--known", "perhaps", status=2)
        self.assertIn("9 frames, but the clip has 5",
                      self.generate("--init", "clip.png", "--frames", "5", status=1).stderr)

    def picture(self, name, value, side=32):
        """A PNG in one gray."""
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        rows = zlib.compress((b"\0" + bytes([value]) * side) * side)
        pathlib.Path(self.path(name)).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(
            b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
        return name

    def test_guidance_options(self):
        runs = [(), ("--guidance-rescale", "0.7"), ("--guidance-start", "0.5"), ("--guidance-stop", "0.5")]
        latents = []
        for i, options in enumerate(runs):
            self.generate(*options, "--out", f"{i}.safetensors")
            latents.append(load(self.path(f"{i}.safetensors"))["latents"].tobytes())
        self.assertEqual(len(set(latents)), len(runs))
        self.generate("--guidance-stop", "2", status=2)

    def test_what_is_written_by_default_is_told(self):
        for command, argument, out in (("generate", "a dog", "out.png"), ("encode", "out.png", "latents.safetensors"),
                                       ("decode", "latents.safetensors", "out.png"), ("text", "a dog", "text.safetensors")):
            self.assertIn(f"what to write ({out})\n", self.run_program(command, "--help").stdout)
            self.assertIn(out, self.run_program(command, argument, "--model", PACK).stdout)
            if command == "encode":
                os.remove(self.path("out.png"))
            self.assertTrue(os.path.exists(self.path(out)))
        self.assertIn("what to write (sample.safetensors)\n", self.run_program("denoise", "--help").stdout)

    def test_default_out_and_summary(self):
        done = self.generate()
        self.assertRegex(done.stdout, r"load .* text .* sample .* decode .* peak memory")
        self.assertEqual(done.stderr, "")  # no bar where there is no terminal
        self.assertTrue(pathlib.Path(self.path("out.png")).read_bytes().startswith(b"\x89PNG"))

    def test_json(self):
        done = json.loads(self.generate("--json", "--seed", "5", "--steps", "3").stdout)
        self.assertEqual([done["width"], done["height"], done["frames"], done["steps"], done["seed"]], [32, 32, 5, 3, 5])
        self.assertGreater(done["memory_peak"], 1000000)
        self.assertGreater(done["seconds"]["total"], 0)
        info = json.loads(self.run_program("info", "--json", "--model", PACK).stdout)
        self.assertEqual(info["stages"], {"text": True, "sampler": True, "vae": True})
        memory = info["memory"]
        self.assertEqual((memory["width"], memory["height"], memory["frames"], memory["fits"]), (32, 32, 5, True))
        self.assertEqual(info["peak_bytes"], max(s["peak_bytes"] for s in memory["stages"].values()))
        large = json.loads(self.run_program("info", "--json", "--model", PACK, "--width", 64, "--height", 64).stdout)
        self.assertGreater(large["peak_bytes"], info["peak_bytes"])
        self.assertIn("memory for 64x32", self.run_program("info", "--model", PACK, "--width", 64).stdout)
        small = json.loads(self.run_program("info", "--json", "--model", PACK, "--width", 512, "--height", 512,
                                            "--memory-limit", 6, "--threads", 1).stdout)["memory"]
        self.assertEqual((small["fits"], small["limit_bytes"]), (False, 6000000))
        nearest = "{width}x{height} with {frames} frame".format(**small["nearest"])
        refused = self.run_program("generate", "a", "--model", PACK, "--width", 512, "--height", 512, "--memory-limit", 6,
                                   "--threads", 1, status=1).stderr
        self.assertIn(nearest, refused)
        self.assertIn("limit is 6.0 MB", refused)
        self.assertIn("32 and 48", self.run_program("info", "--model", PACK, "--width", 33, status=1).stderr)

    def test_what_fits_is_generated(self):
        """The whole clip, 2 MB, is not within the limit, and has no need to be."""
        size = ("--width", 64, "--height", 64, "--frames", 161, "--steps", 1, "--threads", 1)
        limit = ("--memory-limit", 6)
        told = json.loads(self.run_program("info", "--json", "--model", PACK, *size, *limit).stdout)["memory"]
        self.assertTrue(told["fits"])
        self.generate(*size, "--out", "a.png")
        self.generate(*size, *limit, "--out", "b.png")
        self.assertEqual(*(pathlib.Path(self.path(name)).read_bytes() for name in ("a.png", "b.png")))

    def test_latents_then_decode_is_generate(self):
        self.generate("--out", "a.png")
        self.generate("--out", "a.safetensors")
        self.assertEqual(load(self.path("a.safetensors"))["latents"].shape, (16, 2, 4, 4))
        self.run_program("decode", "a.safetensors", "--model", PACK, "--out", "b.png")
        self.assertEqual(pathlib.Path(self.path("a.png")).read_bytes(), pathlib.Path(self.path("b.png")).read_bytes())

    def test_tiles_change_nothing(self):
        self.generate("--out", "a.png")
        for tile in ("8", "0x16", "auto"):
            self.generate("--out", "b.png", "--tile", tile)
            self.assertEqual(*(pathlib.Path(self.path(name)).read_bytes() for name in ("a.png", "b.png")))

    def test_stages_write_what_they_say(self):
        done = json.loads(self.run_program("text", "a red apple", "--model", PACK, "--json", "--out", "t.safetensors").stdout)
        text = load(self.path("t.safetensors"))
        self.assertEqual(text["input_ids"].tolist(), done["input_ids"])
        self.assertEqual(text["input_ids"][-1], 1)
        self.assertEqual(text["prompt_embeds"].shape, (len(done["input_ids"]), 16))
        self.generate("--frames", "1", "--out", "p.png")
        self.run_program("encode", "p.png", "--model", PACK, "--out", "l.safetensors")
        self.assertEqual(load(self.path("l.safetensors"))["latents"].shape, (16, 1, 4, 4))
        self.run_program("decode", "l.safetensors", "--model", PACK, "--out", "f.safetensors")
        frames = load(self.path("f.safetensors"))["frames"]
        self.assertEqual(frames.shape, (3, 1, 32, 32))
        self.assertLessEqual(abs(frames).max(), 1)

    def test_tokens_alone(self):
        done = json.loads(self.run_program("text", "a red apple", "--model", PACK, "--json", "--ids-only").stdout)
        self.assertEqual(done["tokens"], len(done["input_ids"]))
        whole = json.loads(self.run_program("text", "a red apple", "--model", PACK, "--json", "--out", "t.safetensors").stdout)
        self.assertEqual(done["input_ids"], whole["input_ids"])
        self.assertLessEqual(done["tokens"], done["text_length"])
        self.assertIn(f"{done['tokens']} tokens", self.run_program("text", "a red apple", "--model", PACK, "--ids-only").stdout)
        self.assertIn("--out", self.run_program("text", "a", "--model", PACK, "--ids-only", "--out", "t.safetensors", status=2).stderr)

    def vae_pack(self, name):
        """A pack of nothing but one of the VAEs of tests/parity, and its goldens."""
        os.makedirs(self.path(name))
        os.symlink(TOP / "tests/parity/vae" / name, self.path(name + "/vae"))
        return self.path(name), load(TOP / "tests/parity/vae" / name / "cases.safetensors")

    def test_the_residual_vae_codes_as_diffusers(self):
        pack, golden = self.vae_pack("residual")
        info = json.loads(self.run_program("info", "--json", pack).stdout)
        self.assertEqual((info["spatial_factor"], info["temporal_factor"], info["size_multiple"]), (16, 4, 16))
        save(self.path("l.safetensors"), {"latents": golden["2.latents"]})
        self.run_program("decode", "l.safetensors", "--model", pack, "--out", "f.safetensors")
        frames, expected = load(self.path("f.safetensors"))["frames"], golden["2.decoded"]
        self.assertLess(numpy.square(frames - expected).sum(), 1e-10 * numpy.square(expected).sum())
        self.run_program("decode", "l.safetensors", "--model", pack, "--out", "f.png")
        for tile in ("16", "32x0", "auto"):
            self.run_program("decode", "l.safetensors", "--model", pack, "--out", "t.png", "--tile", tile)
            self.assertEqual(*(pathlib.Path(self.path(name)).read_bytes() for name in ("f.png", "t.png")))
            self.run_program("encode", "f.png", "--model", pack, "--out", tile + ".safetensors", "--tile", tile)
            self.assertEqual(*(pathlib.Path(self.path(name + ".safetensors")).read_bytes() for name in (tile, "16")))
        for wrong in ("-1", "x16", "16x", "16x16x", "99999999999999999999"):
            self.assertIn("--tile", self.run_program("decode", "l.safetensors", "--tile", wrong, status=2).stderr)
        self.run_program("encode", "f.png", "--model", pack, "--out", "e.safetensors")
        self.assertEqual(load(self.path("e.safetensors"))["latents"].shape, golden["2.latents"].shape)

    def test_info_of_a_pack_without_a_vae(self):
        """Of sizes it says what there is to say."""
        for stages, says in ((["text_encoder", "tokenizer"], None), (["transformer"], "multiples of 16"),
                             (["vae"], "multiples of 8, frames are 4k+1")):
            pack = self.path("-".join(stages))
            os.mkdir(pack)
            for stage in stages:
                os.symlink(os.path.join(PACK, stage), os.path.join(pack, stage))
            text = self.run_program("info", pack).stdout
            self.assertEqual(re.findall("(?m)^  width and height are (.*)$", text), [says] if says else [])
            self.assertNotIn("0k", text)

    def test_a_vae_of_a_latent_for_each_frame(self):
        pack, golden = self.vae_pack("per-frame")
        for stage in ("scheduler", "text_encoder", "tokenizer", "transformer", "model_index.json", "imagine.json"):
            os.symlink(os.path.join(PACK, stage), os.path.join(pack, stage))
        self.assertIn("frames are any number", self.run_program("info", pack).stdout)
        arguments = ("generate", "a red apple", "--model", pack, "--frames", 3, "--out")
        self.assertIn("3 frames of", self.run_program(*arguments, "a.png").stdout)
        self.run_program(*arguments, "a.safetensors")
        self.assertEqual(load(self.path("a.safetensors"))["latents"].shape, (16, 3, 4, 4))
        self.run_program("decode", "a.safetensors", "--model", pack, "--out", "b.png")
        self.assertEqual(pathlib.Path(self.path("a.png")).read_bytes(), pathlib.Path(self.path("b.png")).read_bytes())
        self.run_program("encode", "a.png", "--model", pack, "--out", "e.safetensors")
        self.assertEqual(load(self.path("e.safetensors"))["latents"].shape, (16, 3, 4, 4))
        save(self.path("l.safetensors"), {"latents": golden["1.latents"]})
        self.run_program("decode", "l.safetensors", "--model", pack, "--out", "f.safetensors")
        self.assertEqual(load(self.path("f.safetensors"))["frames"].shape, golden["1.decoded"].shape)

    def test_a_scheduler_that_is_not_known(self):
        """It matters to `generate` alone, and there not where a schedule is chosen."""
        pack = self.path("pack")
        shutil.copytree(PACK, pack)
        config = pathlib.Path(pack, "scheduler/scheduler_config.json")
        config.write_text(json.dumps(dict(json.loads(config.read_text()), _class_name="DDIMScheduler")))
        done = self.run_program("info", "--json", pack)
        self.assertRegex(done.stderr, "^imagine: warning: .*DDIMScheduler")
        self.assertEqual(self.run_program("info", PACK).stderr, "")
        told = json.loads(done.stdout)
        own = json.loads(self.run_program("info", "--json", PACK).stdout)
        self.assertEqual([told[key] for key in ("stages", "steps")], [own[key] for key in ("stages", "steps")])
        self.assertTrue(told["memory"]["fits"])
        self.assertIn("memory for 32x32", self.run_program("info", pack).stdout)
        rng = numpy.random.default_rng(1)
        save(self.path("in.safetensors"), {"hidden_states": rng.standard_normal((1, 16, 2, 4, 4), dtype=numpy.float32),
                                           "encoder_hidden_states": rng.standard_normal((1, 7, 16), dtype=numpy.float32),
                                           "timestep": numpy.array([500], numpy.int64)})
        samples = []
        for model in (pack, PACK):
            self.run_program("denoise", "in.safetensors", "--model", model, "--out", "s.safetensors")
            samples.append(load(self.path("s.safetensors"))["sample"])
        self.assertTrue((samples[0] == samples[1]).all())
        self.assertIn("choose a schedule", self.run_program("generate", "a", "--model", pack, status=1).stderr)
        self.run_program("generate", "a", "--model", pack, "--schedule", "flow")

    def test_denoise_with_timesteps_of_every_kind(self):
        rng = numpy.random.default_rng(1)
        inputs = {"hidden_states": rng.standard_normal((2, 16, 2, 4, 4), dtype=numpy.float32),
                  "encoder_hidden_states": rng.standard_normal((2, 7, 16), dtype=numpy.float32)}
        samples = []
        for timestep in (numpy.array([500, 20], numpy.int64), numpy.array([500, 20], numpy.float32),
                         numpy.array([[500] * 8, [20] * 8], numpy.int32)):
            save(self.path("in.safetensors"), dict(inputs, timestep=timestep))
            self.run_program("denoise", "in.safetensors", "--model", PACK, "--out", "s.safetensors")
            samples.append(load(self.path("s.safetensors"))["sample"])
        self.assertEqual(samples[0].shape, (2, 16, 2, 4, 4))
        self.assertGreater(samples[0].std(), 0.01)
        self.assertTrue((samples[0] == samples[1]).all() and (samples[0] == samples[2]).all())
        save(self.path("in.safetensors"), dict(inputs, timestep=numpy.array([500, 2000], numpy.int64)))
        self.assertIn("0..1000", self.run_program("denoise", "in.safetensors", "--model", PACK, status=1).stderr)

    def test_embeds_from_a_file(self):
        self.run_program("text", "a red apple", "--model", PACK, "--out", "t.safetensors")
        self.generate("--out", "a.safetensors")
        self.run_program("generate", "--embeds", "t.safetensors", "--model", PACK, "--out", "b.safetensors")
        self.assertTrue((load(self.path("a.safetensors"))["latents"] == load(self.path("b.safetensors"))["latents"]).all())
        self.assertIn("they take the prompt's place", self.generate("--embeds", "t.safetensors", status=2).stderr)

    def test_negative_embeds_of_a_file(self):
        self.run_program("text", "a red apple", "--model", PACK, "--out", "t.safetensors")
        embeds = load(self.path("t.safetensors"))["prompt_embeds"]

        def latents(**negative):
            save(self.path("e.safetensors"), {"prompt_embeds": embeds, **negative})
            self.run_program("generate", "--embeds", "e.safetensors", "--model", PACK, "--out", "l.safetensors")
            return load(self.path("l.safetensors"))["latents"]

        self.assertTrue((latents() != latents(negative_prompt_embeds=embeds * -1)).any())
        save(self.path("e.safetensors"), {"prompt_embeds": embeds, "negative_prompt_embeds": embeds.astype(numpy.int8)})
        refused = self.run_program("generate", "--embeds", "e.safetensors", "--model", PACK, status=1).stderr
        self.assertIn("negative_prompt_embeds", refused)

    def test_interrupt_saves_the_latents(self):
        for delay in (0.4, 0.8, 1.6):  # a busy machine may need longer for the first step
            process = subprocess.Popen([PROGRAM, "generate", "a dog", "--model", PACK, "--width", "256", "--height", "256",
                                        "--frames", "49", "--steps", "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       text=True, cwd=self.folder.name)
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            begin = time.monotonic()
            _, errors = process.communicate(timeout=60)
            if "latents so far" in errors:
                break
        self.assertEqual(process.returncode, -signal.SIGINT, errors)
        self.assertLess(time.monotonic() - begin, 5)
        self.assertIn("out.png.latents.safetensors", errors)
        self.assertEqual(load(self.path("out.png.latents.safetensors"))["latents"].shape, (16, 13, 32, 32))
        self.assertFalse(os.path.exists(self.path("out.png")))

    def test_no_model(self):
        """Neither given nor found: what to do is told."""
        for options, env, name in (([], {}, "tiny"), (["--model", "other"], {}, "other"), ([], {"IMAGINE_MODEL": "third"}, "third")):
            clean = {k: v for k, v in os.environ.items() if k != "IMAGINE_MODEL"}
            program = shutil.copy(PROGRAM, self.path("imagine"))  # which has no models beside it
            libraries = str(pathlib.Path(PROGRAM).resolve().parent.parent)
            refused = subprocess.run([program, "generate", "a dog", *options], capture_output=True, text=True, cwd=self.folder.name,
                                     env={**clean, **env, "LD_LIBRARY_PATH": libraries})
            self.assertEqual(refused.returncode, 1)
            self.assertIn(f'there is no model "{name}" here or beside the program; give', refused.stderr)

    def test_an_interrupted_run_goes_on(self):
        """Again and again, to the bytes of one that is not interrupted; with other options it is refused."""
        command = ["generate", "a dog", "--model", PACK, "--width", "128", "--height", "128", "--frames", "17", "--steps", "400",
                   "--schedule", "wan-unipc", "--guidance", "3", "--out", "clip.png"]
        left, delay = [], 0.2
        while True:
            process = subprocess.Popen([PROGRAM, *command, *(["--resume", left[-1]] if left else [])], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True, cwd=self.folder.name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            if process.returncode == 0:
                break
            told = re.search("same options and --resume (.*)", errors)
            left += [told[1]] if told else []
            delay = delay * 1.3
            self.assertLess(delay, 60)
        self.assertTrue(left)
        self.run_program(*command[:-1], "whole.png")
        self.assertEqual(*(pathlib.Path(self.path(name)).read_bytes() for name in ("clip.png", "whole.png")))
        refused = self.run_program(*command, "--resume", left[0], "--seed", "2", status=1).stderr
        self.assertIn("state: is of a run with the seed 0, this one's is 2", refused)
        self.run_program("decode", left[0], "--model", PACK, "--out", "so_far.png")
        self.run_program("generate", "a dog", "--model", PACK, "--width", "128", "--height", "128", "--frames", "17", "--steps", "2",
                         "--init", left[0], "--strength", "0.5", "--out", "other.png")
        refused = self.run_program(*command, "--resume", self.path("packs"), status=1).stderr
        self.assertIn("packs", refused)

    def test_a_killed_run_goes_on(self):
        """What is saved now and then leads to the same bytes, and is gone once the run is done, or when it is not wanted."""
        command = ["generate", "a dog", "--model", PACK, "--width", "128", "--height", "128", "--frames", "17", "--steps", "200",
                   "--schedule", "wan-unipc", "--guidance", "3", "--save-every", "0.01", "--out", "clip.png"]
        process = subprocess.Popen([PROGRAM, *command], stdout=subprocess.DEVNULL, cwd=self.folder.name)
        left = pathlib.Path(self.path("clip.png.latents.safetensors"))
        while process.poll() is None and not left.exists():
            time.sleep(0.01)
        process.kill()
        process.wait()
        self.assertEqual(load(left)["latents"].shape, (16, 5, 16, 16))
        whole = self.run_program(*command[:-1], "whole.png", "--save-every", "0")
        self.assertFalse(list(pathlib.Path(self.folder.name).glob("whole*.safetensors")), whole.stderr)
        self.run_program(*command, "--resume", left.name)
        self.assertEqual(*(pathlib.Path(self.path(name)).read_bytes() for name in ("clip.png", "whole.png")))
        self.assertEqual(sorted(pathlib.Path(self.folder.name).glob("*.safetensors")), [left])  # which the run did not write

    def test_what_cannot_be_saved_meanwhile(self):
        """Files may not have more than 100 kB, the state has more: it is told once, and the run goes on."""
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        done = subprocess.run([PROGRAM, "generate", "a dog", "--model", PACK, "--width", "128", "--height", "128", "--frames", "17",
                               "--steps", "100", "--save-every", "0.001", "--out", "latents.safetensors"], capture_output=True, text=True,
                              cwd=self.folder.name, preexec_fn=limit)
        self.assertEqual((done.returncode, done.stderr.count("so far could not be saved")), (0, 1), done.stderr)
        self.assertEqual(os.listdir(self.folder.name), ["latents.safetensors"])

    def test_which_signals_end_it(self):
        """All that ask for it, as they would have without a handler; none that it was started to ignore. JSON tells where the latents are."""
        for number in (signal.SIGHUP, signal.SIGTERM):
            for delay in (0.4, 0.8, 1.6, 3.2):
                process = subprocess.Popen([PROGRAM, "generate", "a dog", "--model", PACK, "--width", "256", "--height", "256", "--frames",
                                            "49", "--steps", "1000", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                           text=True, cwd=self.folder.name)
                time.sleep(delay)
                process.send_signal(number)
                said = json.loads(process.communicate(timeout=60)[0])
                self.assertEqual((process.returncode, said["error"]["status"]), (-number, "ERROR_CANCELLED"))
                if "latents" in said:
                    break
            self.assertEqual(load(self.path(said["latents"]))["latents"].shape, (16, 13, 32, 32))
        process = subprocess.Popen([PROGRAM, "generate", "a dog", "--model", PACK, "--steps", "200"], cwd=self.folder.name,
                                   preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN), stdout=subprocess.DEVNULL)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        self.assertEqual(process.returncode, 0)

    def test_json_of_failures(self):
        for arguments, status, says in ((("--model", "no/pack"), "ERROR_NOT_FOUND", "no/pack"),
                                        (("--model", PACK, "--out", "no/folder/a.png"), "ERROR_IO", "no/folder"),
                                        (("--model", PACK, "--width", "130"), "ERROR_INVALID_ARGUMENT", "width")):
            done = self.run_program("generate", "a dog", "--json", *arguments, status=1)
            said = json.loads(done.stdout)["error"]
            self.assertEqual(said["status"], status)
            self.assertIn(says, said["message"])
            self.assertIn(said["message"], done.stderr)

    def test_json_of_a_wrong_command_line(self):
        """As of other failures, wherever --json stands."""
        for arguments, says in ((("--colour", "red"), "there is no option --colour"), (("--seed", "-1"), '--seed: "-1" is no whole'),
                                (("--out", "a.jpg"), 'ends neither with .png'), (("b",), 'one argument too many: "b"')):
            for order in (("--json", *arguments), (*arguments, "-j")):
                done = self.run_program("generate", "a dog", "--model", PACK, *order, status=2)
                said = json.loads(done.stdout)["error"]
                self.assertEqual(said["status"], "ERROR_INVALID_ARGUMENT")
                self.assertIn(says, said["message"])
                self.assertEqual(done.stderr, f"imagine generate: {said['message']}\nTry `imagine generate --help`.\n")
            self.assertEqual(self.run_program("generate", "a dog", "--model", PACK, *arguments, status=2).stdout, "")

    def test_options_that_are_not_there(self):
        for options, says in ((["--promt=x"], "there is no option --promt"), (["--guid", "3"], "--guid: several options begin so"),
                              (["-Z"], "there is no option -Z"), (["-j1"], "there is no option -1"),
                              (["--frames"], "--frames: its value is missing"), (["-f"], "--frames: its value is missing"),
                              (["--quiet=1"], "--quiet: it takes no value")):
            refused = self.run_program("generate", "a dog", *options, status=2).stderr
            self.assertTrue(refused.startswith(f"imagine generate: {says}"), refused)

    def test_names_that_are_no_text(self):
        name = b"t\xe9\xf0\x9f\x8d\x8e\xed\xa0\x80.png"
        done = subprocess.run([PROGRAM, "generate", "a dog", "--model", PACK, "--frames", "1", "--json", "--out", name], capture_output=True,
                              cwd=self.folder.name)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["out"], "t\ufffd\U0001f34e\ufffd\ufffd\ufffd.png")
        self.assertIn(name, os.listdir(os.fsencode(self.folder.name)))

    def test_what_is_read_is_not_replaced(self):
        self.generate("--out", "a.safetensors")
        with open(self.path("a.safetensors"), "rb") as file:
            before = file.read()
        os.link(self.path("a.safetensors"), self.path("b.safetensors"))
        for out in ("a.safetensors", "b.safetensors"):
            for command in ("decode", "denoise"):
                refused = self.run_program(command, "a.safetensors", "--model", PACK, "--out", out, status=2).stderr
                self.assertIn("is what is read", refused)
        with open(self.path("a.safetensors"), "rb") as file:
            self.assertEqual(file.read(), before)

    def test_a_prompt_that_is_cut_is_told(self):
        done = self.run_program("generate", "a dog " * 400, "--model", PACK, "--frames", "1")
        self.assertRegex(done.stderr, r"warning: a prompt of \d+ tokens: the model takes \d+, and the rest is cut off\n")
        self.assertEqual(self.generate().stderr, "")

    def test_shift_has_no_use_with_sigmas(self):
        refused = self.generate("--schedule", "1,0.5,0", "--shift", "3", status=1).stderr
        self.assertIn("shift: 3 has no use with sigmas of your own", refused)
        self.generate("--schedule", "1,0.5,0", "--steps", "2")

    def test_an_output_that_cannot_be_is_refused_before_the_work(self):
        for name in ("folder.png", "folder.safetensors"):
            os.mkdir(self.path(name))
        os.mkfifo(self.path("pipe.png"))
        long = ("--width", "256", "--height", "256", "--frames", "49", "--steps", "1000")
        for out, says in (("/no/folder/a.png", "in the folder /no/folder: No such file"),
                          (self.path("pipe.png") + "/a.png", "pipe.png: Not a directory"),
                          ("x" * 252 + ".png", "in the folder .: File name too long"),
                          ("folder.png", "not a regular file"), ("pipe.png", "not a regular file")):
            refused = self.generate("--out", out, *long, status=1).stderr
            self.assertIn(says, refused)
            self.assertIn(out, refused)
            self.assertNotIn(".part", refused)
        for command in ("encode", "decode", "text", "denoise"):
            for out, says in (("/no/folder/a.safetensors", "/no/folder"), ("folder.safetensors", "not a regular file")):
                refused = self.run_program(command, "none", "--model", PACK, "--out", out, status=1).stderr
                self.assertIn(says, refused)
        self.assertEqual(sorted(os.listdir(self.folder.name)), ["folder.png", "folder.safetensors", "pipe.png"])

    def test_an_output_is_asked_for_where_it_will_be(self):
        """Beside what it is a link to, and under any name that a file may have."""
        for name in ("x" * 241 + ".png", "y" * 251 + ".png", "\u00e4" * 125 + ".png"):
            self.generate("--out", name)
            self.assertTrue(os.path.exists(self.path(name)))
        os.symlink("/proc/version", self.path("link.safetensors"))  # where no file can be made
        refused = self.run_program("text", "a", "--model", PACK, "--out", "link.safetensors", status=1).stderr
        self.assertIn("link.safetensors: no such file can be made in the folder /proc: ", refused)
        os.symlink("nothing", self.path("dangling.png"))
        self.generate("--out", "dangling.png")
        self.assertTrue(os.path.islink(self.path("dangling.png")))
        self.assertTrue(os.path.isfile(self.path("nothing")))
        os.symlink("/proc/nothing.png", self.path("absent.png"))
        os.symlink("absent.png", self.path("far.png"))
        refused = self.generate("--out", "far.png", status=1).stderr
        self.assertIn("far.png: no such file can be made in the folder /proc: ", refused)
        self.assertFalse([name for name in os.listdir(self.folder.name) if name.endswith(".part")])

    def test_an_output_may_be_a_link_in_a_folder_that_is_not_writable(self):
        someone = {"user": 65534} if os.geteuid() == 0 else {}
        os.chmod(self.folder.name, 0o755)
        for name in ("open", "closed"):
            os.mkdir(self.path(name))
        pathlib.Path(self.path("open/a.png")).touch()
        os.symlink(self.path("open/a.png"), self.path("closed/a.png"))
        os.chmod(self.path("open"), 0o777)
        os.chmod(self.path("closed"), 0o555)
        try:
            self.generate("--help", **someone)
            if subprocess.run(["cat", PACK + "/model_index.json"], capture_output=True, **someone).returncode:
                raise PermissionError
        except PermissionError:
            self.skipTest("another user has no access to the program and the pack")
        self.assertIn("Permission denied", self.generate("--out", "closed/b.png", status=1, **someone).stderr)
        self.generate("--out", "closed/a.png", **someone)
        self.assertGreater(os.path.getsize(self.path("open/a.png")), 0)
        self.assertTrue(os.path.islink(self.path("closed/a.png")))

    def interrupted(self, vanishing, **env):
        """What a long generation into vanishing/out.png says when it is interrupted once that folder is gone; cwd is `here`."""
        for delay in (0.4, 0.8, 1.6, 3.2):
            for name in ("there", "here", "temporary"):
                os.makedirs(self.path(name), exist_ok=True)
            process = subprocess.Popen([PROGRAM, "generate", "a dog", "--model", PACK, "--width", "256", "--height", "256",
                                        "--frames", "49", "--steps", "1000", "--out", self.path("there/out.png")],
                                       stderr=subprocess.PIPE, text=True, cwd=self.path("here"), env=dict(os.environ, **env))
            time.sleep(delay)
            for name in vanishing:
                os.rmdir(self.path(name))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            self.assertEqual(process.returncode, -signal.SIGINT, errors)
            if "latents so far" in errors:
                return errors, process.pid
        self.fail("no step was done")

    def test_latents_go_elsewhere_when_the_output_cannot_be(self):
        temporary = {"TMPDIR": self.path("temporary")}
        errors, pid = self.interrupted(["there"], **temporary)
        self.assertIn(f"are in ./out.png.{pid}.latents.safetensors ", errors)
        found = self.path(f"here/out.png.{pid}.latents.safetensors")
        self.assertEqual(load(found)["latents"].shape, (16, 13, 32, 32))
        os.remove(found)
        errors, pid = self.interrupted(["there", "here"], **temporary)
        found = self.path(f"temporary/out.png.{pid}.latents.safetensors")
        self.assertIn(f"are in {found} ", errors)
        self.assertEqual(load(found)["latents"].shape, (16, 13, 32, 32))
        errors, _ = self.interrupted(["there", "here"], TMPDIR="/no/folder")
        self.assertRegex(errors, "the latents so far are lost: /no/folder/.*: No such file")

    def test_latents_that_were_kept_before_stay(self):
        names = []
        for out in ("out.png", "out.png", "out.png", "\u00e4" * 125 + ".png"):
            for delay in (0.4, 0.8, 1.6, 3.2):
                process = subprocess.Popen([PROGRAM, "generate", "a dog", "--model", PACK, "--width", "128", "--height", "128",
                                            "--frames", "49", "--steps", "1000", "--out", out], stderr=subprocess.PIPE,
                                           text=True, cwd=self.folder.name)
                time.sleep(delay)
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=60)
                if "latents so far" in errors:
                    break
            names.append(re.search("the latents so far are in (.*) \\(imagine decode", errors)[1])
        self.assertEqual(names, ["out.png.latents.safetensors", "out.png.1.latents.safetensors",
                                 "out.png.2.latents.safetensors", "\u00e4" * 90 + ".latents.safetensors"])
        for name in names:
            self.assertEqual(load(self.path(name))["latents"].shape, (16, 13, 16, 16))

    def test_a_full_disk_is_no_silence(self):
        def full():
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

        for restored in (True, False):  # Python ignores SIGXFSZ; elsewhere it ends a process that does not mind it
            refused = self.generate(status=1, preexec_fn=full, restore_signals=restored).stderr
            self.assertRegex(refused, "latents so far are lost: .*: File too large\nimagine: out.png: .*: File too large\n$")
            self.assertEqual(os.listdir(self.folder.name), [])

    def test_terminal_gets_a_bar(self):
        import pty
        master, slave = pty.openpty()
        process = subprocess.Popen([PROGRAM, "generate", "a dog", "--model", PACK], stdout=subprocess.DEVNULL, stderr=slave,
                                   cwd=self.folder.name)
        self.assertEqual(process.wait(60), 0)
        os.close(slave)
        self.assertIn(b"sample", os.read(master, 4096))
        os.close(master)

    def interrupted_at(self, word, *options):
        """What a terminal gets of a run until the word is shown, at which it is interrupted."""
        import pty
        master, slave = pty.openpty()
        process = subprocess.Popen([PROGRAM, "generate", "a dog", "--model", PACK, *options], stdout=subprocess.DEVNULL, stderr=slave,
                                   cwd=self.folder.name)
        os.close(slave)
        said = b""
        while word not in said:
            said += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(60), -signal.SIGINT)
        os.close(master)
        return said

    def test_the_bar_tells_how_long_it_takes_yet(self):
        said = self.interrupted_at(b" left", "--width", "256", "--height", "256", "--frames", "49", "--steps", "1000")
        lines = re.findall(rb"\rsample  \[[#.]{30}\] (\d+)/1000  [0-9.]+ s  (?:([0-9.]+) (h|min|s) left)? *", said)
        self.assertFalse(lines[0][1])  # nothing is known after the first step that is shown
        self.assertTrue(lines[-1][1] and float(lines[-1][1]) >= 1)

    def test_a_stage_without_events_is_named(self):
        self.picture("begin.png", 100, 1024)
        said = self.interrupted_at(b"encode", "--image", "begin.png", "--frames", "5", "--threads", "1", "--cpu-level", "plain")
        self.assertRegex(said, rb"encode  \d\.\d s")


if __name__ == "__main__":
    unittest.main()
