# SPDX-License-Identifier: MIT
"""Memory shared with other libraries: addresses are compared, and who keeps whom alive."""

import copy
import ctypes
import gc
import os
import pathlib
import pickle
import subprocess
import sys
import unittest
import unittest.mock
import weakref

import numpy

try:
    import torch
except ImportError:
    torch = None

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bindings" / "python"))

import imagine  # noqa: E402
from imagine import _dlpack, _handles  # noqa: E402

NUMPY_2 = int(numpy.__version__.split(".")[0]) >= 2
TYPES = ["uint8", "int32", "int64", "float16", "float32", "float64"]


def capsule_name(capsule):
    return _dlpack._name(capsule)


def make(dtype="float32", shape=(2, 3, 4)):
    """A buffer of the library's own memory, counting up, and its context."""
    context = imagine.Context(threads=1)
    buffer = imagine.Buffer._create(context, _handles.NUMBERS[dtype], shape)
    if dtype != "bfloat16":
        buffer.array[...] = numpy.arange(buffer.array.size).reshape(shape)
    return buffer, context


class ToNumpy(unittest.TestCase):
    def test_every_type_is_a_view(self):
        for dtype in TYPES:
            buffer, _ = make(dtype)
            for array in (numpy.asarray(buffer), numpy.from_dlpack(buffer)):
                self.assertEqual((array.dtype.name, array.shape), (dtype, (2, 3, 4)))
                self.assertEqual(array.ctypes.data, buffer._info().data)
                self.assertEqual(array[1, 2, 3], 23)

    def test_the_array_keeps_the_memory(self):
        buffer, context = make()
        empty = context.info["memory_used"]
        arrays = [numpy.asarray(buffer), numpy.from_dlpack(buffer)]
        del buffer
        gc.collect()
        self.assertTrue(all(array[1, 2, 3] == 23 for array in arrays))
        self.assertGreater(context.info["memory_used"], 0)
        del arrays
        gc.collect()
        self.assertLess(context.info["memory_used"], empty)

    def test_closing_leaves_the_memory_to_the_arrays(self):
        for view in (numpy.asarray, lambda buffer: buffer.array):
            buffer, context = make(shape=(256, 256))
            inside = context.info["memory_used"]
            with buffer:
                array = view(buffer)
            with array.base as base:  # a Buffer too
                self.assertIsInstance(base, imagine.Buffer)
            with self.assertRaises(imagine.StateError):
                buffer.array
            self.assertGreaterEqual(context.info["memory_used"], inside)
            others = [imagine.Buffer.copy_of(context, numpy.full((256, 256), 7, "float32")) for _ in range(4)]
            self.assertEqual(array[1, 2], 258)
            del array, base, buffer, others
            gc.collect()
            self.assertLess(context.info["memory_used"], inside - 256 * 256 * 4 + 1)

    def test_a_view_that_is_gone_keeps_nothing(self):
        buffer, context = make(shape=(256, 256))
        self.assertEqual(buffer.array[0, 1], 1)
        buffer.close()
        self.assertLess(context.info["memory_used"], 256 * 256 * 4)

    def test_no_pointer_of_an_unknown_device_is_followed(self):
        buffer, context = make()
        real = imagine._lib().imagine_buffer_get_info

        def newer(handle, info, error):
            status = real(handle, info, error)
            info._obj.device = 77
            return status

        with unittest.mock.patch.object(imagine._lib(), "imagine_buffer_get_info", newer):
            self.assertEqual(buffer.device, "unknown")
            with self.assertRaisesRegex(imagine.Unsupported, "a device that this module does not know"):
                numpy.asarray(buffer)
            for way in (buffer.__dlpack__, buffer.__dlpack_device__):
                with self.assertRaisesRegex(BufferError, "a device that this module does not know"):
                    way()
        self.assertEqual(buffer.array[1, 2, 3], 23)

    def test_a_number_is_taken_for_no_address(self):
        with self.assertRaises(TypeError):
            imagine.Buffer(1024)
        self.assertRaisesRegex(imagine.StateError, "the buffer is closed", lambda: imagine.Buffer().shape)

    def test_a_copy_is_another_handle(self):
        buffer, context = make()
        again = copy.copy(buffer)
        self.assertEqual(again._info().data, buffer._info().data)
        del again
        gc.collect()
        self.assertEqual(buffer.array[1, 2, 3], 23)
        model = imagine.open(ROOT / "tests" / "packs" / "two-layer", context)
        with model.job("a", steps=1) as job, imagine.Cancel(context) as cancel:
            handles = [(handle, way) for handle in (context, model, job, cancel, buffer)
                       for way in (copy.copy, copy.deepcopy, pickle.dumps)]
            for handle, way in handles:
                if (handle, way) != (buffer, copy.copy):
                    with self.assertRaisesRegex(TypeError, f"a {type(handle).__name__} owns"):
                        way(handle)
        gc.collect()
        self.assertEqual(model.info["width"], 32)

    def test_what_numpy_has_no_type_for(self):
        buffer, _ = make("bfloat16")
        for view in (numpy.asarray, numpy.array, lambda buffer: buffer.array):
            with self.assertRaisesRegex(imagine.Unsupported, "no type for the buffer's bfloat16"):
                view(buffer)

    def test_empty_and_scalar(self):
        for shape in ((0,), (3, 0, 2), ()):
            buffer, _ = make(shape=shape)
            self.assertEqual(numpy.from_dlpack(buffer).shape, shape)
            self.assertEqual(buffer.array.shape, shape)

    def test_read_only_memory_stays_so(self):
        constant = numpy.arange(6, dtype="int32")
        constant.flags.writeable = False
        buffer = imagine.Buffer.wrap(constant)
        self.assertTrue(buffer.read_only)
        self.assertFalse(numpy.asarray(buffer).flags.writeable)
        with self.assertRaises(BufferError):
            buffer.__dlpack__()
        self.assertEqual(capsule_name(buffer.__dlpack__(max_version=(1, 1))), b"dltensor_versioned")
        if NUMPY_2:
            self.assertFalse(numpy.from_dlpack(buffer).flags.writeable)
        again = imagine.Buffer.from_dlpack(buffer)
        self.assertTrue(again.read_only)
        self.assertEqual(again._info().data, constant.ctypes.data)


