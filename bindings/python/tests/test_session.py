# SPDX-License-Identifier: MIT
"""What a session sees: Ctrl-C, the end of the program, previews, clips."""

import asyncio
import base64
import contextlib
import gc
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
import weakref

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "bindings" / "python"))

import imagine  # noqa: E402

PACK = ROOT / "tests" / "packs" / "two-layer"
LONG = "steps=1000, width=256, height=256, frames=33"  # minutes of work


def session(code, **options):
    """A Python that has opened the pack as `model`, and that Ctrl-C interrupts even where it is ignored around it, as in
    what a script runs in the background."""
    head = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    head += f"import imagine, numpy\nmodel = imagine.open({str(PACK)!r})\n"
    quiet = ["-W", "ignore:This process:DeprecationWarning"]  # of Python 3.12 and later, of forks with threads
    return subprocess.Popen([sys.executable, *quiet, "-c", head + code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env=dict(os.environ, PYTHONPATH=str(ROOT / "bindings" / "python")), **options)


@contextlib.contextmanager
def library(**functions):
    """The library with functions of one's own in place of some of its."""
    real = imagine._lib()

    class Other:
        def __getattr__(self, name):
            return functions.get(name) or getattr(real, name)

    with unittest.mock.patch("imagine._errors._library", Other()):
        yield


@contextlib.contextmanager
def silent(described):
    """A job that works for minutes without an event, with or without a descriptor."""
    quiet = unittest.mock.patch.multiple("imagine._api", EVENT_STEP=5, EVENT_LATENTS=5, EVENT_FRAMES=5)
    with quiet, library(**({} if described else {"imagine_job_fd": lambda job: -1})):
        job = imagine.open(PACK).job("a", steps=1000, width=256, height=256, frames=33)
    with job:
        yield job


class Interrupts(unittest.TestCase):
    def interrupted(self, code):
        """Runs code that would take minutes, interrupts it, and returns what it then prints."""
        code = (f"print('begun', flush=True)\ntry:\n    {code}\nexcept KeyboardInterrupt:\n"
                "    print('stopped', flush=True)\nprint(model.generate('a', steps=1).shape)\n")
        with session(code) as process:
            self.assertEqual(process.stdout.readline(), "begun\n")
            time.sleep(0.5)
            begin = time.monotonic()
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.stdout.readline(), "stopped\n")
            self.assertLess(time.monotonic() - begin, 5)
            self.assertEqual(process.stdout.read(), "(5, 32, 32, 3)\n")  # communicate() would lose what readline() took too
            self.assertEqual(process.wait(60), 0)

    def test_generate(self):
        self.interrupted(f"model.generate('a', {LONG})")

    def test_events(self):
        self.interrupted(f"list(model.job('a', {LONG}))")

    def test_next(self):
        code = (f"job = model.job('a', {LONG})\nprint('begun', flush=True)\ntry:\n    while True: job.next()\n"
                "except KeyboardInterrupt:\n    print('stopped', flush=True)\ntry:\n    list(job)\n"
                "except imagine.Cancelled:\n    print('cancelled', flush=True)\n")
        with session(code) as process:
            self.assertEqual(process.stdout.readline(), "begun\n")
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            self.assertEqual(process.communicate(timeout=30)[0], "stopped\ncancelled\n")

    def test_while_there_is_no_event(self):
        """With and without a descriptor, and an end of the waiting or none."""
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        for described in (True, False):
            for timeout in (20, None):
                with silent(described) as job:
                    begin = time.monotonic()
                    signal.setitimer(signal.ITIMER_REAL, 0.2)
                    with self.assertRaises(KeyboardInterrupt):
                        job.next(timeout)
                    self.assertLess(time.monotonic() - begin, 5)

    def test_decode(self):
        self.interrupted("model.decode(numpy.zeros((16, 60, 128, 128), 'float32'))")

    def test_encode(self):
        self.interrupted("model.encode(numpy.zeros((161, 512, 512, 3), 'uint8'))")

    def test_while_memory_is_copied(self):
        """A signal that came during a copy is seen before anything is dropped: what is raised in a __del__ is lost."""
        context, large = imagine.Context(threads=1), numpy.zeros((4096, 8192), "uint8").T  # which takes its time
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        self.addCleanup(signal.signal, signal.SIGALRM, before)
        begin = time.monotonic()
        imagine.Buffer.copy_of(context, large)
        whole = time.monotonic() - begin
        for share in (0.3, 0.5, 0.7, 0.9):
            kept = None  # the copy before: dropped while nothing is awaited
            with self.assertRaises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, share * whole)
                kept = imagine.Buffer.copy_of(context, large)
                time.sleep(2)  # where the copy was done before
        del kept

    def test_what_has_just_been_made_is_freed(self):
        """Ctrl-C during a function of the library's is seen once that has returned."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        picture, frames = os.path.join(folder.name, "picture.png"), numpy.zeros((1, 32, 32, 3), "uint8")
        imagine.save(picture, frames)
        model, latents = imagine.open(PACK), numpy.zeros((16, 1, 4, 4), "float32")
        context = model.context
        model.generate("a", steps=1, first_frames=frames)  # what has been read stays with the model
        makers = {
            "context_create": lambda: imagine.Context(threads=3),
            "cancel_create": lambda: imagine.Cancel(context),
            "model_open": lambda: imagine.open(PACK, context),
            "job_create": lambda: model.job("a", steps=1000),
            "job_get_latents": lambda: model.job(latents=latents).latents,
            "picture_load": lambda: imagine.load(picture, context),
            "buffer_create": lambda: imagine.Buffer.copy_of(context, latents),
            "buffer_wrap": lambda: imagine.Buffer.wrap(latents, context),
            "buffer_from_dlpack": lambda: imagine.Buffer.from_dlpack(latents, context),
            "vae_decode": lambda: model.decode(latents),
            "vae_encode": lambda: model.encode(frames),
            "model_tokenize": lambda: model.tokenize("a"),
            "text_encode": lambda: model.encode_text("a")}

        def held():
            gc.collect()
            return context.info["memory_used"], len(os.listdir("/proc/self/task")), len(imagine._handles._lent), sys.getrefcount(latents)

        def interrupted(name):
            function = getattr(imagine._lib(), name, None)

            def call(*arguments):
                function(*arguments)
                raise KeyboardInterrupt

            return {name: call}

        for name, make in makers.items():
            with self.subTest(name):
                make()
                before = held()
                functions = {**interrupted(f"imagine_{name}"), **interrupted(f"imagine_{name}_unversioned")}
                with library(**functions), self.assertRaises(KeyboardInterrupt):
                    make()
                self.assertEqual(held(), before)

    def test_a_stage_that_is_just_beginning_is_cancelled(self):
        start, seen = threading.Thread.start, []

        def interrupted(thread):
            start(thread)
            seen.append(thread)
            raise KeyboardInterrupt

        model = imagine.open(PACK)
        with unittest.mock.patch("threading.Thread.start", interrupted), self.assertRaises(KeyboardInterrupt):
            model.decode(numpy.zeros((16, 60, 128, 128), "float32"))
        seen[0].join(5)
        self.assertFalse(seen[0].is_alive())

    def test_work_that_nobody_waits_for_keeps_its_token(self):
        """Ctrl-C while the thread begins, and again while it is waited for."""
        model, go, freed, threads = imagine.open(PACK), threading.Event(), [], []
        start, join, real = threading.Thread.start, threading.Thread.join, imagine._lib()

        def interrupted(thread, *arguments):
            if not threads:
                start(thread)
                threads.append(thread)
            raise KeyboardInterrupt

        def create(*arguments):
            go.wait(30)
            return real.imagine_vae_create(*arguments)

        def release(pointer):
            freed.append(pointer)
            real.imagine_cancel_release(pointer)

        with library(imagine_vae_create=create, imagine_cancel_release=release):
            patched = unittest.mock.patch.multiple("threading.Thread", start=interrupted, join=interrupted)
            with patched, self.assertRaises(KeyboardInterrupt):
                model.decode(numpy.zeros((16, 60, 128, 128), "float32"))
            gc.collect()
            before = len(freed)
            go.set()
            join(threads[0], 30)
            gc.collect()
        self.assertFalse(threads[0].is_alive())
        self.assertEqual((before, len(freed)), (0, 1))

    def test_unhandled_ends_the_program(self):
        with session(f"print('begun', flush=True)\nfor event in model.job('a', {LONG}): pass\n") as process:
            process.stdout.readline()
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            output = process.communicate(timeout=30)[0]
            self.assertIn("KeyboardInterrupt", output)
            self.assertIn(process.returncode, (-signal.SIGINT, 130))

    def test_the_end_of_a_program_ends_its_jobs(self):
        code = f"job = model.job('a', noise=imagine.Buffer.wrap(numpy.zeros((16, 9, 32, 32), 'float32')), {LONG})\nkept = [job]\n"
        with session(code + "print(job.next().kind)\n") as process:
            self.assertEqual(process.communicate(timeout=30)[0], "step\n")
            self.assertEqual(process.returncode, 0)

    def test_jobs_are_ended_while_daemons_begin_others(self):
        """Which changes the set that is looked through."""
        model = imagine.open(PACK)
        first = model.job("a", steps=1000, width=256, height=256)

        class Jobs(weakref.WeakSet):
            begun = []

            def __iter__(self):
                for job in super().__iter__():
                    if not self.begun:
                        self.begun.append(model.job("a", steps=1000, width=256, height=256))
                    yield job

        with unittest.mock.patch("imagine._jobs", Jobs([first])):
            imagine._end_jobs()
        for job in (first, *Jobs.begun):
            self.assertRaisesRegex(imagine.StateError, "closed", job.next)
        self.assertEqual(len(Jobs.begun), 1)


class Tokens(unittest.TestCase):
    def test_one_stops_all_that_has_it(self):
        model = imagine.open(PACK)
        zeros = numpy.zeros
        works = [lambda cancel: list(model.job("a", steps=1000, width=256, height=256, frames=33, cancel=cancel)),
                 lambda cancel: model.generate("a", steps=1000, width=256, height=256, frames=33, cancel=cancel),
                 lambda cancel: model.decode(zeros((16, 60, 128, 128), "float32"), cancel=cancel),
                 lambda cancel: model.encode(zeros((161, 512, 512, 3), "uint8"), cancel=cancel)]
        for work in works:
            token, spared = (imagine.Cancel(model.context) for _ in range(2))
            timer = threading.Timer(0.2, token.fire)
            timer.start()
            begin = time.monotonic()
            with self.assertRaises(imagine.Cancelled):
                work(token)
            self.assertLess(time.monotonic() - begin, 10)
            timer.join()
            self.assertEqual((token.fired, spared.fired, token._children), (True, False, []))
        for work in (*works, lambda cancel: model.encode_text("a b c", cancel=cancel)):
            with self.assertRaises(imagine.Cancelled):
                work(token)  # fired already
        self.assertEqual(model.encode_text("a b c", cancel=spared)[1].shape[1], model.info["text_dim"])

    def test_refused(self):
        model = imagine.open(PACK)
        with imagine.Cancel(model.context) as closed:
            pass
        for wrong in (closed, True, closed._pointer):
            kind = imagine.StateError if wrong is closed else imagine.InvalidType
            for work in (model.generate, model.encode_text, model.estimate):
                with self.assertRaisesRegex(kind, "^cancel: "):
                    work(prompt="a", cancel=wrong)

    def test_a_cancelled_job_is_gone_on_with(self):
        options = dict(steps=60, width=96, height=96, frames=5, schedule="wan-unipc", seed=3)
        expected = imagine.open(PACK).generate("a b", **options)
        with imagine.open(PACK).job("a b", previews=True, **options) as job:  # which make a step take its time
            with self.assertRaises(imagine.StateError):
                job.state
            with self.assertRaises(imagine.Cancelled):
                for event in job:
                    job.cancel()
            state = numpy.frombuffer(job.state.tobytes(), "uint8")
            self.assertFalse(job.state.flags.writeable)
        steps = []
        found = imagine.open(PACK).generate("a b", state=state, progress=lambda step, _: steps.append(step), **options)
        numpy.testing.assert_array_equal(found, expected)
        self.assertGreater(min(steps), event.step)
        model = imagine.open(PACK)
        self.assertTrue(model.estimate("a b", state=state, **options)["fits"])
        with self.assertRaisesRegex(imagine.InvalidArgument, "^state: .*seed"):
            model.generate("a b", state=state, **dict(options, seed=4))
        with self.assertRaisesRegex(imagine.InvalidArgument, "^state: "):
            model.generate("a b", state=b"12", **options)

    def test_a_running_job_keeps_states(self):
        model = imagine.open(PACK)
        options = dict(steps=60, width=96, height=96, frames=5, schedule="wan-unipc", seed=3)
        states = []
        while not states:  # a busy machine may ask too late
            with model.job("a b", previews=True, state_every=20, **options) as job:
                for event in job:
                    with contextlib.suppress(imagine.StateError):
                        states.append(bytes(job.state))
                latents = numpy.array(job.latents)
        for state in {states[0], states[-1]}:
            with model.job("a b", state=numpy.frombuffer(state, "uint8"), decode=False, **options) as job:
                first = next(event.step for event in job if event.kind == "step")
                self.assertGreater(first, 20)
                for event in job:
                    pass
                numpy.testing.assert_array_equal(job.latents, latents)
        with self.assertRaisesRegex(imagine.InvalidArgument, "^state_every: -1 is not in 0"):
            model.job("a b", state_every=-1)

    def test_ctrl_c_leaves_the_callers_token_alone(self):
        code = (f"token = imagine.Cancel(model.context)\nprint('begun', flush=True)\ntry:\n"
                "    model.decode(numpy.zeros((16, 60, 128, 128), 'float32'), cancel=token)\nexcept KeyboardInterrupt:\n"
                "    print(token.fired, model.encode_text('a', cancel=token)[0].shape)\n")
        with session(code) as process:
            self.assertEqual(process.stdout.readline(), "begun\n")
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            self.assertRegex(process.communicate(timeout=60)[0], r"^False \(\d+,\)\n$")


class Threads(unittest.TestCase):
    LISTEN = """
