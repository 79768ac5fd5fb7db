# SPDX-License-Identifier: MIT
"""The Python binding on the two-layer pack: python3 -m unittest discover bindings/python/tests."""

import copy
import ctypes
import errno
import gc
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import threading
import typing
import unittest
import unittest.mock

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bindings" / "python"))

import imagine  # noqa: E402
from imagine import _api, _dlpack, _errors  # noqa: E402

PACK = ROOT / "tests" / "packs" / "two-layer"


class Declarations(unittest.TestCase):
    def test_structs_are_those_of_the_headers(self):
        lines = []
        for name, struct in _api.STRUCTS.items():
            lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
            for field, _ in struct._fields_:
                lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));')
        source = "#include <stdio.h>\n#include <imagine/imagine.h>\nint main(void) {" + "\n".join(lines) + "}"
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "layout")
            subprocess.run(["cc", "-x", "c", "-", "-I", str(ROOT / "include"), "-o", program], input=source, text=True, check=True)
            printed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
        expected = []
        for name, struct in _api.STRUCTS.items():
            expected.append(f"{name} {ctypes.sizeof(struct)}")
            for field, _ in struct._fields_:
                descriptor = getattr(struct, field)
                expected.append(f"{name}.{field} {descriptor.offset} {descriptor.size}")
        self.assertEqual(printed, expected)

    def test_numbers_are_those_of_the_headers(self):
        text = "".join((ROOT / "include" / "imagine" / f"{name}.h").read_text() for name in ("sampler", "job", "context"))
        for define, number in (("IMAGINE_SCHEDULE_WAN_UNIPC", _api.SCHEDULES["wan-unipc"]),
                               ("IMAGINE_SCHEDULE_SIGMAS", _api.SCHEDULES["sigmas"]),
                               ("IMAGINE_STEP_UNIPC", _api.STEP_RULES["unipc"]), ("IMAGINE_EVENT_STEP", _api.EVENT_STEP),
                               ("IMAGINE_EVENT_DONE", _api.EVENT_DONE), ("IMAGINE_CPU_AVX2", _api.CPU_LEVELS["avx2"])):
            self.assertRegex(text, rf"#define {define} {number}\b")

    def test_another_library_is_told(self):
        """One that lacks functions, as an older one does, and a name that the system does not know."""
        for library, words in (("libm.so.6", "libm.so.6: has no imagine_"), ("libno-such-thing.so", "libno-such-thing.so: ")):
            with unittest.mock.patch.dict(os.environ, IMAGINE_LIBRARY=library), self.assertRaises(OSError) as raised:
                _api.load()
            self.assertIn(words, str(raised.exception))

    def test_names_are_those_of_the_library(self):
        library = _api.load()
        for table, function in ((_api.SCHEDULES, library.imagine_schedule_name),
                                (_api.STEP_RULES, library.imagine_step_rule_name)):
            self.assertEqual(list(table), ["default"] + [function(i).decode() for i in range(1, len(table))])
            self.assertIsNone(function(len(table)))

    def test_functions_exist_in_the_headers(self):
        text = "".join(path.read_text() for path in (ROOT / "include" / "imagine").glob("*.h"))
        for name in _api.FUNCTIONS:
            self.assertIn(name + "(", text)

    def test_types_can_be_asked_for(self):
        """As programs do that check or document calls by them."""
        for name in imagine.__all__:
            made = getattr(imagine, name)
            for member in [made, *vars(made).values()] if isinstance(made, type) else [made]:
                member = getattr(member, "fget", None) or getattr(member, "__func__", member)
                if callable(member):
                    typing.get_type_hints(member)

    def test_version(self):
        self.assertRegex(imagine.version(), r"^\d+\.\d+\.\d+$")
        self.assertEqual(imagine.__version__, imagine.version())
        with self.assertRaisesRegex(AttributeError, "^module 'imagine' has no attribute 'Modell'"):
            imagine.Modell

    def test_errors_have_the_names_that_are_exported(self):
        for kind in (imagine.Error, imagine.InvalidArgument, imagine.TimeoutReached):
            self.assertEqual(f"{kind.__module__}.{kind.__qualname__}", f"imagine.{kind.__name__}")


