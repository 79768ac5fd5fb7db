# SPDX-License-Identifier: MIT
"""The package as it is installed: the wheel in a fresh environment, its types, a notebook. What the machine lacks is skipped."""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
PYTHON = ROOT / "bindings" / "python"
PACK = ROOT / "tests" / "packs" / "two-layer"


def run(command, **options):
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                          **options)


def has(*modules):
    return run([sys.executable, "-c", "import " + ", ".join(modules)]).returncode == 0


def elsewhere(folder):
    """An environment that knows nothing of the source tree."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("IMAGINE", "PYTHON", "LD_"))}
    return dict(kept, HOME=str(folder), PIP_DISABLE_PIP_VERSION_CHECK="1")


class Wheel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.place = pathlib.Path(cls.folder.name)
        cls.wheel = None
        if not has("venv", "ensurepip"):
            raise unittest.SkipTest("no venv here: python3-venv has it")
        made = run([sys.executable, "-m", "venv", "--system-site-packages", cls.place / "fresh"])
        if made.returncode:
            raise unittest.SkipTest("no virtual environment can be made here: " + made.stdout[-200:])
        cls.python = cls.place / "fresh" / "bin" / "python"
        if sys.prefix != sys.base_prefix:  # the environment of an environment sees the base's packages, not its own numpy
            site = next((cls.place / "fresh").glob("lib/python*/site-packages"))
            (site / "numpy.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_1_pip_builds_it_without_a_network(self):
        done = run([self.python, "-m", "pip", "wheel", "--no-index", "--no-deps", "-w", self.place / "wheels", PYTHON],
                   env=dict(elsewhere(self.place), IMAGINE_LIBRARY=os.environ.get("IMAGINE_LIBRARY", "")))
        self.assertEqual(done.returncode, 0, done.stdout)
        wheels = list((self.place / "wheels").glob("*.whl"))
        self.assertEqual(len(wheels), 1)
        self.assertRegex(wheels[0].name, r"^libimagine-[\d.]+-py3-none-linux_\w+\.whl$")
        names = set(zipfile.ZipFile(wheels[0]).namelist())
        self.assertLess({"imagine/__init__.py", "imagine/py.typed", "imagine/lib/libimagine.so.0"}, names)
        self.assertTrue(any(name.startswith("imagine/lib/libpng") for name in names))
        self.assertFalse([name for name in names if "/train/" in name or "test" in name])

    def test_2_it_works_elsewhere(self):
        wheels = list((self.place / "wheels").glob("*.whl"))
        self.assertTrue(wheels, "the wheel was not built")
        done = run([self.python, "-m", "pip", "install", "--no-index", "--no-deps", wheels[0]], env=elsewhere(self.place))
        self.assertEqual(done.returncode, 0, done.stdout)
        shutil.copytree(PACK, self.place / "pack")
        code = ("import imagine, sys\n"
                "maps = lambda: {line.split()[-1] for line in open('/proc/self/maps') if 'imagine.so' in line}\n"
                "frames = imagine.open('pack').generate('a red apple', seed=1)\n"
                "print(imagine.__file__, *maps(), frames.shape, frames.std() > 0)\n")
        done = run([self.python, "-I", "-c", code], cwd=self.place, env=elsewhere(self.place))
        self.assertEqual(done.returncode, 0, done.stdout)
        module, library, *rest = done.stdout.split(maxsplit=2)
        for path in (module, library):
            self.assertTrue(path.startswith(str(self.place / "fresh")), path)
        self.assertEqual(rest, ["(5, 32, 32, 3) True\n"])

    def test_3_libraries_that_the_system_lacks_come_along(self):
        """The loader finds neither libpng nor zlib by name; _open() falls back to those beside the library."""
        lib = next(iter((self.place / "fresh").glob("lib/python*/site-packages/imagine/lib")), None)
        self.assertIsNotNone(lib, "the wheel was not installed")
        code = ("import ctypes\nreal, opened = ctypes.CDLL, []\n"
                "def picky(path, *a, **k):\n"
                "    opened.append(path.split('/')[-1])\n"
                "    if len(opened) == 1: raise OSError('libpng16.so.16: cannot open shared object file')\n"
                "    return real(path, *a, **k)\n"
                "ctypes.CDLL = picky\nimport imagine\nprint(imagine.version(), *opened)\n")
        done = run([self.python, "-I", "-c", code], cwd=self.place, env=elsewhere(self.place))
        self.assertRegex(done.stdout, r"^\d+\.\d+\.\d+ libimagine.so.0 libz\S+ libpng\S+ libimagine.so.0\n$")

    def test_4_editable(self):
        done = run([self.python, "-m", "pip", "install", "--no-index", "--no-deps", "--force-reinstall", "-e", PYTHON],
                   env=elsewhere(self.place))
        self.assertEqual(done.returncode, 0, done.stdout)
        done = run([self.python, "-c", "import imagine; print(imagine.__file__)"], cwd=self.place, env=elsewhere(self.place))
        self.assertEqual(done.stdout, str(PYTHON / "imagine" / "__init__.py") + "\n")


class Bare(unittest.TestCase):
    """The package without library and model, unpacked where there is nothing else, with a loader's path of its own."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.place = pathlib.Path(cls.folder.name)
        code = "import sys, wheel\nprint(wheel.build_wheel(sys.argv[1]))"
        done = run([sys.executable, "-c", code, cls.place], cwd=PYTHON, env=dict(elsewhere(cls.place), IMAGINE_BUNDLE="0"))
        if done.returncode:
            raise AssertionError(done.stdout)
        cls.wheel = zipfile.ZipFile(cls.place / done.stdout.strip())
        cls.addClassCleanup(cls.wheel.close)
        cls.wheel.extractall(cls.place / "bare")

    def python(self, code, libraries):
        """What it prints with the loader looking there first, and nothing to be found on PATH."""
        env = dict(elsewhere(self.place), PATH="", LD_LIBRARY_PATH=str(libraries), PYTHONPATH=str(self.place / "bare"))
        if sys.prefix != sys.base_prefix:
            env["PYTHONPATH"] += os.pathsep + sysconfig.get_paths()["purelib"]
        return run([sys.executable, "-c", "import imagine\n" + code], cwd=self.place, env=env)

    def place_of(self, name, **files):
        folder = self.place / name
        folder.mkdir()
        for file, source in files.items():
            (folder / file.replace("_", ".")).symlink_to(source)
        return folder

    def test_it_is_pure(self):
        names = self.wheel.namelist()
        self.assertRegex(pathlib.Path(self.wheel.filename).name, r"^libimagine-[\d.]+-py3-none-any\.whl$")
        info = next(name for name in names if name.endswith("/WHEEL")).partition("/")[0]
        self.assertEqual({name for name in names if not name.startswith(info)},
                         {f"imagine/{path.name}" for path in (PYTHON / "imagine").iterdir() if path.suffix in (".py", ".typed")})
        text = self.wheel.read(info + "/WHEEL").decode()
        self.assertIn("Root-Is-Purelib: true\nTag: py3-none-any\n", text)

    def test_the_loader_finds_the_library(self):
        library = pathlib.Path(os.environ.get("IMAGINE_LIBRARY") or ROOT / "build/libimagine.so").resolve()
        folder = self.place_of("good", libimagine_so_0=library)
        code = "imagine.version()\nprint([line.split()[-1] for line in open('/proc/self/maps') if 'libimagine' in line][0])"
        self.assertEqual(self.python(code, folder).stdout, f"{library}\n")
        done = self.python("imagine.open('tiny')", folder)
        if not any(pathlib.Path(share, "share/imagine/models/tiny").exists() for share in ("/usr", "/usr/local")):
            self.assertRegex(done.stdout, 'FileNotFound: there is no model "tiny" here, .*: give a model.s folder')

    def test_another_version_is_not_taken(self):
        folder = self.place_of("later", libimagine_so_1="/dev/null", libimagine_so="/dev/null")
        done = self.python("imagine.version()", folder)
        if done.returncode == 0:
            self.skipTest("libimagine is installed on this system")
        self.assertTrue(done.stdout.endswith("OSError: libimagine.so was not found: build it (examples/quickstart does) or name it in "
                                             "IMAGINE_LIBRARY\n"), done.stdout)

    def test_a_broken_one_says_what_it_has(self):
        done = self.python("imagine.version()", self.place_of("broken", libimagine_so_0="/dev/null"))
        self.assertIn("broken/libimagine.so.0: ", done.stdout.splitlines()[-1])

    def test_there_is_no_source_distribution(self):
        code = "import wheel\ntry: wheel.build_sdist('.')\nexcept wheel.UnsupportedOperation as error: print(error)"
        done = run([sys.executable, "-c", code], cwd=PYTHON)
        self.assertIn("python -m build --wheel", done.stdout)


