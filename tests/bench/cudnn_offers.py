# SPDX-License-Identifier: MIT
"""What cuDNN offers for a VAE's convolutions as kernels/cuda/cudnn.cu asks for them, on a machine without a GPU.

    python tests/bench/cudnn_offers.py [--library libcudnn.so.9] [--gpu 9.0]

cuDNN is told of an H100 (or of another GPU by its compute capability alone, all else as an H100 has it), and plans; nothing is computed.
For each shape, by the modes of its heuristics: the engine that is taken, its workspace and the milliseconds of its plan, or what was
passed over. Needs cuDNN 9, which Python's package nvidia-cudnn-cu13 has with all that it opens."""

import argparse
import ctypes
import json
import pathlib
import re
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))
import gpu

NUMBERS = {name: int(number) for name, number in
           re.findall(r"(DNN_\w+) = (-?\d+)", (TOP / "kernels/cuda/cudnn.cuh").read_text())}
# What the module itself has no use for.
NUMBERS.update(DNN_DEVICE=38, DNN_DEVICE_JSON=2702, DNN_HEURISTIC_DEVICE=204, DNN_PLAN_DEVICE=407, DNN_ENGINE_NUMBER=1301,
               DNN_T_CHAR=24)
C_TYPES = {"T_INT64": ctypes.c_int64, "T_FLOAT": ctypes.c_float, "T_DESCRIPTOR": ctypes.c_void_p, "T_CHAR": ctypes.c_char}
H100 = {"cudaDeviceId": 0, "deviceName": "NVIDIA H100 80GB HBM3", "deviceVer": 900, "driverVer": 13000, "isTccDriver": 0,
        "l2CacheSize": 52428800, "maxBlockSize": [1024, 1024, 64], "maxCtasPerSM": 32, "maxGridSize": [2147483647, 65535, 65535],
        "maxRegistersPerSM": 65536, "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
        "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "memClockRateKHz": 2619000, "multiProcessorCount": 132,
        "pciDeviceId": 592445662, "regsPerBlock": 65536, "reservedSharedMemoryPerBlock": 1024, "smClockRateKHz": 1980000,
        "supportCoopLaunch": 1, "totalGlobalMem": 85899345920, "warpSize": 32}
ROOM = 32 << 20 # LT_ROOM of linear.cu
CONFIGS = 8
MODES = ("BEST", "FAST", "FALLBACK")

# Frames, height, width, channels in and out, taps along a side, stride, padding above, left, below, right, pixels between lines.
SHAPES = {
    "832x480, 96 channels": (3, 480, 832, 96, 96, 3, 1, 1, 1, 1, 1, 0),
    "its first frame": (1, 480, 832, 96, 96, 3, 1, 1, 1, 1, 1, 0),
    "96 to 3": (3, 480, 832, 96, 8, 3, 1, 1, 1, 1, 1, 0),
    "192 channels": (3, 240, 416, 192, 192, 3, 1, 1, 1, 1, 1, 0),
    "384 channels": (3, 60, 104, 384, 384, 3, 1, 1, 1, 1, 1, 0),
    "in time": (3, 60, 104, 384, 768, 1, 1, 0, 0, 0, 0, 0),
    "enlarged": (1, 480, 832, 192, 96, 3, 1, 1, 1, 1, 1, 0),
    "encoder, halved": (1, 480, 832, 96, 96, 3, 2, 0, 0, 1, 1, 0),
    "a picture of 1920x1080": (3, 1080, 1920, 96, 96, 3, 1, 1, 1, 1, 1, 0),
    "a piece's first lines": (3, 121, 832, 96, 96, 3, 1, 1, 1, 0, 1, 0),
    "a tile's enlarged frame": (1, 257, 258, 192, 96, 3, 1, 1, 0, 0, 0, 0),
    "a tile, 96 to 3": (3, 258, 257, 96, 8, 3, 1, 0, 0, 0, 1, 0),
    "lines with gaps": (3, 480, 800, 96, 96, 3, 1, 1, 1, 1, 1, 32),
}


class Failed(Exception):
    pass


class Dnn:
    def __init__(self, name):
        self.library = ctypes.CDLL(name)

    def call(self, function, *arguments):
        status = getattr(self.library, "cudnnBackend" + function)(*arguments)
        if status:
            raise Failed(f"{function}: {status}")

    def make(self, kind, **attributes):
        """A final descriptor; attributes: NAME=(type, values)."""
        made = ctypes.c_void_p()
        self.call("CreateDescriptor", NUMBERS["DNN_" + kind], ctypes.byref(made))
        for name, (kind_of, values) in attributes.items():
            values = values if isinstance(values, (list, tuple, bytes)) else [values]
            array = (C_TYPES.get(kind_of, ctypes.c_int) * len(values))(*values)
            self.call("SetAttribute", made, NUMBERS[f"DNN_{kind}_{name}"], NUMBERS["DNN_" + kind_of], ctypes.c_int64(len(values)), array)
        if attributes:
            self.call("Finalize", made)
        return made

    def get(self, descriptor, name, kind_of, array):
        """Fills the array, whose length is the most, and returns what is in it."""
        count = ctypes.c_int64()
        self.call("GetAttribute", ctypes.c_void_p(descriptor), NUMBERS["DNN_" + name], NUMBERS["DNN_" + kind_of], ctypes.c_int64(len(array)),
                  ctypes.byref(count), array)
        return array[:count.value]