class Generation(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = imagine.open(PACK)
        cls.options = {"seed": 5, "steps": 3}

    def test_generate_gives_frames(self):
        info, steps = self.model.info, []
        frames = self.model.generate("a b c", progress=lambda step, of: steps.append((step, of)), **self.options)
        self.assertEqual(frames.shape, (info["frames"], info["height"], info["width"], 3))
        self.assertEqual(frames.dtype, numpy.uint8)
        self.assertEqual(steps[-1], (3, 3))
        self.assertGreater(frames.std(), 0)

    def test_same_seed_same_bytes(self):
        first, second = (self.model.generate("a b", **self.options) for _ in range(2))
        self.assertTrue(numpy.array_equal(first, second))
        other = self.model.generate("a b", seed=6, steps=3)
        self.assertFalse(numpy.array_equal(first, other))

    def test_levels_that_round(self):
        """Close to f32 where the machine has the level, the same bytes where it does not."""
        exact = self.model.generate("a b", **self.options).astype(float)
        for level in ("avx512bf16", "amx"):
            context = imagine.Context(cpu_level=level)
            self.assertIn(context.info["cpu_level"], _api.CPU_LEVELS)
            frames = imagine.open(PACK, context=context).generate("a b", **self.options)
            error = numpy.square(frames - exact).mean()
            self.assertEqual(error > 0, context.info["cpu_level"] in ("avx512bf16", "amx"))
            self.assertLess(error, 4)  # 42 dB; measured: 52

    def test_frames_are_not_copied_and_outlive_everything(self):
        model = imagine.open(PACK)
        frames = model.generate("a", **self.options)
        copy = frames.copy()
        self.assertIsInstance(frames.base, imagine.Buffer)
        self.assertEqual(frames.ctypes.data, frames.base.__array_interface__["data"][0])
        del model
        gc.collect()
        self.assertTrue(numpy.array_equal(frames, copy))

    def test_events_and_pieces(self):
        whole = self.model.generate("a b c", **self.options)
        kinds, pieces = [], []
        with self.model.job("a b c", previews=True, **self.options) as job:
            for event in job:
                kinds.append(event.kind)
                if event.kind == "frames":
                    self.assertEqual(event.first_frame, sum(len(piece) for piece in pieces))
                    pieces.append(event.frames)
                if event.kind == "preview":
                    self.assertEqual(event.frames.shape, (1,) + whole.shape[1:])
            latents = job.latents
            self.assertGreater(job.info["seconds"]["sample"], 0)
        self.assertEqual(kinds[-1], "done")
        self.assertIn("step", kinds)
        self.assertTrue(numpy.array_equal(numpy.concatenate(pieces), whole))
        self.assertTrue(numpy.array_equal(self.model.decode(latents), whole))
        for tile in (16, (8, 0), "auto"):
            self.assertTrue(numpy.array_equal(self.model.decode(latents, tile=tile), whole))
            with self.model.job(latents=latents, tile=tile) as job:
                frames = [event.frames for event in job if event.kind == "frames"]
                self.assertTrue(numpy.array_equal(numpy.concatenate(frames), whole))
            self.assertTrue(numpy.array_equal(self.model.generate(latents=latents, tile=tile), whole))
        self.assertTrue(numpy.array_equal(self.model.generate(latents=latents), whole))
        self.assertTrue(numpy.array_equal(self.model.encode(whole, tile=8), self.model.encode(whole)))

    def test_previews_after_every_so_many_steps(self):
        def steps(previews):
            seen = []
            with self.model.job("a", steps=5, width=64, height=64, previews=previews) as job:
                while (event := job.next()).kind != "done":
                    seen += [event.step] * (event.kind == "preview")
            return seen

        self.assertTrue(steps(2) and set(steps(2)) <= {2, 4})  # one that is not fetched is replaced by the next
        self.assertEqual((steps(False), steps(None), steps(3), steps(6)), ([], [], [3], []))
        self.assertTrue(steps(True) and steps(numpy.bool_(True)))
        for wrong in (-1, 2.5, "yes"):
            with self.assertRaisesRegex(imagine.InvalidArgument, "^previews: "):
                self.model.job("a", previews=wrong)

    def test_what_a_job_is_at(self):
        with self.model.job("a", steps=1000, width=256, height=256) as job:
            self.assertEqual((job.next().kind, job.info["stage"]), ("step", "sample"))
        with self.model.job("a", steps=1) as job:
            for _ in job:
                self.assertIn(job.info["stage"], (None, "load", "text", "sample", "decode"))
            self.assertIsNone(job.info["stage"])

    def test_peaks_begin_anew(self):
        with imagine.Context(threads=1) as context:
            imagine.Buffer.copy_of(context, numpy.zeros(10 ** 6, "uint8"))
            peak = context.info["memory_peak"]
            gc.collect()
            context.reset_peak()
            info = context.info
            self.assertEqual(info["memory_peak"], info["memory_used"])
            self.assertGreater(peak - info["memory_peak"], 10 ** 6)
        self.assertRaises(imagine.StateError, context.reset_peak)

    def test_latents_are_what_the_job_works_with(self):
        given = []
        with self.model.job("a", **self.options) as job:
            for event in job:
                if event.kind in ("step", "latents"):
                    given += [latents for latents in (event.latents, job.latents) if latents is not None]
        self.assertGreater(len(given), 2)
        for latents in given:
            whole = latents.base  # the buffer under it, which others may be given
            self.assertTrue(whole.read_only)
            for view in (latents, numpy.asarray(whole), whole.array, copy.copy(whole).array):
                with self.assertRaises(ValueError):
                    view[:] = 0
                with self.assertRaises(ValueError):
                    view.flags.writeable = True
            with self.assertRaises(BufferError):
                whole.__dlpack__()
            address, _ = _dlpack.opened(capsule := whole.__dlpack__(max_version=(1, 0)))
            self.assertEqual(_dlpack.ManagedVersioned.from_address(address).flags, 1)
            del capsule
        self.assertTrue(numpy.array_equal(self.model.decode(given[-1]), self.model.generate("a", **self.options)))

    def test_pictures_to_begin_with_and_to_keep(self):
        clip = self.model.generate("a", seed=1, frames=9)
        wanted = {"frames": 9, "decode": False}

        def latents(**options):
            with self.model.job("a b", **wanted, **options) as job:
                for _ in job:
                    pass
                return job.latents.copy()

        begun = latents(first_frames=clip[:5], known_mode="clean")
        self.assertTrue(numpy.array_equal(begun[:, :2], self.model.encode(clip[:5])))
        known = self.model.encode(clip)
        mask = numpy.zeros(known.shape[1:], "float32")
        mask[1, 2:] = 1
        kept = latents(known_latents=known, known_mask=mask)
        self.assertTrue(numpy.array_equal(kept == known, numpy.broadcast_to(mask == 1, known.shape)))
        weak = latents(init_frames=clip, strength=0.25)
        self.assertTrue(numpy.array_equal(weak, latents(init_latents=known, strength=0.25)))
        self.assertLess(abs(weak - known).mean(), abs(latents(seed=3) - known).mean())
        dark = numpy.zeros(clip.shape[1:3] + (1,), "uint8")
        self.assertTrue(numpy.array_equal(latents(init_frames=clip, mask_frames=dark, last_frame=clip[-1])[:, :2],
                                          known[:, :2]))
        with self.assertRaisesRegex(imagine.Error, "first_frames"):
            self.model.job("a", first_frames=clip[:2], **wanted)

    def test_masks(self):
        """Booleans, and one picture for all; what they mean is not theirs but the option's."""
        clip = self.model.generate("a", seed=1, frames=9)
        known = self.model.encode(clip)
        bright = numpy.zeros(clip.shape[:3], bool)
        bright[:, :, 16:] = True

        def latents(**options):
            with self.model.job("a b", frames=9, decode=False, **options) as job:
                for _ in job:
                    pass
                return job.latents.copy()

        made = latents(init_frames=clip, mask_frames=bright[..., None].astype("uint8") * 255)
        self.assertTrue(numpy.array_equal(made[..., :2], known[..., :2]))
        for mask in (bright, bright[..., None], bright[0], bright[0, ..., None], bright[0].tolist(),
                     bright.astype("uint8") * 255, bright[0].astype("uint8") * 255, bright[0].astype(int) * 255):
            self.assertTrue(numpy.array_equal(latents(init_frames=clip, mask_frames=mask), made))
        dark = numpy.zeros(known.shape[1:], bool)
        dark[..., :2] = True
        kept = latents(known_latents=known, known_mask=dark.astype("float32"))
        self.assertTrue(numpy.array_equal(kept[..., :2], known[..., :2]))
        self.assertTrue(numpy.array_equal(latents(known_latents=known, known_mask=dark), kept))
        first = latents(known_latents=known, known_mask=numpy.float32([1, 0, 0]))
        self.assertTrue(numpy.array_equal(latents(known_latents=known, known_mask=[True, False, False]), first))
        one, picture = {"frames": 1, "steps": 1, "known_latents": known[:, :1]}, dark[0]
        self.assertTrue(numpy.array_equal(self.model.generate("a", known_mask=picture, **one),
                                          self.model.generate("a", known_mask=picture[None].astype("float32"), **one)))
        with self.assertRaisesRegex(imagine.InvalidArgument, r"known mask: is f32 \[1, 4, 4\]"):
            self.model.job("a", frames=9, known_latents=known, known_mask=picture)  # of which frame, is not said

    def test_schedules_and_guidance(self):
        runs = [{}, {"schedule": "rcm"}, {"step_rule": "heun"}, {"step_rule": "ancestral", "eta": 0.5},
                {"guidance_rescale": 0.7}, {"guidance_stop": 0.5}]
        frames = [self.model.generate("a", **run).tobytes() for run in runs]
        self.assertEqual(len(set(frames)), len(runs))

    def test_noise_and_sigmas_from_outside(self):
        with self.model.job("a", decode=False, **self.options) as job:
            shape = [event.latents for event in job if event.kind == "latents"][0].shape
        noise = numpy.random.default_rng(1).standard_normal(shape).astype("float32")
        first = self.model.generate("a", noise=noise, sigmas=[1, 0.5, 0])
        second = self.model.generate("a", noise=noise, sigmas=[1, 0.5, 0], seed=99)
        self.assertTrue(numpy.array_equal(first, second))

    def test_encode_and_text(self):
        info = self.model.info
        frames = numpy.zeros((info["frames"], info["height"], info["width"], 3), "uint8")
        self.assertEqual(self.model.encode(frames).shape[0], info["latent_channels"])
        ids, embeds = self.model.encode_text("a b c")
        self.assertEqual(embeds.shape, (len(ids), info["text_dim"]))
        self.assertEqual(self.model.tokenize("a b c").tolist(), ids.tolist())
        self.assertEqual(self.model.tokenize("a b c", 2).tolist(), [ids[0], ids[-1]])
        for prompt, length in (("a\0b", 0), (7, 0), ("a", -1), ("a", 1 << 40)):
            with self.assertRaises((imagine.InvalidArgument, TypeError)):
                self.model.tokenize(prompt, length)

    def test_pictures(self):
        frames = self.model.generate("a", **self.options)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "x.png")
            imagine.save(path, frames, fps=8)
            self.assertTrue(numpy.array_equal(imagine.load(path), frames))
            for name in ("x.PNG", "x.apng", "x", os.fsencode(folder) + b"/y.png"):
                imagine.save(os.path.join(folder, name) if isinstance(name, str) else name, frames)
            for name in ("z.jpg", "z.png.mp4", "z.gif"):
                for save in (imagine.save, lambda path, frames: imagine.Clip(frames).save(pathlib.Path(path))):
                    with self.assertRaisesRegex(imagine.InvalidArgument, r"^path: .*z\..* ends with \.\w{3}; .* is a PNG"):
                        save(os.path.join(folder, name), frames)
            self.assertEqual(sorted(os.listdir(folder)), ["x", "x.PNG", "x.apng", "x.png", "y.png"])