import threading, time

def listen(use):
    try:
        while True:
            use()
    except imagine.Error as problem:
        print(type(problem).__name__ + '\\n', end='', flush=True)
"""

    def ends(self, code, *lines):
        """What a program prints that listens in other threads; it does not crash."""
        with session(self.LISTEN + code) as process:
            output = process.communicate(timeout=120)[0]
        self.assertEqual(process.returncode, 0, output)
        for line in lines:
            self.assertRegex(output, rf"(?m)^(?:{line})$")
        return output.splitlines()

    def test_a_job_is_closed_while_others_use_it(self):
        printed = self.ends(f"""
for users in (1, 1, 3):
    job = model.job('a', {LONG})
    uses = [job.next, lambda: job.info, lambda: job.latents][:users]
    job.next()
    threads = [threading.Thread(target=listen, args=(use,)) for use in uses]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    begin = time.monotonic()
    job.close()
    took = time.monotonic() - begin
    for thread in threads:
        thread.join()
    print('closed', took < 1)
""", "closed True")
        self.assertEqual(printed.count("closed True"), 3)
        self.assertEqual(sum(line in ("Cancelled", "StateError") for line in printed), 5, printed)

    def test_others_use_a_job_while_one_waits_for_its_events(self):
        for described in (True, False):
            with silent(described) as job:
                ended = []

                def wait():
                    try:
                        job.next(20)
                    except imagine.Error as problem:
                        ended.append(type(problem))

                thread = threading.Thread(target=wait)
                thread.start()
                time.sleep(0.2)
                begin = time.monotonic()
                self.assertEqual(job.info["steps"], 1000)
                self.assertLess(time.monotonic() - begin, 5)
                job.close()
                thread.join()
                self.assertIn(ended, ([imagine.StateError], [imagine.Cancelled]))

    def test_a_job_without_a_descriptor(self):
        model = imagine.open(PACK)
        whole = [event.kind for event in model.job("a", steps=1)]
        with library(imagine_job_fd=lambda job: -1), model.job("a", steps=1) as job:
            self.assertEqual([event.kind for event in job], whole)
        with unittest.mock.patch("os.dup", side_effect=OSError), model.job("a", steps=1) as job:
            self.assertEqual([event.kind for event in job], whole)

    def test_the_program_ends_while_a_thread_waits(self):
        self.ends(f"""