class WithoutNumpy(unittest.TestCase):
    """Where there is none, what makes arrays says so before any work; the rest goes."""

    def test_it_is_asked_for_before_the_work(self):
        code = f"""
import sys
sys.modules["numpy"] = None  # as where there is none
import imagine
model = imagine.open({str(PACK)!r})
steps, made = [], []
real = imagine._lib().imagine_job_create
def create(*arguments):
    made.append(1)
    return real(*arguments)
imagine._lib().imagine_job_create = create
latents = imagine.Buffer._create(model.context, 6, (16, 1, 4, 4))
for name, call in (("generate", lambda: model.generate("a", progress=lambda *step: steps.append(step))),
                   ("job", lambda: model.job("a", steps=1, decode=False)), ("clip", lambda: model.clip("a")),
                   ("noise", lambda: model.job("a", noise=[1.0])), ("decode", lambda: model.decode(latents)),
                   ("encode", lambda: model.encode([0])), ("encode_text", lambda: model.encode_text("a")),
                   ("tokenize", lambda: model.tokenize("a")), ("load", lambda: imagine.load("/no/such.png")),
                   ("save", lambda: imagine.save("/no/such.png", [0])), ("Clip", lambda: imagine.Clip([0])),
                   ("wrap", lambda: imagine.Buffer.wrap([0])), ("array", lambda: latents.array)):
    try:
        print(name, "gave", call())
    except imagine.Unsupported as problem:
        print(name, problem.name, problem)
print(steps, made, model.estimate("a")["fits"], model.info["frames"], latents.shape)
"""
        env = dict(os.environ, PYTHONPATH=str(PYTHON))
        *said, last = run([sys.executable, "-c", code], env=env).stdout.splitlines()
        names = "generate job clip noise decode encode encode_text tokenize load save Clip wrap array".split()
        self.assertEqual(said, [f"{name} ERROR_UNSUPPORTED arrays are numpy's, and Python finds no numpy: pip install numpy"
                                for name in names])
        self.assertEqual(last, "[] [] True 5 (16, 1, 4, 4)")


