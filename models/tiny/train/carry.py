# SPDX-License-Identifier: MIT
"""Packs what training needs on another machine, in parts: the scripts, the shared folder's pictures that scenes are made of, and
from the state folder the averaged weights, in f16, without the optimisers' state.

    carry.py --out FOLDER [--core] [--animations]
    there:   cat FOLDER/part-* | tar x; IMAGINE_SHARED=carried/shared python carried/project/models/tiny/train/train_dit128.py
             --state carried/state --device cuda ...

The transformer begins there as what it is here (start128.pt), or, where it has not been trained, as it grows from the 64x64 model.
Latents stay behind: a machine with a GPU draws and encodes new scenes (`--drawers`).
"""

import argparse
import io
import tarfile
from pathlib import Path

import torch

import common
import data
import objects

HERE = Path(__file__).resolve().parent
PART = 30 << 20  # bytes
BEST = ("whole", "decoder", "clips", "pictures")  # the VAE's stages, the last one first


class Parts(io.RawIOBase):
    """What is written goes into part-000, part-001 and so on."""

    def __init__(self, folder, size):
        self.folder, self.size, self.written, self.file = folder, size, 0, None

    def writable(self):
        return True

    def write(self, block):
        block = memoryview(block)
        done = 0
        while done < len(block):
            if self.written % self.size == 0:
                self.close_part()
                self.file = open(self.folder / f"part-{self.written // self.size:03d}", "wb")
            n = min(len(block) - done, self.size - self.written % self.size)
            self.file.write(block[done:done + n])
            done, self.written = done + n, self.written + n
        return done

    def close_part(self):
        if self.file:
            self.file.close()
            self.file = None


def pictures(catalogue, core, animations):
    """The files of the shared folder that scenes of the catalogue need."""
    used = {c.file for concept in (*catalogue.core, *(() if core else catalogue.others)) for c in concept.cutouts if ":" not in c.file}
    found = ["pictures/manifest.jsonl", *(f"pictures/{file}" for file in sorted(used))]
    found += [f"sprites/BGs/{p.name}" for p in sorted((catalogue.shared / "sprites" / "BGs").iterdir())]
    found += [f"photos/{p.name}" for p in sorted((catalogue.shared / "photos").iterdir())]
    if animations:
        found += sorted({c.file for concept in catalogue.animations for c in concept.cutouts})
    return found


def averaged(path):
    """A checkpoint's averaged weights as those of a file of its own."""
    values = {name: v.half() for name, v in common.load(path)["average"].items()}
    out = io.BytesIO()
    torch.save({"average": values}, out)
    return out.getvalue()


def of_the_state(state):
    """{name: path or bytes} of what the state folder gives."""
    found = {name: state / name for name in ("tokenizer128.json", "latents128/statistics.json")}
    stage = next((s for s in BEST if (state / f"vae128-{s}.pt").exists()), BEST[-1])
    trained = state / "dit128.pt"
    missing = [p for p in (*found.values(), state / f"vae128-{stage}.pt", trained if trained.exists() else state / "pack64") if not p.exists()]
    if missing:
        raise SystemExit(f"not there: {', '.join(map(str, missing))}")
    found[f"vae128-{stage}.pt"] = averaged(state / f"vae128-{stage}.pt")
    found.update({"start128.pt": averaged(trained)} if trained.exists() else {"pack64": state / "pack64"})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=common.arguments("").get_default("state"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts, to be made")
    parser.add_argument("--core", action="store_true", help="leave other objects than the core's behind, 18 MB")
    parser.add_argument("--animations", action="store_true", help="take the animated emoji along, 38 MB")
    args = parser.parse_args()
    catalogue, state = objects.Catalogue(data.shared_folder()), of_the_state(args.state)
    args.out.mkdir(parents=True)
    parts = Parts(args.out, PART)
    with tarfile.open(fileobj=parts, mode="w|") as tar:
        tar.add(HERE, "carried/project/models/tiny/train", filter=lambda f: None if "__pycache__" in f.name else f)
        for name in pictures(catalogue, args.core, args.animations):
            tar.add(catalogue.shared / name, f"carried/shared/data/{name}")
        for name, source in state.items():
            if isinstance(source, bytes):
                entry = tarfile.TarInfo(f"carried/state/{name}")
                entry.size = len(source)
                tar.addfile(entry, io.BytesIO(source))
            else:
                tar.add(source, f"carried/state/{name}")
    parts.close_part()
    print(f"{args.out}: {parts.written / 1e6:.1f} MB in {len(list(args.out.glob('part-*')))} parts")


if __name__ == "__main__":
    main()