job = model.job('a', {LONG})
threading.Thread(target=listen, args=(job.next,), daemon=True).start()
time.sleep(0.3)
print('end', flush=True)
""", "end")

    def test_the_program_waits_for_a_thread_that_is_no_daemon(self):
        printed = self.ends("""
def make():
    time.sleep(0.5)
    print(model.generate('a', steps=5).shape, flush=True)

threading.Thread(target=make).start()
print('end', flush=True)
""")
        self.assertEqual(printed, ["end", "(5, 32, 32, 3)"])

    def test_no_job_is_freed_while_it_is_used(self):
        library, model = imagine._lib(), imagine.open(PACK)
        lock, using, seen = threading.Lock(), [], []

        class Watched:
            def __getattr__(self, name):
                function = getattr(library, name)
                if not name.startswith("imagine_job_"):
                    return function

                def watched(*arguments):
                    with lock:
                        seen.append((name, list(using)))
                        using.append(name)
                    try:
                        return function(*arguments)
                    finally:
                        with lock:
                            using.remove(name)
                return watched

        def listen():
            try:
                while True:
                    job.next()
            except imagine.Error:
                pass

        for end in (lambda: job.close(), imagine._end_jobs):
            job = model.job("a", steps=1000, width=256, height=256, frames=33)
            with unittest.mock.patch("imagine._errors._library", Watched()):
                thread = threading.Thread(target=listen)
                thread.start()
                time.sleep(0.2)
                end()
                thread.join()
        freed = [users for name, users in seen if name == "imagine_job_destroy"]
        self.assertEqual(freed, [[], []])

    def test_a_model_is_closed_while_others_use_it(self):
        """What has begun goes on with references of its own."""
        self.ends(f"""
