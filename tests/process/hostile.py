"""What every bad file must come to: a refusal with a meaning, and a server as good as before."""
import shutil
import time

import checkpoints
from quantd_process import FAILED, ProcessTest, main  # noqa: F401

ALLOWED = ("INVALID_ARGUMENT", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "NOT_FOUND")
PROMPT = ["hello there", "--max-tokens", "4", "--ignore-eos"]


class HostileTest(ProcessTest):
    """Tests put bad files at the name `bad` of the model root and call refuse()."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.decoder(cls.root / "good")
        cls.server = cls.class_server()
        cls.server.must("load", "good")
        cls.answer = cls.server.must("generate", "good", *PROMPT)["token_ids"]
        cls.idle = cls.memory()

    @classmethod
    def memory(cls):
        for line in open(f"/proc/{cls.server.process.pid}/status"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10

    def setUp(self):
        self.addCleanup(self.still_good)

    def still_good(self):
        self.assertIsNone(self.server.process.poll(), "the server is gone")
        self.assertEqual(self.server.must("generate", "good", *PROMPT)["token_ids"], self.answer)
        # Sizes that a file claims are never allocated: the peak stays near what it was before.
        self.assertLess(self.memory() - self.idle, 64 << 20)

    def refuse(self, name, *words, verbs=("inspect", "load", "quantize")):
        """Every verb refuses `name`, saying which file or tensor is wrong; then removes it."""
        before = self.entries()
        command = {"inspect": ["inspect", name], "load": ["load", name], "tokenize": ["tokenize", name, "hello"],
                   "quantize": ["quantize", name, "--method", "bitsandbytes", "--output-name", "out"]}
        try:
            for verb in verbs:
                began = time.monotonic()
                answer = self.server.ctl(*command[verb])
                self.assertIn(answer.status, ALLOWED, f"{verb}: {answer.err[:500]}")
                self.assertNotEqual(answer.code, 0)
                self.assertLess(time.monotonic() - began, 20, verb)  # 2 s are meant; the machine may be busy
                message = answer.err.split(": ", 2)[2]
                for word in words:
                    self.assertIn(word, message, verb)
                self.assertGreater(len(message.split()), 3, f"{verb}: {message}")
                self.assertLess(len(message), 2000, verb)
                self.assertNotIn(str(self.home), message)
                self.assertTrue(message.strip().isprintable(), f"{verb}: {message!r}")
                self.assertEqual(self.entries(), before, verb)
                self.assertIsNone(self.server.process.poll(), f"{verb}: the server is gone")
        finally:
            path = self.root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            if (self.root / "out").exists():
                shutil.rmtree(self.root / "out")
