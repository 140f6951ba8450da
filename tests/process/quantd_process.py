"""A real quantd process over a model root made for a test, and quantctl to talk to it."""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

BIN = Path(os.environ.get("QUANTD_BIN", Path(__file__).resolve().parents[2] / "build" / "release" / "bin"))
# Whatever hangs fails here; nothing that works comes near it.
PATIENCE = 120

# Exit codes of quantctl.
DONE, FAILED, USAGE, UNREACHABLE, NOT_FOUND, INTERRUPTED = 0, 1, 2, 3, 4, 130

# A job that only a stop ends, however fast the machine: training that would take years.
ENDLESS = ["--method", "autoround", "--set", f"iters={10**12}", "--set", "group_size=32", "--nsamples", "2", "--seqlen", "16"]


class Answer:
    """What one quantctl call gave."""

    def __init__(self, completed):
        self.code, self.out, self.err = completed.returncode, completed.stdout, completed.stderr

    @property
    def status(self):
        """NOT_FOUND of "quantctl: NOT_FOUND: ..."; empty when there was no error."""
        for line in self.err.splitlines():
            parts = line.split(": ", 2)
            if parts[0] == "quantctl" and len(parts) == 3:
                return parts[1]
        return ""

    @property
    def json(self):
        return json.loads(self.out)


LIBC = ctypes.CDLL(None)


def end_with_the_test():
    """Run in the child: a test that is killed leaves no server behind."""
    PR_SET_PDEATHSIG = 1
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def until(condition, what, process=None):
    """Polls until `condition()` gives something true, and returns that."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the process ended with {process.returncode} before {what}")
        time.sleep(0.005)
    raise AssertionError(f"{what} did not happen within {PATIENCE} s")


class Quantd:
    """The process. Listens on a Unix socket unless told otherwise; `log` has its log lines."""

    def __init__(self, home, root, *flags, listen=None, threads=1):
        self.root, self.log_path = root, home / "quantd.log"
        self.address = listen or f"unix:{home}/socket"
        self.ctl_flags = []
        # One compute thread: a team whose threads wait for each other crawls where tests share few CPUs. The bytes and
        # answers do not depend on it.
        flags = ("--threads", threads, *flags)
        with open(self.log_path, "ab") as log:
            self.log_start = log.tell()
            self.process = subprocess.Popen(
                [BIN / "quantd", "--model-root", root, "--listen", self.address, "--metrics-listen", "off",
                 "--no-self-probe", *map(str, flags)], stdout=log, stderr=log, preexec_fn=end_with_the_test)
        serving = until(lambda: self.events("serving"), "serving", self.process)[0]
        if self.address.endswith(":0"):
            self.address = self.address[:-1] + str(serving["port"])

    def events(self, name=None):
        lines = self.log_path.read_bytes()[self.log_start:].decode().splitlines()
        entries = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except ValueError:  # a line that is being written
                continue
        return [entry for entry in entries if name is None or entry.get("event") == name]

    def command(self, *arguments, output="json"):
        return [BIN / "quantctl", "--server", self.address, "--output", output, *self.ctl_flags, *map(str, arguments)]

    def ctl(self, *arguments, output="json", stdin=None):
        return Answer(subprocess.run(self.command(*arguments, output=output), capture_output=True, text=True, errors="replace",
                                     timeout=PATIENCE,
                                     **({"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL})))

    def start_ctl(self, *arguments, output="json", **options):
        return subprocess.Popen(self.command(*arguments, output=output), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, errors="replace", **options)

    def must(self, *arguments, **options):
        """The JSON document of a call that has to succeed."""
        answer = self.ctl(*arguments, **options)
        assert answer.code == DONE, f"quantctl {arguments}: {answer.code}: {answer.err}"
        return answer.json

    def operation(self, name):
        """Its JSON document; the exit code tells whether the operation failed."""
        return self.ctl("operations", "get", name).json

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def pause(self, seconds):
        """Time passes, but not for the server's work."""
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        return self.process.wait(PATIENCE)

    def stop(self):
        if self.process.poll() is None:
            self.terminate()
            return self.wait()
        return self.process.returncode


class ProcessTest(unittest.TestCase):
    """Each test class has one folder with a model root; servers started by start() are stopped."""

    @classmethod
    def setUpClass(cls):
        cls.home = Path(tempfile.mkdtemp(prefix="quantd-test-"))
        cls.addClassCleanup(shutil.rmtree, cls.home, ignore_errors=True)
        cls.root = cls.home / "root"
        cls.root.mkdir()

    @classmethod
    def class_server(cls, *flags, **options):
        """One server for all tests of the class."""
        server = Quantd(cls.home, cls.root, *flags, **options)
        cls.addClassCleanup(server.stop)
        return server

    def start(self, *flags, **options):
        server = Quantd(self.home, self.root, *flags, **options)
        self.addCleanup(server.stop)
        return server

    def entries(self, root=None):
        """Every path under the model root, hidden ones too."""
        root = root or self.root
        return sorted(str(path.relative_to(root)) for path in root.rglob("*"))

    def assert_same_files(self, left, right):
        def names(folder):
            return sorted(p.name for p in folder.iterdir())
        self.assertEqual(names(left), names(right))
        for name in names(left):
            self.assertTrue((left / name).read_bytes() == (right / name).read_bytes(), f"{name} differs")

    def assert_same_report(self, left, right):
        """All but what belongs to a run: the output's name, time and memory."""
        of_the_run = ("@type", "output_name", "elapsed", "peak_memory_bytes")
        of_the_job = lambda report: {key: value for key, value in report.items() if key not in of_the_run}
        self.assertEqual(of_the_job(left), of_the_job(right))

    def assert_fails(self, answer, status, *words, code=FAILED):
        self.assertEqual((answer.status, answer.code), (status, code), answer.err)
        for word in words:
            self.assertIn(word, answer.err)
        self.assertEqual(answer.out, "")


def main():
    unittest.main(verbosity=2)