for use in ('encode_text("a")', 'generate("a", steps=1)', 'decode(numpy.zeros((16, 1, 4, 4), "float32"))', 'info') * 10:
    model = imagine.Model({str(PACK)!r}, imagine.Context(threads=1))
    thread = threading.Thread(target=listen, args=(lambda: eval('model.' + use),))
    thread.start()
    time.sleep(0.004)
    model.close()
    model.context.close()
    thread.join()
""", "StateError")

    def test_a_clip_is_made_though_its_model_is_closed(self):
        model = imagine.Model(PACK, imagine.Context(threads=1))
        clip = model.clip("a", steps=2, frames=9, progress=lambda *_: model.close())
        self.assertEqual(len(clip.frames), 9)

    def test_work_keeps_what_is_closed_meanwhile(self):
        """Closed by the very call that has it."""
        with imagine.Context(threads=1) as context:
            buffer = imagine.Buffer.wrap(numpy.ones(3, "float32"), context)
            library, closed = imagine._lib(), []

            class Closing:
                def __getattr__(self, name):
                    def function(*arguments):
                        if name == "imagine_buffer_get_info" and not closed:
                            closed.append(buffer)
                            buffer.close()
                        return getattr(library, name)(*arguments)
                    return function

            with unittest.mock.patch("imagine._errors._library", Closing()):
                self.assertEqual(buffer.shape, (3,))
            self.assertEqual(closed, [buffer])
            with self.assertRaises(imagine.StateError):
                buffer.shape


class Forks(unittest.TestCase):
    CHILD = """