def graph_of(dnn, frames, height, width, cin, cout, taps, stride, top, left, below, right, gap):
    several, line = frames > 1, (width + gap) * cin
    out_h, out_w = (height + top + below - taps) // stride + 1, (width + left + right - taps) // stride + 1

    def tensor(number, batch, channels, depth, lines, columns, per_line):
        extents, strides = [batch, channels, depth, lines, columns], [depth * lines * per_line, 1, lines * per_line, per_line, channels]
        drop = slice(2, 2 if several else 3)
        del extents[drop], strides[drop]
        return dnn.make("TENSOR", TYPE=("T_DATA_TYPE", NUMBERS["DNN_BF16"]), EXTENTS=("T_INT64", extents), STRIDES=("T_INT64", strides),
                        ID=("T_INT64", number), ALIGNMENT=("T_INT64", 16))

    x, w = tensor(1, 1, cin, frames, height, width, line), tensor(2, cout, cin, frames, taps, taps, taps * cin)
    y = tensor(3, 1, cout, 1, out_h, out_w, out_w * cout)

    def along(values, frames):
        return "T_INT64", [frames, *values] if several else values

    how = dnn.make("CONVOLUTION", PRECISION=("T_DATA_TYPE", NUMBERS["DNN_F32"]),
                   MODE=("T_CONVOLUTION_MODE", NUMBERS["DNN_CROSS_CORRELATION"]), DIMS=("T_INT64", 2 + several),
                   DILATIONS=along([1, 1], 1), STRIDES=along([stride, stride], 1), PAD_BEFORE=along([top, left], 0),
                   PAD_AFTER=along([below, right], 0))
    forward = dnn.make("FORWARD", CONVOLUTION=("T_DESCRIPTOR", how), X=("T_DESCRIPTOR", x), W=("T_DESCRIPTOR", w),
                       Y=("T_DESCRIPTOR", y), ALPHA=("T_FLOAT", 1), BETA=("T_FLOAT", 0))
    return dnn.make("GRAPH", OPERATIONS=("T_DESCRIPTOR", forward))


def fits(notes):
    """As fits() of cudnn.cu."""
    bad = {NUMBERS["DNN_" + name] for name in ("REDUCED_SUMS", "FFT", "NONDETERMINISTIC")}
    bad |= set(range(NUMBERS["DNN_WINOGRAD"], NUMBERS["DNN_WINOGRAD_13"] + 1))
    return NUMBERS["DNN_TENSOR_CORES"] in notes and not bad & set(notes)


def try_config(dnn, device, config):
    """(number of its engine, workspace or None without a plan, whether it is taken, milliseconds of the plan)."""
    engine = (ctypes.c_void_p * 1)(dnn.make("ENGINE").value)
    dnn.get(config, "CONFIG_ENGINE", "T_DESCRIPTOR", engine)
    number = dnn.get(engine[0], "ENGINE_NUMBER", "T_INT64", (ctypes.c_int64 * 1)())[0]
    notes = dnn.get(engine[0], "ENGINE_NOTES", "T_NOTE", (ctypes.c_int32 * 16)())
    begin = time.perf_counter()
    try:
        plan = dnn.make("PLAN", CONFIG=("T_DESCRIPTOR", config), DEVICE=("T_DESCRIPTOR", device))
    except Failed:
        return number, None, False, 0
    room = dnn.get(plan.value, "PLAN_WORKSPACE", "T_INT64", (ctypes.c_int64 * 1)())[0]
    return number, room, fits(notes) and room <= ROOM, 1e3 * (time.perf_counter() - begin)


def offer(dnn, device, shape):
    graph, passed = graph_of(dnn, *shape), []
    for mode in MODES:
        try:
            heuristic = dnn.make("HEURISTIC", GRAPH=("T_DESCRIPTOR", graph), DEVICE=("T_DESCRIPTOR", device),
                                 MODE=("T_HEURISTIC_MODE", NUMBERS["DNN_" + mode]))
            configs = (ctypes.c_void_p * CONFIGS)(*(dnn.make("CONFIG").value for _ in range(CONFIGS)))
            found = dnn.get(heuristic.value, "HEURISTIC_RESULTS", "T_DESCRIPTOR", configs)
        except Failed:
            continue
        for config in found:
            number, room, taken, seconds = try_config(dnn, device, config)
            if taken:
                return f"engine {number} by {mode.lower()}, workspace {room}, plan {seconds:.1f} ms, {len(passed)} passed over"
            passed.append(f"{number} ({'no plan' if room is None else f'workspace {room}'})")
    return "none; passed over: " + ", ".join(dict.fromkeys(passed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found = [path for folder in gpu.find_libraries(None) for path in pathlib.Path(folder).glob("libcudnn.so.9")]
    parser.add_argument("--library", default=str(found[0]) if found else "libcudnn.so.9")
    parser.add_argument("--gpu", type=float, default=9.0, metavar="CAPABILITY")
    options = parser.parse_args()
    dnn = Dnn(options.library)
    told = json.dumps(dict(H100, deviceVer=round(options.gpu * 100))).encode()
    device = dnn.make("DEVICE", JSON=("T_CHAR", told))
    print(f"cuDNN {dnn.library.cudnnGetVersion()}, compute capability {options.gpu}")
    for name, shape in SHAPES.items():
        print(f"{name}: {offer(dnn, device, shape)}")


if __name__ == "__main__":
    main()
