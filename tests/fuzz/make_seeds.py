# SPDX-License-Identifier: MIT
"""Writes what the fuzz targets begin with into FOLDER/TARGET/: files of the tests, small ones of each kind.

    python3 tests/fuzz/make_seeds.py FOLDER"""

import json
import pathlib
import struct
import sys

TESTS = pathlib.Path(__file__).resolve().parent.parent
PACK = TESTS / "packs/two-layer"


def safetensors():
    def made(header, data=b""):
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def tensor(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    yield made({})
    yield made({"a": tensor("F32", [2, 3], 0, 24)}, bytes(24))
    yield made({"__metadata__": {"format": "pt", "x": "y"}, "b": tensor("BF16", [4], 0, 8),
                "a": tensor("I64", [], 8, 16), "empty": tensor("U8", [0, 7], 16, 16)}, bytes(16))
    kinds = {"F64": 8, "F16": 2, "I32": 4, "BOOL": 1, "I8": 1, "I16": 2, "U16": 2, "U32": 4, "U64": 8, "C64": 8,
             "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
    at, header = 0, {}
    for name, size in kinds.items():
        header["\u00e9" + name] = tensor(name, [1, 1, 1, 1, 1, 1, 1, 2], at, at + 2 * size)
        at += 2 * size
    yield made(header, bytes(at))


def jsons():
    yield b"\0" + b'[1, -2.5e+3, true, false, null, "a\\u00e9\\ud83d\\ude00\\n", {"k": [[], {}], "z": 1e400}]'
    yield b"\0" + b'{"a": {"b": [0.1, 12345678901234567890, 9223372036854775807, -9223372036854775808]}}'
    places = ["transformer/config.json", "vae/config.json", "text_encoder/config.json", None,
              "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json", "imagine.json", "model_index.json"]
    for reader, place in enumerate(places, 1):
        if place:
            yield bytes([reader]) + (PACK / place).read_bytes()
    length, = struct.unpack("<Q", (PACK / "text_encoder/model.safetensors").read_bytes()[:8])
    header = json.loads((PACK / "text_encoder/model.safetensors").read_bytes()[8:8 + length])
    names = [name for name in header if name != "__metadata__"]
    shard = "model-00001-of-00001.safetensors"
    yield b"\4" + json.dumps({"metadata": {"total_size": 1}, "weight_map": {n: shard for n in names[:4]}}).encode()


def tokenizers():
    text = (PACK / "tokenizer/tokenizer.json").read_bytes()
    whole = json.loads(text)
    yield text
    small = dict(whole, model=dict(whole["model"], vocab=whole["model"]["vocab"][:40]))
    yield json.dumps(small).encode() + b"\0a red apple"
    pieces = [["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["\u2581a", -1.5], ["b", -2], ["ab", -2.25e0]]
    model = {"type": "Unigram", "unk_id": 2, "vocab": pieces}
    steps = [{"type": "Precompiled", "precompiled_charsmap": ""}, {"type": "Nmt"}, {"type": "NFKC"},
             {"type": "Strip", "strip_left": True, "strip_right": False}, {"type": "Lowercase"},
             {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"},
             {"type": "Replace", "pattern": {"String": "b"}, "content": "a"}, {"type": "Prepend", "prepend": "\u2581"}]
    added = [{"id": 1, "content": "</s>", "lstrip": True, "rstrip": True, "normalized": False, "special": True},
             {"id": 6, "content": "ab", "normalized": True}]
    for step in steps:
        yield json.dumps({"version": "1.0", "added_tokens": added, "normalizer": step, "model": model}).encode()
    yield json.dumps({"version": "1.0", "added_tokens": added, "normalizer": {"type": "Sequence", "normalizers": steps[3:]},
                      "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
                      "post_processor": whole.get("post_processor"), "model": model}).encode() + b"\0ab  ab</s>"
    for prompt in ("a red apple &amp; a &#x1F34E;", "\u3000\ufb01\u0301 \u2581", "</s> <extra_id_0>  ab", "&notit; &lt"):
        yield b"\0" + prompt.encode()


def pictures():
    for path in sorted((TESTS / "model/pictures").glob("*.png")):
        if "expected" not in path.name:
            yield path.read_bytes()


def options():
    for which in range(7):
        yield bytes([which]) + struct.pack("<I", 0) + bytes(64)
        yield bytes([which]) + struct.pack("<I", 4096) + bytes(range(1, 65))
        yield bytes([which]) + struct.pack("<I", 20) + b"\x01\0\0\0" * 12
    sampler = struct.pack("<iiiiiQddiiiI", 1, 32, 32, 5, 4, 7, 3.0, 3.0, 3, 1, 0, 5)
    yield b"\4" + struct.pack("<I", 0) + sampler + struct.pack("<5d", 1, .75, .5, .25, 0)
    yield b"\5" + struct.pack("<IIii", 0, 0x3f, 1, 1)


def main():
    folder = pathlib.Path(sys.argv[1])
    for target, seeds in (("safetensors", safetensors), ("json", jsons), ("tokenizer", tokenizers), ("png", pictures),
                          ("options", options)):
        (folder / target).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / target / f"{number:03}").write_bytes(seed)


main()