class Types(unittest.TestCase):
    @unittest.skipUnless(has("mypy"), "no mypy here")
    def test_mypy_is_content(self):
        with tempfile.TemporaryDirectory() as cache:
            done = run([sys.executable, "-m", "mypy", "--cache-dir", cache, "-p", "imagine"], cwd=PYTHON)
        self.assertEqual(done.returncode, 0, done.stdout)

    @unittest.skipUnless(has("mypy"), "no mypy here")
    def test_users_see_the_types(self):
        code = ("import imagine\nmodel = imagine.open('tiny')\nreveal_type(model.job('a'))\n"
                "reveal_type(model.clip('a').fps)\nmodel.job(7)\nimagine.open(b'tiny')\nimagine.load(b'a.png')\n")
        with tempfile.TemporaryDirectory() as cache:
            done = run([sys.executable, "-m", "mypy", "--cache-dir", cache, "-c", code], cwd=PYTHON)
        self.assertIn('Revealed type is "imagine.Job"', done.stdout)
        self.assertRegex(done.stdout, r'Revealed type is "(builtins\.)?float"')
        self.assertIn('incompatible type "int"', done.stdout)
        self.assertIn("Found 1 error ", done.stdout)


@unittest.skipUnless(has("nbclient", "nbformat", "ipykernel"), "no nbclient and ipykernel here")
class Notebook(unittest.TestCase):
    def test_the_example_runs_and_shows_clips(self):
        code = ("import nbformat, nbclient, sys\nbook = nbformat.read(sys.argv[1], 4)\n"
                "nbclient.NotebookClient(book, timeout=120, kernel_name='python3').execute()\nnbformat.write(book, sys.argv[2])\n")
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "executed.ipynb"
            env = dict(os.environ, PYTHONPATH=str(PYTHON), IMAGINE_PACK=str(PACK), HOME=folder, IPYTHONDIR=folder)
            done = run([sys.executable, "-W", "ignore", "-c", code, ROOT / "examples" / "notebook.ipynb", output], env=env)
            self.assertEqual(done.returncode, 0, done.stdout)
            cells = json.loads(output.read_text())["cells"]
        shown = [out["data"] for cell in cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
        self.assertEqual(len(shown), 3)
        for data in shown:
            self.assertIn(b"acTL", base64.b64decode("".join(data["image/png"])))
            self.assertIn("<img", "".join(data["text/html"]))


if __name__ == "__main__":
    unittest.main()