import os, threading, time

def forked(work):
    # What the child comes to, with the time it may take: 20 seconds.
    child = os.fork()
    if not child:
        work()
        sys.exit(3)
    for _ in range(200):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            print(os.WEXITSTATUS(status), flush=True)
            return
        time.sleep(0.1)
    print('hangs', flush=True)
    os.kill(child, 9)

def anew():
    print(imagine.open(model.path).generate('a', steps=1).shape, flush=True)
"""

    def prints(self, code, expected):
        with session("import sys\n" + self.CHILD + code) as process:
            self.assertEqual(process.communicate(timeout=60)[0], expected)
            self.assertEqual(process.returncode, 0)

    def test_a_child_ends_though_threads_of_its_parent_worked(self):
        """Also one that uses what it has inherited, or drops it, or makes clips of its own."""
        for use in (f"model.generate('a', {LONG})", "list(job)", "job.next(); job.info; job.latents; model.info"):
            self.prints(f"""
job = model.job('a', {LONG})
handles = [job, model, model.context, imagine.Cancel(model.context)]

def run():
    while True:
        {use}

def drop():
    for work in (lambda: job.next(), lambda: job.info, lambda: model.info, lambda: model.generate('a')):
        try:
            work()
        except imagine.Error as problem:
            print(problem.name)
    while handles:
        handles.pop().close()

threading.Thread(target=run, daemon=True).start()
time.sleep(0.3)
forked(lambda: None)
forked(anew)
forked(drop)
print(job.info['steps'], flush=True)
os._exit(0)
""", "3\n(5, 32, 32, 3)\n3\n" + 4 * "ERROR_FORKED\n" + "3\n1000\n")

    def test_whatever_was_held(self):
        self.prints("""