class Protocol(unittest.TestCase):
    def test_device_and_versions(self):
        buffer, _ = make()
        self.assertEqual(buffer.__dlpack_device__(), (1, 0))
        for version, name in ((None, b"dltensor"), ((0, 8), b"dltensor"), ((1, 0), b"dltensor_versioned"),
                              ((2, 0), b"dltensor_versioned")):
            self.assertEqual(capsule_name(buffer.__dlpack__(max_version=version)), name)
        for wrong in ({"stream": 1}, {"dl_device": (2, 0)}):
            with self.assertRaises(BufferError):
                buffer.__dlpack__(**wrong)
        buffer.__dlpack__(dl_device=(1, 0), copy=False)

    def test_copies_are_other_memory_and_say_so(self):
        buffer, _ = make()
        for copy, flags in ((None, 0), (False, 0), (True, 2)):
            address, name = _dlpack.opened(capsule := buffer.__dlpack__(max_version=(1, 0), copy=copy))
            tensor = _dlpack.ManagedVersioned.from_address(address)
            self.assertEqual((name, tensor.flags, tensor.major), (b"dltensor_versioned", flags, 1))
            self.assertEqual(tensor.tensor.data == buffer._info().data, not copy)
            values = ctypes.cast(tensor.tensor.data, ctypes.POINTER(ctypes.c_float))
            self.assertEqual(values[23], 23)
            del capsule

    def test_an_unused_capsule_gives_everything_back(self):
        buffer, context = make()
        gc.collect()
        before = context.info["memory_used"]
        capsules = [buffer.__dlpack__(), buffer.__dlpack__(max_version=(1, 0))]
        self.assertGreater(context.info["memory_used"], before)
        del capsules
        gc.collect()
        self.assertEqual(context.info["memory_used"], before)

    def test_a_refused_tensor_is_given_back(self):
        """numpy and sum() drop the capsule with their exception on its way."""
        buffer, context = make("bfloat16", (256, 256))
        before = context.info["memory_used"]
        for refuse in (numpy.from_dlpack, lambda buffer: sum(buffer.__dlpack__() for _ in range(1))):
            with self.assertRaises((TypeError, RuntimeError, BufferError)) as caught:
                refuse(buffer)
            self.assertNotIsInstance(caught.exception, imagine.Error)
        buffer.close()
        self.assertLess(context.info["memory_used"], before - 256 * 256)
        buffer, context = make()
        before, ignored = context.info["memory_used"], []
        with unittest.mock.patch("sys.unraisablehook", lambda given: ignored.append(given.exc_type)):
            with self.assertRaises(SystemError):  # what is left of a TypeError that nobody foresees
                sum(buffer.__dlpack__(max_version=(1, 0)) for _ in range(1))
            self.assertEqual((ignored, context.info["memory_used"]), ([TypeError], before))
            with self.assertRaises(SystemError):
                sum(imagine.Buffer.wrap(numpy.zeros(3)).__dlpack__() for _ in range(1))
        self.assertFalse(_handles._lent)

    def test_a_used_capsule_is_refused(self):
        class Once:
            capsule = make()[0].__dlpack__()

            def __dlpack__(self):
                return self.capsule

        imagine.Buffer.from_dlpack(Once())
        with self.assertRaises(BufferError):
            imagine.Buffer.from_dlpack(Once())


    def test_tensors_on_a_gpu_are_asked_for_in_the_default_stream(self):
        asked = []

        class OnGpu:
            def __dlpack_device__(self):
                return 2, 0

            def __dlpack__(self, **options):
                asked.append(options)
                raise BufferError("there is no GPU here")

        class OnHost(OnGpu):
            def __dlpack_device__(self):
                return 1, 0

        for tensor in OnGpu(), OnHost():
            with self.assertRaises(BufferError):
                imagine.Buffer.from_dlpack(tensor)
        self.assertEqual([options.get("stream") for options in asked], [1, None])


