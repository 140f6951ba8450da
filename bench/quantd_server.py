"""A quantd of one benchmark run, and quantctl to talk to it."""
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Quantd:
    """The process; `with` stops it at the end."""

    def __init__(self, binaries, root, threads):
        self.binaries, self.address = binaries, f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen([binaries / "quantd", "--model-root", root, "--listen", self.address,
                                         "--metrics-listen", "off", "--threads", str(threads), "--log-level", "error"])
        for _ in range(100):
            if not subprocess.run([binaries / "quantctl", "--server", self.address, "status"], capture_output=True).returncode:
                return
            time.sleep(0.1)
        sys.exit("quantd did not start")

    def try_ctl(self, *arguments):
        """One quantctl call: its JSON document, or None and the last line of its errors."""
        done = subprocess.run([self.binaries / "quantctl", "--server", self.address, "--output", "json", *map(str, arguments)],
                              capture_output=True, text=True)
        if done.returncode:
            return None, (done.stderr.strip().splitlines() or ["no message"])[-1]
        return json.loads(done.stdout) if done.stdout else {}, ""

    def ctl(self, *arguments):
        document, error = self.try_ctl(*arguments)
        if document is None:
            sys.exit(f"quantctl {' '.join(map(str, arguments))}: {error}")
        return document

    def peak_bytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])

    def processor_seconds(self):
        """User and system time so far, of all threads; unlike the clock's it does not depend on what else runs."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        return int(self.ctl("status")["resident_bytes"])

    def stop(self):
        self.process.terminate()
        self.process.wait(40)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