job = model.job('a', steps=1)
list(job)

def hold():
    with job._turn, job._lock, model._lock, model.context._lock:
        time.sleep(60)

threading.Thread(target=hold, daemon=True).start()
time.sleep(0.3)
forked(lambda: (job.close(), model.close(), model.context.close()))
os._exit(0)
""", "3\n")

    def test_in_the_middle_of_a_stage(self):
        self.prints("""
join, child = threading.Thread.join, -1

def fork(thread, timeout=None):
    # In the main thread, while the other one works: as a signal handler may.
    global child
    if child < 0:
        child = os.fork()
    join(thread, timeout)

threading.Thread.join = fork
try:
    model.decode(numpy.zeros((16, 3, 32, 32), 'float32'))
    name = 'done'
except imagine.Error as problem:
    name = problem.name
if child:
    os.waitpid(child, 0)
print(name, flush=True)
""", "ERROR_FORKED\ndone\n")


class Asynchronous(unittest.TestCase):
    def setUp(self):
        self.model = imagine.open(PACK)

    def long(self):
        return self.model.job("a", steps=1000, width=256, height=256, frames=33)

    def test_events_are_those_of_a_loop_without(self):
        async def listen():
            with self.model.job("a b", seed=2, steps=2, previews=True) as job:
                events = [event async for event in job]
                self.assertEqual([event async for event in job], [])
                return events

        threads = threading.active_count()
        events = asyncio.run(listen())
        self.assertEqual(threading.active_count(), threads)
        self.assertEqual(events[-1].kind, "done")
        frames = numpy.concatenate([event.frames for event in events if event.kind == "frames"])
        self.assertTrue(numpy.array_equal(frames, self.model.generate("a b", seed=2, steps=2)))

    def test_a_failure_is_raised(self):
        async def listen():
            token = imagine.Cancel(self.model.context)
            token.fire()
            async for _ in self.model.job("a", cancel=token):
                pass

        with self.assertRaises(imagine.Cancelled):
            asyncio.run(listen())

    def test_a_cancelled_task_cancels_its_job(self):
        async def listen(job):
            async for _ in job:
                pass

        async def timed(job):
            await asyncio.wait_for(listen(job), 0.3)

        async def cancelled(job):
            task = asyncio.ensure_future(listen(job))
            await asyncio.sleep(0.3)
            task.cancel()
            await task

        for end, kind in ((timed, asyncio.TimeoutError), (cancelled, asyncio.CancelledError)):
            with self.long() as job:
                begin = time.monotonic()
                with self.assertRaises(kind):
                    asyncio.run(end(job))
                with self.assertRaises(imagine.Cancelled):
                    list(job)
                self.assertLess(time.monotonic() - begin, 10)

    def test_others_go_on(self):
        """Other tasks, and other jobs, of which one has no descriptor; two tasks may wait for one job."""
        seen = []

        async def listen(name, job):
            async for event in job:
                seen.append((name, event.kind))

        async def beside(job):
            listening = asyncio.ensure_future(listen("long", job))
            for _ in range(20):
                await asyncio.sleep(0.01)
            self.assertFalse(listening.done())
            job.cancel()
            with self.assertRaises(imagine.Cancelled):
                await listening

        async def run(*jobs):
            await asyncio.gather(*(listen(*job) for job in jobs))

        with self.long() as job:
            asyncio.run(asyncio.wait_for(beside(job), 60))

        options = {"steps": 20, "width": 128, "height": 128}
        with library(imagine_job_fd=lambda job: -1):
            other = self.model.job("a", **options)
        with other, self.model.job("a", **options) as job:
            asyncio.run(asyncio.wait_for(run(("other", other), ("first", job), ("second", job)), 60))
        self.assertIn(("other", "done"), seen)
        self.assertEqual({kind for name, kind in seen if name in ("first", "second")}, {"step", "latents", "frames", "done"})


class Managers(unittest.TestCase):
    def test_every_handle_is_one(self):
        with imagine.Context(threads=1) as context:
            with imagine.open(PACK, context) as model, imagine.Cancel(context) as cancel:
                self.assertFalse(cancel.fired)
                cancel.fire()
                self.assertTrue(cancel.fired)
                with model.job("a", steps=1) as job, imagine.Buffer.wrap(numpy.zeros(3, "float32"), context) as buffer:
                    self.assertEqual(buffer.shape, (3,))
        for handle in (context, model, cancel, job, buffer):
            self.assertFalse(handle._pointer)
            handle.close()

    def test_log(self):
        """A scheduler that cannot run is a warning of the logger "imagine"."""
        with tempfile.TemporaryDirectory() as folder:
            pack = shutil.copytree(PACK, os.path.join(folder, "pack"))
            with open(os.path.join(pack, "scheduler/scheduler_config.json"), "w") as file:
                file.write('{"_class_name": "DDIMScheduler"}')
            with self.assertLogs("imagine", "WARNING") as told:
                imagine.open(pack).close()
        self.assertIn("DDIMScheduler", told.output[0])

    def test_ctrl_c_while_it_logs(self):
        class Interrupted(logging.Handler):
            def emit(self, record):
                raise KeyboardInterrupt

        handler = Interrupted()
        logging.getLogger("imagine").addHandler(handler)
        self.addCleanup(logging.getLogger("imagine").removeHandler, handler)
        context = imagine.Context(threads=1)
        empty = context.info["memory_used"]
        with tempfile.TemporaryDirectory() as folder:
            pack = shutil.copytree(PACK, os.path.join(folder, "pack"))
            with open(os.path.join(pack, "scheduler/scheduler_config.json"), "w") as file:
                file.write('{"_class_name": "DDIMScheduler"}')
            with self.assertRaises(KeyboardInterrupt):
                imagine.open(pack, context)
        gc.collect()
        self.assertEqual(context.info["memory_used"], empty)

    def test_a_model_keeps_its_context(self):
        with imagine.Context(threads=1) as context:
            model = imagine.open(PACK, context)
        latents = numpy.zeros((16, 1, 4, 4), "float32")
        self.assertEqual(model.generate("a", frames=1, steps=1, noise=latents).shape, (1, 32, 32, 3))
        self.assertEqual(model.encode(model.decode(latents)).shape, latents.shape)
        self.assertEqual(model.encode_text("a")[1].shape[1], model.info["text_dim"])
        self.assertEqual(model.estimate(noise=latents, frames=1)["frames"], 1)
        model.close()

    def test_one_that_is_closed_says_so(self):
        """Whatever it is used for, and by its own name: a model has a context of its own."""
        context = imagine.Context(threads=1)
        model, token, buffer = imagine.open(PACK, context), imagine.Cancel(context), imagine.Buffer.wrap(numpy.zeros(3))
        job = model.job("a", steps=1)
        for handle in (job, model, token, buffer, context):
            handle.close()
            handle.close()
        token.fire()
        job.cancel()
        latents, frames = numpy.zeros((16, 1, 4, 4), "float32"), numpy.zeros((1, 8, 8, 3), "uint8")
        for name, works in (
                ("model", (lambda: model.info, lambda: model.job("a"), lambda: model.generate("a", noise=latents), model.estimate,
                           model.clip, lambda: model.decode(latents), lambda: model.encode(frames),
                           lambda: model.tokenize("a"), lambda: model.encode_text("a"))),
                ("job", (job.next, lambda: list(job), lambda: job.info, lambda: job.latents)),
                ("context", (lambda: context.info, lambda: imagine.Cancel(context), lambda: imagine.Model(PACK, context),
                             lambda: imagine.save("x.png", frames, context=context),
                             lambda: imagine.load("x.png", context), lambda: imagine.Buffer.wrap(latents, context),
                             lambda: imagine.Buffer.from_dlpack(imagine.Buffer.wrap(latents), context))),
                ("buffer", (lambda: buffer.shape, lambda: buffer.array, lambda: numpy.asarray(buffer), lambda: buffer.device,
                            lambda: buffer.__dlpack__())),
                ("token", (lambda: token.fired,))):
            for work in works:
                with self.assertRaisesRegex(imagine.StateError, f"the {name} is closed$") as raised:
                    work()
                self.assertEqual((raised.exception.status, raised.exception.name), (-4, "ERROR_STATE"))

    def test_a_model_closes_a_context_of_its_own(self):
        model = imagine.open(PACK)
        model.close()
        self.assertFalse(model.context._pointer)
        with imagine.Context(threads=1) as context:
            with imagine.open(PACK, context):
                pass
            self.assertEqual(context.info["threads"], 1)
        kept = imagine.open(PACK).context
        gc.collect()
        self.assertGreater(kept.info["threads"], 0)  # nobody has closed it, though the model is gone

        def threads(wanted):
            """Whether there are so many: one that has been joined may be seen for a moment."""
            end = time.monotonic() + 10
            while len(os.listdir("/proc/self/task")) != wanted and time.monotonic() < end:
                time.sleep(0.01)
            return len(os.listdir("/proc/self/task")) == wanted

        made, context = [], imagine.Context
        with unittest.mock.patch("imagine.Context", lambda: made.append(context(threads=3)) or made[-1]):
            before = len(os.listdir("/proc/self/task"))
            model = imagine.open(PACK)
            self.assertTrue(threads(before + 2))
            model.close()
            self.assertTrue(threads(before))
            with self.assertRaises(imagine.NotFound):
                imagine.open("/no/such/pack")
        self.assertFalse(made[1]._pointer)

    def test_a_loop_that_is_left_ends_the_job(self):
        context = imagine.Context(threads=2)
        model = imagine.open(PACK, context)
        before = context.info["memory_used"]
        with model.job("a", steps=1000, width=256, height=256, frames=33) as job:
            for _ in job:
                break
        gc.collect()
        self.assertLess(context.info["memory_used"] - before, 20 << 20)  # the weights stay, the job is gone
        with self.assertRaises(imagine.StateError):
            job.next()


class Previews(unittest.TestCase):
    def test_they_come_while_it_runs(self):
        previews, steps = [], []
        frames = imagine.open(PACK).generate("a b", steps=40, width=128, height=128, preview=previews.append,
                                             progress=lambda *s: steps.append(s))
        self.assertTrue(previews and steps)
        for preview in previews:
            self.assertEqual((preview.shape, preview.dtype), ((1,) + frames.shape[1:], numpy.uint8))
        self.assertTrue(any(not numpy.array_equal(preview[0], frames[0]) for preview in previews))


class Clips(unittest.TestCase):
    def test_a_clip_shows_itself(self):
        clip = imagine.open(PACK).clip("a red apple", seed=2)
        self.assertEqual((len(clip), clip.fps), (5, 8))
        self.assertEqual(repr(clip), "<imagine.Clip of 5 frames, 32x32, 8 fps>")
        shown = clip._repr_mimebundle_()
        png = base64.b64decode(shown["image/png"])
        self.assertEqual(png, clip.png())
        self.assertIn(b"acTL", png)
        self.assertIn('width="256" height="256"', shown["text/html"])
        self.assertIn(shown["image/png"], shown["text/html"])
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "clip.png"
            path.write_bytes(png)
            self.assertTrue(numpy.array_equal(imagine.load(path), clip.frames))
            clip.save(path)
            self.assertEqual(path.read_bytes(), png)
        self.assertTrue(numpy.array_equal(numpy.asarray(clip), clip.frames))

    def test_one_frame_is_a_picture(self):
        clip = imagine.Clip(numpy.zeros((1, 300, 400, 3), "uint8"))
        self.assertNotIn(b"acTL", clip.png())
        self.assertIn('width="400"', clip._repr_mimebundle_()["text/html"])

    def test_refused(self):
        for wrong in (numpy.zeros((2, 4, 4, 4), "uint8"), numpy.zeros((4, 4, 3), "uint8"), numpy.zeros((2, 4, 4, 3)),
                      numpy.zeros((0, 4, 4, 3), "uint8")):
            with self.assertRaises(imagine.InvalidArgument):
                imagine.Clip(wrong)
        model, frames, begun = imagine.open(PACK), numpy.zeros((2, 32, 32, 3), "uint8"), []
        for fps in (-1, float("nan"), float("inf"), 1e-9):
            for way in (lambda: imagine.Clip(frames, fps), lambda: imagine.save("clip.png", frames, fps),
                        lambda: model.clip("a", fps=fps, progress=lambda *step: begun.append(step))):
                with self.assertRaisesRegex(imagine.InvalidArgument, "^fps: .* is not between 1/65535 and 65535"):
                    way()
        self.assertEqual(begun, [])
        self.assertEqual(imagine.Clip(frames[:1], 0).png()[:4], b"\x89PNG")


if __name__ == "__main__":
    unittest.main()