class FromNumpy(unittest.TestCase):
    def test_every_type_without_a_copy(self):
        for dtype in TYPES + ["bool"]:
            array = numpy.ones((3, 4), dtype)
            wrapped = imagine.Buffer.wrap(array)
            self.assertEqual(wrapped._info().data, array.ctypes.data)
            self.assertEqual(wrapped.dtype, "uint8" if dtype == "bool" else dtype)
            if dtype != "bool" or NUMPY_2:
                taken = imagine.Buffer.from_dlpack(array)
                self.assertEqual((taken._info().data, taken.shape), (array.ctypes.data, (3, 4)))
                self.assertEqual(taken.dtype, wrapped.dtype)

    def test_the_buffer_keeps_the_array(self):
        for make_buffer in (imagine.Buffer.wrap, imagine.Buffer.from_dlpack):
            array = numpy.ones(1000, "float32")
            alive = weakref.ref(array)
            buffer = make_buffer(array)
            del array
            gc.collect()
            self.assertIsNotNone(alive())
            self.assertEqual(buffer.array[999], 1)
            view = buffer.array
            del buffer
            gc.collect()
            self.assertIsNotNone(alive())
            del view
            gc.collect()
            self.assertIsNone(alive())

    def test_what_is_written_is_seen(self):
        array = numpy.zeros(4, "float32")
        imagine.Buffer.wrap(array).array[2] = 7
        self.assertEqual(array[2], 7)

    def test_refused(self):
        with self.assertRaisesRegex(imagine.InvalidArgument, "contiguous"):
            imagine.Buffer.wrap(numpy.zeros((4, 4), "float32").T[1:])
        with self.assertRaisesRegex(imagine.InvalidArgument, "type"):
            imagine.Buffer.wrap(numpy.zeros(4, "complex64"))
        with self.assertRaisesRegex(imagine.InvalidArgument, "type"):
            imagine.Buffer.wrap(numpy.zeros(4, ">f4"))
        with self.assertRaisesRegex(imagine.Unsupported, "contiguous"):
            imagine.Buffer.from_dlpack(numpy.zeros((4, 4), "float32").T)
        with self.assertRaisesRegex(imagine.Unsupported, "dtype"):
            imagine.Buffer.from_dlpack(numpy.zeros(4, "complex64"))
        with self.assertRaises(imagine.InvalidArgument):
            imagine.Buffer.wrap(numpy.zeros((1,) * 9, "float32"))
        self.assertFalse(_handles._lent)

    def test_a_job_takes_buffers(self):
        model = imagine.open(ROOT / "tests" / "packs" / "two-layer")
        with model.job("a", seed=3, steps=1, decode=False) as job:
            shape = [event.latents for event in job if event.kind == "latents"][0].shape
        noise = numpy.random.default_rng(1).standard_normal(shape).astype("float32")
        first = model.generate("a", noise=noise, steps=2)
        second = model.generate("a", noise=imagine.Buffer.wrap(noise), steps=2)
        self.assertTrue(numpy.array_equal(first, second))
        gc.collect()
        self.assertFalse(_handles._lent)


    def test_a_closed_buffer_is_refused(self):
        """Nothing is left out silently: noise of a closed one would be noise of the seed."""
        model = imagine.open(ROOT / "tests" / "packs" / "two-layer")
        with imagine.Buffer.wrap(numpy.zeros((16, 2, 4, 4), "float32")) as closed:
            pass
        for name in ("noise", "renoise", "latents", "prompt_embeds", "negative_embeds", "first_frames", "last_frame",
                     "init_frames", "init_latents", "mask_frames", "known_latents", "known_mask"):
            for work in (model.generate, model.estimate):
                with self.assertRaisesRegex(imagine.StateError, f"^{name}: the buffer is closed$"):
                    work(prompt="a", steps=1, **{name: closed})
        for name, work in (("latents", model.decode), ("frames", model.encode),
                           ("frames", lambda frames: imagine.save("/no/folder/a.png", frames))):
            with self.assertRaisesRegex(imagine.StateError, f"^{name}: the buffer is closed$"):
                work(closed)