class Failures(unittest.TestCase):
    def test_missing_model(self):
        with self.assertRaises(imagine.NotFound) as caught:
            imagine.open("no-such-model")
        self.assertRegex(str(caught.exception), '^there is no model "no-such-model" here, .*: give a model.s folder')
        self.assertEqual((caught.exception.status, caught.exception.name), (-21, "ERROR_NOT_FOUND"))
        self.assertIsInstance(caught.exception, FileNotFoundError)
        self.assertEqual((caught.exception.errno, caught.exception.filename), (errno.ENOENT, "no-such-model"))

    def test_names_of_models_that_cannot_be_looked_at(self):
        """pathlib would raise an OSError of its own."""
        for name in ("x" * 5000, "x/" * 3000, pathlib.Path("x" * 300)):
            with self.assertRaises(imagine.Error):
                imagine.open(name)

    def test_no_name_is_not_the_folder_where_one_is(self):
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(PACK)
        for name in ("", b""):
            self.assertRaisesRegex(FileNotFoundError, "the path is empty", imagine.open, name)
        self.assertEqual(imagine.open(".").path, ".")

    def test_names_of_models_as_bytes(self):
        with unittest.mock.patch.dict(os.environ, {"IMAGINE_MODELS": str(PACK.parent)}):
            with imagine.open(os.fsencode(PACK.name)) as model:
                self.assertEqual(model.path, str(PACK))
            with imagine.Model(os.fsencode(PACK)) as model:
                self.assertEqual(model.path, str(PACK))

    def test_errors_about_files_are_those_of_python(self):
        frames, missing = numpy.zeros((1, 8, 8, 3), "uint8"), pathlib.Path("/no/such/x.png")
        for kind, also, work in ((imagine.FileError, OSError, lambda: imagine.save(missing, frames)),
                                 (imagine.NotFound, FileNotFoundError, lambda: imagine.load(missing)),
                                 (imagine.NotFound, FileNotFoundError, lambda: imagine.open(missing))):
            with self.assertRaises(also) as caught:
                work()
            error = caught.exception
            for one in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
                self.assertIsInstance(one, kind)
                self.assertEqual((one.errno, one.native_code), (errno.ENOENT, errno.ENOENT))
                self.assertEqual((one.strerror, one.filename), (os.strerror(errno.ENOENT), missing))
                self.assertEqual((one.status, one.name), (error.status, error.name))
                self.assertTrue(str(one).startswith("/no/such/x.png"), str(one))

    def test_errors_about_files_are_of_pythons_kinds(self):
        """By errno; ENOSPC has no kind of its own."""
        frames = numpy.zeros((1, 8, 8, 3), "uint8")
        with tempfile.NamedTemporaryFile() as file:
            for kind, also, work in ((FileNotFoundError, imagine.FileError, lambda: imagine.save("/no/such/x.png", frames)),
                                     (IsADirectoryError, imagine.FileError, lambda: imagine.save(tempfile.gettempdir(), frames)),
                                     (NotADirectoryError, imagine.FileError, lambda: imagine.save(file.name + "/x.png", frames)),
                                     (NotADirectoryError, imagine.NotFound, lambda: imagine.load(file.name + "/x.png")),
                                     (FileNotFoundError, imagine.NotFound, lambda: imagine.open(file.name + "/x"))):
                with self.assertRaises(kind) as raised:
                    work()
                self.assertIsInstance(raised.exception, also)
        for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOSPC, 0):
            error = _errors._error(_api.Error(status=-20, native_code=number, message=b"x.png: no"), "x.png")
            for one in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
                self.assertIsInstance(one, imagine.FileError)
                self.assertIsInstance(one, type(OSError(number, "")))
                self.assertEqual((one.errno, one.filename, str(one)), (number or None, "x.png", "x.png: no"))
        self.assertIs(type(error), imagine.FileError)

    def test_what_is_missing_and_no_file(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaises(imagine.NotFound) as caught:
                imagine.load(folder)
        self.assertNotIsInstance(caught.exception, OSError)
        self.assertEqual((caught.exception.native_code, str(caught.exception)), (0, f"{folder}: no file in it is named *.png"))

    def test_bad_options(self):
        model = imagine.open(PACK)
        with self.assertRaises(imagine.InvalidArgument):
            model.generate("a", frames=6)
        with self.assertRaises(ValueError):
            model.generate("a", width=3)
        with self.assertRaisesRegex(imagine.InvalidArgument, "schedule: 'flow' has no use with sigmas") as caught:
            model.generate("a", schedule="flow", sigmas=[1, 0.5, 0])
        self.assertEqual((caught.exception.status, caught.exception.name), (-1, "ERROR_INVALID_ARGUMENT"))
        with self.assertRaisesRegex(imagine.InvalidArgument, "shift: 3 has no use with sigmas"):
            model.generate("a", shift=3, sigmas=[1, 0.5, 0])
        with self.assertRaises(imagine.InvalidArgument):
            model.generate("a", schedule="none such")
        with self.assertRaises(imagine.InvalidArgument):
            model.generate(7)
        with self.assertRaises(imagine.InvalidArgument):
            model.decode(numpy.zeros((2, 2), "float32"))

    def test_values_that_are_none(self):
        """Each is told by the name of its option, and as what Python's users look for."""
        model, frames = imagine.open(PACK), numpy.zeros((1, 8, 8, 3), "uint8")
        job = model.job("a", steps=1)
        wrong = [("guidance", lambda: model.generate("a", guidance=None)), ("shift", lambda: model.generate("a", shift="3")),
                 ("strength", lambda: model.estimate(strength=[1])), ("sigmas", lambda: model.estimate(sigmas=1)),
                 ("sigmas", lambda: model.estimate(sigmas=["1", "0"])), ("schedule", lambda: model.estimate(schedule=["flow"])),
                 ("prompt", lambda: model.generate(b"a")), ("steps", lambda: model.generate("a", steps=None)),
                 ("fps", lambda: imagine.save("x.png", frames, fps="8")), ("fps", lambda: imagine.Clip(frames, fps="8")),
                 ("fps", lambda: model.clip("a", fps="8")), ("scale", lambda: imagine.Clip(frames, scale="2")),
                 ("timeout", lambda: job.next("1")), ("path", lambda: imagine.open(7)),
                 ("path", lambda: imagine.save(None, frames)), ("context", lambda: imagine.open(PACK, 5)),
                 ("context", lambda: imagine.save("x.png", frames, 8, 5)),
                 ("context", lambda: imagine.load("x.png", 5)), ("context", lambda: imagine.Cancel(5)),
                 ("context", lambda: imagine.Buffer.wrap(frames, 5)), ("context", lambda: imagine.Buffer.copy_of(5, frames)),
                 ("cancel", lambda: model.decode(frames, cancel=5)), ("tensor", lambda: imagine.Buffer.from_dlpack([1]))]
        for name, work in wrong:
            for kind in (imagine.InvalidArgument, TypeError, ValueError):
                with self.assertRaisesRegex(kind, f"^{name}: wanted is"):
                    work()
        for name, work in (("prompt", lambda: model.generate("a \ud800 dog")), ("eta", lambda: model.estimate(eta=10**400)),
                           ("negative_prompt", lambda: model.generate("a", "\udc00")),
                           ("prompt", lambda: model.tokenize("\ud800")), ("path", lambda: imagine.open("\ud800")),
                           ("noise", lambda: model.generate("a", noise="abc")),
                           ("noise", lambda: model.generate("a", noise=[None])),
                           ("noise", lambda: model.generate("a", noise=[[1], [1, 2]])),
                           ("frames", lambda: imagine.Clip([[1], [1, 2]])),
                           ("array", lambda: imagine.Buffer.wrap([[1], [1, 2]]))):
            with self.assertRaisesRegex(imagine.InvalidArgument, f"^{name}: ") as raised:
                work()
            self.assertNotIsInstance(raised.exception, TypeError)

    def test_numbers_that_are_whole_or_not_real(self):
        model = imagine.open(PACK)
        noise = numpy.zeros((16, 1, 4, 4), int)
        made = model.generate("a", frames=1, steps=1, noise=noise.astype("float32"))
        for same in (noise, noise.tolist(), noise.astype("uint8"), noise.astype("float64"), noise.astype("float16")):
            self.assertTrue(numpy.array_equal(model.generate("a", frames=1, steps=1, noise=same), made))
        self.assertTrue(numpy.array_equal(model.decode(noise), model.decode(noise.astype("float32"))))
        for dtype in (bool, complex, "complex64"):
            with self.assertRaisesRegex(imagine.InvalidArgument, "^noise: wanted are real or whole numbers, not (bool|complex)"):
                model.generate("a", frames=1, noise=noise.astype(dtype))
        picture = numpy.arange(32 * 32 * 3).reshape(1, 32, 32, 3) % 256
        encoded = model.encode(picture.astype("uint8"))
        for same in (picture, picture.tolist()):
            self.assertTrue(numpy.array_equal(model.encode(same), encoded))
        for outside in (picture + 1, picture - 1):
            for work in (model.encode, lambda first: model.generate("a", first_frames=first)):
                with self.assertRaisesRegex(imagine.InvalidArgument, "frames: .* to .* are no values of pictures"):
                    work(outside)
        real = picture.astype("float32").transpose(3, 0, 1, 2) / 255
        self.assertEqual(model.encode(real).shape, encoded.shape)
        with self.assertRaisesRegex(imagine.InvalidArgument, "^first_frames: is f32"):
            model.generate("a", first_frames=picture / 255)

    def test_numbers_that_c_would_cut(self):
        model = imagine.open(PACK)
        for name, make in (("threads", imagine.Context), ("memory_limit", imagine.Context), ("device_number", imagine.Context),
                           ("seed", model.estimate), ("width", model.estimate), ("height", model.estimate),
                           ("frames", model.estimate), ("steps", model.estimate), ("tile", model.estimate)):
            for wrong in (2**64 + 32, -2**63 - 1, 4.0, "4"):
                with self.assertRaisesRegex(imagine.InvalidArgument, rf"^{name}: "):
                    make(**{name: wrong})
            if name not in ("seed", "memory_limit"):
                with self.assertRaisesRegex(imagine.InvalidArgument, rf"^{name}: .* is not in"):
                    make(**{name: 2**32 + 1})
        with self.assertRaisesRegex(imagine.InvalidArgument, "^memory_limit: -1 is not in"):
            imagine.Context(memory_limit=-1)
        for wrong in ((8,), (8, 8, 8), (8, 2**32)):
            with self.assertRaisesRegex(imagine.InvalidArgument, "^tile: "):
                model.decode(numpy.zeros((16, 1, 4, 4), "float32"), tile=wrong)

    def test_numbers_of_numpy(self):
        model = imagine.open(PACK, imagine.Context(threads=numpy.int32(1), memory_limit=numpy.uint64(2**63)))
        mine = {"seed": 7, "width": 48, "frames": 1, "steps": 1}
        numpys = {name: numpy.int64(value) for name, value in mine.items()}
        self.assertTrue(numpy.array_equal(model.generate("a", **numpys), model.generate("a", **mine)))
        largest = [model.generate("a", seed=seed, frames=1, steps=1) for seed in (-1, 2**64 - 1, numpy.uint64(2**64 - 1))]
        self.assertTrue(all(numpy.array_equal(frames, largest[0]) for frames in largest))

    def test_paths_that_c_would_cut(self):
        with tempfile.TemporaryDirectory() as folder:
            for call in (imagine.open, imagine.load, lambda path: imagine.save(path, numpy.zeros((1, 8, 8, 3), "uint8"))):
                with self.assertRaisesRegex(imagine.InvalidArgument, "^path: holds a zero"):
                    call(os.path.join(folder, "x.png\0y"))
            self.assertEqual(os.listdir(folder), [])

    def test_memory_limit(self):
        with self.assertRaises(MemoryError):
            imagine.open(PACK, imagine.Context(memory_limit=4096)).generate("a")

    def test_estimate(self):
        model = imagine.open(PACK, imagine.Context(threads=1))
        told = model.estimate(width=64, height=64, frames=9, steps=2)
        job = model.job("a red apple", width=64, height=64, frames=9, steps=2)
        for _ in job:
            pass
        self.assertGreaterEqual(told["peak_bytes"], job.info["memory_peak"])
        self.assertEqual((told["width"], told["frames"], told["fits"], told["limit_bytes"]), (64, 9, True, 0))
        self.assertEqual(told["peak_bytes"], max(stage["peak"] for stage in told["stages"].values()))
        self.assertGreater(told["stages"]["decode"]["work"], told["stages"]["decode"]["weights"])
        with self.assertRaises(ValueError):
            model.estimate(width=63)
        size = {"width": 64, "height": 64, "frames": 9, "steps": 2}
        self.assertEqual(model.estimate("a red apple", "a dog", progress=print, **size),
                         model.estimate(prompt="a red apple", negative_prompt="a dog", **size))
        shown = model.estimate("a", preview=print, **size)
        self.assertEqual(shown, model.estimate("a", previews=True, **size))
        self.assertGreater(shown["stages"]["sample"]["peak"], model.estimate("a", **size)["stages"]["sample"]["peak"])

    def test_weights_and_limits(self):
        whole = imagine.open(PACK).generate("a red apple", seed=3)
        streamed = imagine.Model(PACK, weights="streamed")
        self.assertTrue(streamed.estimate()["streamed"])
        self.assertTrue((streamed.generate("a red apple", seed=3) == whole).all())
        model = imagine.Model(PACK, imagine.Context(threads=1, memory_limit=4_000_000))
        told = model.estimate(width=512, height=512)
        self.assertFalse(told["fits"])
        self.assertTrue(told["in_turn"] and told["gives_back"] and told["tile"] > 0)
        width, height, frames = told["nearest"]
        with self.assertRaisesRegex(MemoryError, f"{width}x{height} with {frames} frame"):
            model.job("a", width=512, height=512)
        for _ in model.job("a", width=width, height=height, frames=frames):
            pass
        with self.assertRaises(ValueError):
            imagine.Model(PACK, weights="elsewhere")

    def test_guidance_in_turn(self):
        model = imagine.open(PACK, imagine.Context(threads=1))
        work = [model.estimate(guidance=3, cfg=cfg)["stages"]["sample"]["work"] for cfg in ("in-turn", "batched")]
        self.assertLess(*work)
        made = [model.generate("a red apple", guidance=3, steps=2, cfg=cfg) for cfg in ("in-turn", "batched", "auto")]
        self.assertTrue((made[0] == made[1]).all() and (made[0] == made[2]).all())
        with self.assertRaisesRegex(ValueError, "cfg"):
            model.job("a", cfg="both")

    def test_generate_keeps_within_what_estimate_tells(self):
        size = {"seed": 3, "width": 96, "height": 96, "frames": 33, "steps": 1}
        whole = imagine.open(PACK).generate("a", **size)
        peak = imagine.open(PACK, imagine.Context(threads=1)).estimate(**size)["peak_bytes"]
        for share in (1, 0.8):  # in pieces, and in tiles
            model = imagine.open(PACK, imagine.Context(threads=1, memory_limit=int(peak * share)))
            told = model.estimate(**size)
            self.assertTrue(told["fits"])
            frames = model.generate("a", **size)
            self.assertTrue(numpy.array_equal(frames, whole))
            self.assertIsInstance(frames.base, imagine.Buffer)
            self.assertLessEqual(model.context.info["memory_peak"], told["peak_bytes"])

    def test_generate_ends_its_job(self):
        model = imagine.open(PACK, imagine.Context(threads=2))
        before = model.context.info["memory_used"]
        for name in ("progress", "preview"):
            with self.assertRaises(ZeroDivisionError):
                model.generate("a", steps=1000, width=256, height=256, frames=33, **{name: lambda *_: 1 / 0})
            gc.collect()
            self.assertLess(model.context.info["memory_used"] - before, 20 << 20)  # the weights stay
        with self.assertRaises(TypeError):
            model.generate("a", decode=False)

    def test_cancel_from_another_thread(self):
        model = imagine.open(PACK)
        job = model.job("a", steps=1000, width=256, height=256, frames=33)  # many seconds of work
        self.assertEqual(job.next().kind, "step")
        thread = threading.Thread(target=job.cancel)
        thread.start()
        with self.assertRaises(imagine.Cancelled):
            for _ in job:
                pass
        thread.join()
        job.close()
        with self.assertRaises(imagine.StateError):
            job.next()

    def test_timeout(self):
        with imagine.open(PACK).job("a", steps=1000, width=256, height=256, frames=33) as job:
            with self.assertRaises(TimeoutError):
                while True:
                    job.next(timeout=0)
            for past in (-1e-3, -1, float("-inf")):  # a deadline that is over is none that never comes
                with self.assertRaises(TimeoutError):
                    while True:
                        job.next(timeout=past)
            with self.assertRaises(imagine.InvalidArgument):
                job.next(timeout=float("nan"))
            for long in (1e10, float("inf")):
                self.assertEqual(job.next(timeout=long).kind, "step")

    def test_nothing_is_left(self):
        context = imagine.Context()
        empty = context.info["memory_used"]
        for _ in range(3):
            model = imagine.open(PACK, context)
            frames = model.generate("a", steps=2)
            del model, frames
            gc.collect()
        self.assertEqual(context.info["memory_used"], empty)


if __name__ == "__main__":
    unittest.main()
