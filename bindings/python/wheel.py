# SPDX-License-Identifier: MIT
"""Builds the wheel (PEP 517 and 660): the package, libimagine.so with the libraries that it needs, and the shipped model. With
IMAGINE_BUNDLE=0 it is the package alone, for systems that have library and models. It stands on Python's own library alone, so
that installing needs no network."""

import base64
import ctypes
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
# Beside the library for systems that lack them; the C library itself is every system's own.
CARRIED = re.compile(r"lib(png\d+|z)\.so\.")
MODEL = {".json", ".safetensors", ".md"}


def project():
    """(name, version, description, Python, dependencies) as pyproject.toml states them."""
    text = (HERE / "pyproject.toml").read_text()

    def value(key):
        return re.search(rf'^{key} = "(.*)"$', text, re.M)[1]

    dependencies = re.findall(r'"(.*?)"', re.search(r"^dependencies = \[(.*)\]$", text, re.M)[1])
    return value("name"), value("version"), value("description"), value("requires-python"), dependencies


def metadata():
    name, version, description, python, dependencies = project()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Summary: {description}", "License: MIT",
             f"Requires-Python: {python}"] + [f"Requires-Dist: {d}" for d in dependencies]
    return "\n".join(lines + ["Description-Content-Type: text/markdown", "", (HERE / "README.md").read_text()])


class UnsupportedOperation(Exception):
    """What build_sdist says by the protocol (PEP 517)."""


def tag(pure):
    return "py3-none-any" if pure else "py3-none-" + re.sub(r"[-.]", "_", sysconfig.get_platform())


def dist_info():
    name, version = project()[:2]
    return f"{name}-{version}.dist-info"


def library(folder):
    """libimagine.so.0: the one that IMAGINE_LIBRARY names, that of the source tree's build, or one built now."""
    if os.environ.get("IMAGINE_LIBRARY"):
        return pathlib.Path(os.environ["IMAGINE_LIBRARY"])
    built = TOP / "build" / "libimagine.so.0"
    if built.exists():
        up_to_date(built)
        return built
    if not (TOP / "meson.build").exists() or not shutil.which("meson"):
        sys.exit("libimagine.so.0 is not built, and cannot be: build it (examples/quickstart does) or name it in IMAGINE_LIBRARY")
    subprocess.run(["meson", "setup", folder / "build", TOP, "-Dtests=false"], check=True)
    subprocess.run(["ninja", "-C", folder / "build", "libimagine.so." + project()[1]], check=True)
    return folder / "build" / "libimagine.so.0"


def up_to_date(built):
    """Builds it anew where its sources have changed, and stops where it is another version's all the same."""
    if (built.parent / "build.ninja").exists() and shutil.which("ninja"):
        subprocess.run(["ninja", "-C", built.parent, "libimagine.so." + project()[1]], check=True, stdout=subprocess.DEVNULL)
    library = ctypes.CDLL(str(built.resolve()))
    library.imagine_version_string.restype = ctypes.c_char_p
    version = library.imagine_version_string().decode()
    if version != project()[1]:
        sys.exit(f"{built} is of version {version}, and the package of {project()[1]}: build it anew")


def needed(path):
    """The libraries to carry, as {name: path}."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    return {name: found for name, found in re.findall(r"(\S+) => (\S+)", listed) if CARRIED.match(name)}


def stripped(path, folder):
    """The library without debug information, where there is a strip."""
    copy = pathlib.Path(folder) / path.name
    shutil.copyfile(path, copy)
    if shutil.which("strip"):
        subprocess.run(["strip", "--strip-unneeded", copy], check=True)
    return copy.read_bytes()


class Wheel:
    """A wheel being written, with its record; the same input gives the same bytes."""

    def __init__(self, folder, pure=False):
        name, version = project()[:2]
        self.pure, self.name = pure, f"{name}-{version}-{tag(pure)}.whl"
        self.zip = zipfile.ZipFile(pathlib.Path(folder) / self.name, "w", zipfile.ZIP_DEFLATED)
        self.record = []

    def add(self, name, data):
        data = data.encode() if isinstance(data, str) else data
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (0o755 if ".so" in name else 0o644) << 16
        self.zip.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(data)}")

    def close(self):
        info = dist_info()
        self.add(f"{info}/METADATA", metadata())
        self.add(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: libimagine\nRoot-Is-Purelib: {str(self.pure).lower()}\n"
                                  f"Tag: {tag(self.pure)}\n")
        licence = next((path for path in (TOP / "LICENSE", HERE / "LICENSE") if path.exists()), None)
        if licence:
            self.add(f"{info}/LICENSE", licence.read_text())
        record = "\n".join(self.record + [f"{info}/RECORD,,"]) + "\n"
        self.zip.writestr(zipfile.ZipInfo(f"{info}/RECORD", (1980, 1, 1, 0, 0, 0)), record)
        self.zip.close()
        return self.name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    wheel = Wheel(wheel_directory, pure=os.environ.get("IMAGINE_BUNDLE") == "0")
    for path in sorted((HERE / "imagine").iterdir()):
        if path.suffix in (".py", ".typed"):
            wheel.add(f"imagine/{path.name}", path.read_bytes())
    if not wheel.pure:
        add_library_and_model(wheel)
    return wheel.close()


def add_library_and_model(wheel):
    with tempfile.TemporaryDirectory() as folder:
        built = library(pathlib.Path(folder))
        wheel.add("imagine/lib/libimagine.so.0", stripped(built, folder))
        module = next((path for path in (built.parent / "libimagine_cuda.so", built.parent / "kernels/cuda/libimagine_cuda.so")
                       if path.exists()), None)
        if module:
            wheel.add("imagine/lib/libimagine_cuda.so", stripped(module, folder))
        for name, path in sorted(needed(built).items()):
            wheel.add(f"imagine/lib/{name}", pathlib.Path(path).read_bytes())
    tiny = TOP / "models" / "tiny"
    for path in sorted(tiny.rglob("*")):
        if path.suffix in MODEL and "train" not in path.relative_to(tiny).parts:
            wheel.add(f"imagine/models/tiny/{path.relative_to(tiny).as_posix()}", path.read_bytes())


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """A wheel that only points here; the library is found in the source tree's build."""
    wheel = Wheel(wheel_directory)
    wheel.add("libimagine.pth", f"{HERE}\n")
    return wheel.close()


def build_sdist(sdist_directory, config_settings=None):
    raise UnsupportedOperation("the library's sources are not part of the Python package, so that there is no sdist of it: build the wheel "
                               "from the source tree, with `python -m build --wheel` or `pip wheel`")