# The emulated module: its device memory cannot be looked into, so that whoever takes it for the host's is killed.
EMULATED = ROOT / "build/tests/cuda_emulator/unwatched"


@unittest.skipUnless((EMULATED / "libimagine_cuda.so").exists(), "no emulated module has been built")
class OnGpu(unittest.TestCase):
    def test_all_of_it(self):
        """In a process of its own, for the loader reads its path once."""
        path = os.pathsep.join(filter(None, [str(EMULATED), os.environ.get("LD_LIBRARY_PATH")]))
        done = subprocess.run([sys.executable, __file__, "InGpuProcess"], env=dict(os.environ, LD_LIBRARY_PATH=path,
                              IMAGINE_EMULATED="1"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("Ran 4 tests", done.stdout)


class InGpuProcess(unittest.TestCase if os.environ.get("IMAGINE_EMULATED") else object):
    """What OnGpu runs."""

    def setUp(self):
        self.context = imagine.Context(threads=1, device="cuda")
        pointer = ctypes.c_void_p()
        _handles.call("imagine_buffer_create_on", ctypes.byref(pointer), self.context, _handles._api.DEVICES["cuda"],
                      _handles.NUMBERS["float32"], 2, (ctypes.c_int64 * 2)(3, 4))
        self.buffer = imagine.Buffer._owner(pointer.value)
        self.values = numpy.arange(12, dtype="float32").reshape(3, 4)
        _handles.call("imagine_buffer_copy", self.buffer, imagine.Buffer.wrap(self.values))

    def tensor(self, **options):
        """(device, flags, the values, whether the memory is the buffer's own) of a capsule."""
        address, _ = _dlpack.opened(capsule := self.buffer.__dlpack__(max_version=(1, 0), **options))
        managed = _dlpack.ManagedVersioned.from_address(address)
        device, flags, own = (managed.tensor.device_type, managed.tensor.device_id), managed.flags, \
            managed.tensor.data == self.buffer._info().data
        if device == _dlpack.CPU:
            found = numpy.array((ctypes.c_float * 12).from_address(managed.tensor.data)).reshape(3, 4)
        else:
            class Once:
                def __dlpack__(self, **_):
                    return capsule

                def __dlpack_device__(self):
                    return device

            found = imagine.Buffer.from_dlpack(Once(), self.context).host().array.copy()
        return device, flags, found, own

    def check(self, has, device, flags, own):
        self.assertEqual((has[0], has[1], has[3]), (device, flags, own))
        self.assertTrue(numpy.array_equal(has[2], self.values))

    def test_a_copy_lies_where_the_device_says(self):
        gpu = self.buffer.__dlpack_device__()
        self.assertEqual(gpu, (2, 0))
        for options in ({}, {"copy": False}, {"dl_device": gpu}, {"stream": 1}):
            self.check(self.tensor(**options), gpu, 0, True)
        for options in ({"copy": True}, {"copy": True, "dl_device": gpu}):
            self.check(self.tensor(**options), gpu, _dlpack.IS_COPIED, False)
        for options in ({"dl_device": (1, 0)}, {"dl_device": (1, 0), "copy": True}):
            self.check(self.tensor(**options), _dlpack.CPU, _dlpack.IS_COPIED, False)

    def test_refused(self):
        for options in ({"dl_device": (1, 0), "copy": False}, {"dl_device": (2, 1)}, {"dl_device": (2, 1), "copy": True}):
            with self.assertRaisesRegex(BufferError, "dl_device"):
                self.buffer.__dlpack__(**options)

    @unittest.skipUnless(NUMPY_2, "numpy 1 knows no devices")
    def test_numpy_takes_a_copy_on_the_host(self):
        self.assertTrue(numpy.array_equal(numpy.from_dlpack(self.buffer, device="cpu"), self.values))

    def test_a_copy_is_given_back(self):
        before = self.context.info["device_memory_used"]
        self.tensor(copy=True)
        gc.collect()
        self.assertEqual(self.context.info["device_memory_used"], before)


@unittest.skipIf(torch is None, "no PyTorch here")
class Torch(unittest.TestCase):
    def test_to_torch_and_back_without_a_copy(self):
        for dtype in TYPES + ["bfloat16"]:
            buffer, _ = make(dtype)
            tensor = torch.from_dlpack(buffer)
            self.assertEqual((str(tensor.dtype), tuple(tensor.shape)), ("torch." + dtype, (2, 3, 4)))
            self.assertEqual(tensor.data_ptr(), buffer._info().data)
            back = imagine.Buffer.from_dlpack(tensor)
            self.assertEqual((back._info().data, back.dtype, back.shape), (tensor.data_ptr(), dtype, (2, 3, 4)))
            tensor.zero_()
            self.assertFalse(ctypes.string_at(buffer._info().data, buffer.nbytes).strip(b"\0"))

    def test_the_tensor_keeps_the_memory(self):
        buffer, context = make()
        tensor = torch.from_dlpack(buffer)
        del buffer
        gc.collect()
        self.assertEqual(float(tensor[1, 2, 3]), 23)
        used = context.info["memory_used"]
        del tensor
        gc.collect()
        self.assertLess(context.info["memory_used"], used)

    def test_refused(self):
        with self.assertRaisesRegex(imagine.Unsupported, "contiguous"):
            imagine.Buffer.from_dlpack(torch.zeros(3, 4).t())
        with self.assertRaisesRegex(imagine.Unsupported, "dtype"):
            imagine.Buffer.from_dlpack(torch.zeros(3, dtype=torch.int16))
        self.assertEqual(imagine.Buffer.from_dlpack(torch.ones(3, dtype=torch.bool)).dtype, "uint8")

    def test_frames_of_a_job(self):
        model = imagine.open(ROOT / "tests" / "packs" / "two-layer")
        frames = model.generate("a", steps=1)
        tensor = torch.from_dlpack(frames.base)
        self.assertEqual(tensor.data_ptr(), frames.ctypes.data)


if __name__ == "__main__":
    unittest.main()
