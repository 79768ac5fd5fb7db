# SPDX-License-Identifier: MIT
"""Set-ups as packagers and other projects make them: machines, compiler flags and folders that are not ours, parts left out."""

import json
import os
import pathlib
import shlex
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACK = ROOT / "tests" / "packs" / "two-layer"
CROSS = """[binaries]
c = 'cc'
pkgconfig = 'pkg-config'
[properties]
needs_exe_wrapper = {wrapper}
[host_machine]
system = '{system}'
cpu_family = '{family}'
cpu = '{family}'
endian = 'little'
"""
PARENT = """project('parent', 'c', default_options: ['default_library=static'])
imagine = dependency('imagine', fallback: 'libimagine')
message('models in ' + imagine.get_variable('modelsdir'))
"""


def run(*command, **options):
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
                          **options)


class SetUp(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.place = pathlib.Path(folder.name)
        self.build = self.place / "build"

    def set_up(self, *options, status=0, **env):
        """What meson said."""
        done = run("meson", "setup", self.build, ROOT, "-Dcuda=disabled", "-Dtests=false", *options, env=dict(os.environ, **env))
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def cross_file(self, system="linux", family="x86_64", wrapper="false"):
        path = self.place / f"{system}-{family}"
        path.write_text(CROSS.format(system=system, family=family, wrapper=wrapper))
        return f"--cross-file={path}"

    def introspect(self, what):
        return json.loads(run("meson", "introspect", "--" + what, self.build).stdout)

    def test_other_machines_are_refused(self):
        for system, family in (("linux", "aarch64"), ("linux", "x86"), ("windows", "x86_64")):
            with self.subTest(system + " " + family):
                said = self.set_up(self.cross_file(system, family), status=1)
                self.assertIn("ERROR: Problem encountered: libimagine is for x86_64 on linux, and this build is for "
                              f"{family} on {system}", said)

    def test_pointers_of_32_bits_are_refused(self):
        for flag in ("-m32", "-mx32"):
            done = run("cc", "-std=c11", flag, "-fsyntax-only", "-I", ROOT, "-I", ROOT / "include", "-x", "c", ROOT / "lib/base/base.h")
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("libimagine needs pointers of 64 bits", done.stdout)

    def test_where_the_program_cannot_run_there_is_no_man_page(self):
        self.assertIn("WARNING: the program cannot be run here", self.set_up(self.cross_file(wrapper="true")))
        names = {target["name"] for target in self.introspect("targets")}
        self.assertIn("imagine", names)
        self.assertNotIn("imagine.1", names)

    def test_the_library_is_shared_only(self):
        self.assertRegex(self.set_up("-Ddefault_library=both"), "WARNING: libimagine is a shared library only: .*both")

    def test_the_product_alone(self):
        self.set_up()
        self.assertEqual(self.introspect("tests"), [])
        for target in self.introspect("targets"):
            where = pathlib.Path(target["defined_in"]).relative_to(ROOT).as_posix()
            self.assertFalse(where.startswith("tests/"), target["name"])
            self.assertFalse(target["build_by_default"] and target["name"] in ("by_stages", "event_loop", "hello"), target["name"])

    def test_warnings_are_errors_only_where_asked_for(self):
        self.assertNotIn("libimagine is a shared library only", self.set_up())
        self.assertIs(next(o["value"] for o in self.introspect("buildoptions") if o["name"] == "werror"), False)

    def test_what_quickstart_has_set_up_is_made_fit_for_the_tests(self):
        where = os.path.relpath(self.build, ROOT)

        def configure(*options):
            done = run("sh", "-euc", '. "$top/.ci/setup"; configure "$@"', "sh", where, *options, env=dict(os.environ, top=str(ROOT)))
            self.assertEqual(done.returncode, 0, done.stdout)
            return {o["name"]: o["value"] for o in self.introspect("buildoptions")}

        first = configure("-Dtests=false")
        self.assertEqual((first["werror"], first["tests"]), (False, False))
        second = configure("-Dwerror=true", "-Dtests=true")
        self.assertEqual((second["werror"], second["tests"]), (True, True))
        self.assertTrue(self.introspect("tests"))
        stamp = (self.build / "build.ninja").stat().st_mtime_ns
        self.assertEqual(configure("-Dwerror=true", "-Dtests=true"), second)
        self.assertEqual(configure(), second)
        self.assertEqual((self.build / "build.ninja").stat().st_mtime_ns, stamp)

    def pkg_config(self, *arguments):
        return run("pkg-config", *arguments, "imagine", env=dict(os.environ, PKG_CONFIG_PATH=str(self.build / "packaging"))).stdout

    def test_folders_outside_the_prefix(self):
        self.set_up("--prefix=/nix/out put", "--libdir=/nix/lib/lib", "--includedir=/nix/dev/include")
        self.assertEqual(shlex.split(self.pkg_config("--cflags", "--libs")), ["-I/nix/dev/include", "-L/nix/lib/lib", "-limagine"])
        self.assertEqual(shlex.split(self.pkg_config("--variable=modelsdir")), ["/nix/out put/share/imagine/models"])
        self.assertIn("/nix/lib/lib/pkgconfig/imagine.pc", self.introspect("installed").values())

    def test_folders_in_the_prefix_move_with_it(self):
        self.set_up("--prefix=/opt/imagine", "--libdir=/opt/imagine/lib64", "--datadir=/data")
        words = (self.build / "packaging/imagine.pc").read_text().splitlines()
        for line in ("prefix=${pcfiledir}/../..", "libdir=${prefix}/lib64", "includedir=${prefix}/include",
                     "modelsdir=/data/imagine/models"):
            self.assertIn(line, words)

    def test_flags_of_the_user_leave_each_library_its_own_instructions(self):
        """What CFLAGS has beyond AVX2 does not make an AVX-512 library of the one for AVX2, with the same names in both."""
        self.set_up(CFLAGS="-march=x86-64-v4")
        commands = {entry["output"]: shlex.split(entry["command"]) for entry in
                    json.loads((self.build / "compile_commands.json").read_text())}
        for level, has in (("avx2", False), ("avx512", True)):
            command = commands[f"kernels/cpu/libimagine_{level}.a.p/norm.c.o"]
            self.assertIn("-march=x86-64-v4", command)
            command = command[:command.index("-o")] + ["-E", "-dM", ROOT / "kernels/cpu/norm.c", "-o", "-"]
            macros = {line.split()[1] for line in run(*command, cwd=self.build).stdout.splitlines()}
            self.assertIn("__AVX2__", macros)
            self.assertEqual("__AVX512F__" in macros, has, level)

    def test_as_a_subproject(self):
        source = self.place / "parent"
        (source / "subprojects").mkdir(parents=True)
        (source / "subprojects/libimagine").symlink_to(ROOT)
        (source / "meson.build").write_text(PARENT)
        done = run("meson", "setup", self.build, source, "-Dlibimagine:cuda=disabled")
        self.assertEqual(done.returncode, 0, done.stdout)
        where = pathlib.Path(done.stdout.partition("models in ")[2].splitlines()[0])
        self.assertTrue((where / "tiny/imagine.json").exists(), where)
        self.assertIn("libimagine is a shared library only", done.stdout)


class PrivatePrefix(unittest.TestCase):
    """A build of the product alone, without optimisation, which is quick."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        place = pathlib.Path(cls.folder.name)
        for command in (["meson", "setup", place / "build", ROOT, "--prefix=/opt/imagine", "-Dcuda=disabled", "-Dtests=false",
                         "-Doptimization=0", "-Dmodel=false"],
                        ["meson", "install", "-C", place / "build", "--destdir", place / "stage"]):
            done = run(*command)
            if done.returncode:
                raise AssertionError(done.stdout[-4000:])
        cls.prefix = place / "moved"
        (place / "stage/opt/imagine").rename(cls.prefix)
        cls.env = {key: value for key, value in os.environ.items() if not key.startswith(("LD_", "IMAGINE_"))}

    def test_the_program_starts(self):
        done = run(self.prefix / "bin/imagine", "info", "--json", "--model", PACK, env=self.env)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_its_library_is_the_one_beside_it(self):
        self.assertIn(str(next(self.prefix.rglob("libimagine.so.0")).resolve().parent),
                      run("ldd", self.prefix / "bin/imagine", env=self.env).stdout.replace("bin/../", ""))

    def test_the_library_names_no_folder(self):
        self.assertNotIn("PATH)", run("readelf", "-d", next(self.prefix.rglob("libimagine.so.0"))).stdout)


if __name__ == "__main__":
    unittest.main()
