# SPDX-License-Identifier: MIT
"""An installed tree, moved elsewhere, is enough to build programs in C and C++, with pkg-config and with CMake."""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("IMAGINE_LIBRARY", ROOT / "build" / "libimagine.so")).resolve().parent
PACK = ROOT / "tests" / "packs" / "two-layer"


def run(*command, **options):
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                          **options)


class Installed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.place = pathlib.Path(cls.folder.name)
        done = run("meson", "install", "--no-rebuild", "-C", BUILD, "--destdir", cls.place / "stage")
        if done.returncode:
            cls.folder.cleanup()
            raise AssertionError(done.stdout)
        cls.prefix = cls.place / "moved"
        next((cls.place / "stage").rglob("include")).parent.rename(cls.prefix)
        cls.lib = next(cls.prefix.rglob("libimagine.so")).parent
        cls.env = dict(os.environ, LD_LIBRARY_PATH=str(cls.lib), PKG_CONFIG_PATH=str(cls.lib / "pkgconfig"))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def generates(self, program):
        """The program makes a picture, with the installed library."""
        out = self.place / "out.png"
        self.assertIn(str(self.lib), run("ldd", program, env=self.env).stdout)
        done = run(program, PACK, "a red apple", out, env=self.env)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(out.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        out.unlink()

    def compiled(self, compiler, source, standard):
        flags = run("pkg-config", f"--define-variable=prefix={self.prefix}", "--cflags", "--libs", "imagine", env=self.env).stdout.split()
        self.assertIn(f"-I{self.prefix}/include", flags)
        program = self.place / pathlib.Path(source).stem
        done = run(compiler, f"-std={standard}", "-Wall", "-Wextra", "-Werror", ROOT / "examples" / source, *flags, "-o", program)
        self.assertEqual(done.returncode, 0, done.stdout)
        return program

    def test_files(self):
        names = {path.relative_to(self.prefix).as_posix() for path in self.prefix.rglob("*")}
        lib = self.lib.relative_to(self.prefix).as_posix()
        headers = {f"include/imagine/{path.name}" for path in (ROOT / "include/imagine").glob("*.h")}
        wanted = {"bin/imagine", "share/man/man1/imagine.1", f"{lib}/libimagine.so", f"{lib}/libimagine.so.0",
                  f"{lib}/pkgconfig/imagine.pc", f"{lib}/cmake/imagine/imagineConfig.cmake",
                  f"{lib}/cmake/imagine/imagineConfigVersion.cmake", "share/imagine/models/tiny/imagine.json"} | headers
        self.assertLessEqual(wanted, names)
        self.assertFalse([name for name in names if "test" in name or name.endswith((".a", ".py", ".jsonl"))])

    def test_models_by_pkg_config(self):
        where = run("pkg-config", f"--define-variable=prefix={self.prefix}", "--variable=modelsdir", "imagine", env=self.env).stdout
        self.assertEqual(pathlib.Path(where.strip()), self.prefix / "share/imagine/models")

    def test_c_with_pkg_config(self):
        self.generates(self.compiled("cc", "hello.c", "c11"))

    def test_cxx_with_pkg_config(self):
        self.generates(self.compiled("c++", "clip.cpp", "c++17"))

    @unittest.skipUnless(shutil.which("cmake"), "no cmake here")
    def test_cmake(self):
        done = run("cmake", "-S", ROOT / "examples" / "cmake", "-B", self.place / "cmake", f"-DCMAKE_PREFIX_PATH={self.prefix}")
        self.assertEqual(done.returncode, 0, done.stdout)
        done = run("cmake", "--build", self.place / "cmake")
        self.assertEqual(done.returncode, 0, done.stdout)
        for name in ("hello", "clip"):
            self.generates(self.place / "cmake" / name)

    @unittest.skipUnless(shutil.which("cmake"), "no cmake here")
    def test_cmake_versions(self):
        major, minor, patch = re.findall(r"VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", (ROOT / "include/imagine/version.h").read_text())
        self.assertEqual(major, "0")
        for wanted, found in (("0.1", True), (f"0.{minor}.{patch} EXACT", True), (f"0.{minor}.{int(patch) + 1}", False),
                              (f"0.{int(minor) + 1}", False), ("1.0", False), ("0.1...0.1.9", False),
                              (f"0.1...0.{int(minor) + 1}", True), (f"0.1...<0.{minor}.{patch}", False)):
            source = self.place / "version"
            shutil.rmtree(source, ignore_errors=True)
            source.mkdir()
            (source / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.16)\nproject(version LANGUAGES C)\n"
                                                   f"find_package(imagine {wanted} REQUIRED)\n")
            done = run("cmake", "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}")
            self.assertEqual(done.returncode == 0, found, done.stdout)

    def test_program(self):
        for model in ("--model", PACK), (): # the other is the one that is installed
            done = run(self.prefix / "bin" / "imagine", "info", "--json", *model, env=self.env)
            self.assertEqual(done.returncode, 0, done.stdout)


class ManPage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.page = (BUILD / "packaging" / "imagine.1").read_text()
        cls.program = os.environ.get("IMAGINE_PROGRAM", BUILD / "examples" / "imagine")

    def test_every_option_and_command_is_in_it(self):
        text = run(self.program, "--help").stdout
        commands = re.findall(r"^  (\w+) {2,}", text, re.M)
        self.assertGreater(len(commands), 4)
        sections = dict(zip(commands, re.split(r"^\.Ss \w+$", self.page, flags=re.M)[1:]))
        for command in commands:
            options = re.findall(r"^  (-\w), --([\w-]+)", run(self.program, command, "--help").stdout, re.M)
            self.assertGreater(len(options), 5)
            for short, long in options:
                self.assertIn(f".It Fl {short[1:]} , Fl \\-" + long.replace("-", r"\-"), sections[command], command)

    def test_what_follows_the_examples_is_in_it(self):
        text = run(self.program, "denoise", "--help").stdout
        paragraphs = [line for line in text.partition("\nExamples:\n")[2].splitlines() if line and not line.startswith(" ")]
        self.assertTrue(paragraphs)
        for line in paragraphs:
            self.assertIn(line, self.page.replace(r"\-", "-").splitlines())

    @unittest.skipUnless(shutil.which("mandoc"), "no mandoc here")
    def test_it_is_well_formed(self):
        done = run("mandoc", "-T", "lint", "-W", "warning", BUILD / "packaging" / "imagine.1")
        self.assertEqual((done.returncode, done.stdout), (0, ""))


if __name__ == "__main__":
    unittest.main()
