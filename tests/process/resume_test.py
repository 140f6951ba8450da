"""Jobs that are cut: killed, drained or cancelled in the middle, and what is there afterwards."""
import signal

import checkpoints
from quantd_process import DONE, FAILED, UNREACHABLE, ProcessTest, Quantd, main, until

# Enough for a job to last until it is cut.
LAYERS = 80
METHODS = {
    # A folder of safetensors, in several shards, and one GGUF file.
    "bitsandbytes": (["--method", "bitsandbytes", "--set", "bnb_4bit_quant_type=nf4", "--max-shard-bytes", "20000000"], ""),
    "gguf": (["--method", "gguf", "--bits", "2"], ".gguf"),
}


class ResumeTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.deep_decoder(cls.root / "deep", LAYERS)
        cls.reports = {}  # of uninterrupted jobs, by method

    def begin(self, server, arguments, output):
        """Starts a job and waits until some of its tensors are written down as done; most are not."""
        name = server.must("quantize", "deep", *arguments, "--output-name", output, "--detach")["name"]
        partial = self.root / f".{output}.partial"
        lines = lambda: (partial / "journal").read_bytes().count(b"\n") if (partial / "journal").exists() else 0
        written = lambda: sum(path.stat().st_size for path in partial.iterdir()) if partial.exists() else 0
        until(lambda: lines() > 0 and written() > 3_000_000, "the first tensors", server.process)
        # The journal is written every second; a pause makes the next tensor's end one of these moments.
        server.pause(1.1)
        until(lambda: lines() > 1, "some tensors in the journal", server.process)
        return name

    def visible(self):
        return [path.name for path in self.root.iterdir() if not path.name.startswith(".")]

    def hidden(self):
        return [path.name for path in self.root.iterdir() if path.name.startswith(".")]

    def same_output(self, left, right):
        if (self.root / left).is_dir():
            self.assert_same_files(self.root / left, self.root / right)
        else:
            self.assertTrue((self.root / left).read_bytes() == (self.root / right).read_bytes(), f"{left} differs from {right}")

    def resume_after(self, method, cut):
        """Cuts a job by `cut(server)`, starts again, resumes, and compares with an uninterrupted run."""
        arguments, suffix = METHODS[method]
        whole, output = f"{method}-whole{suffix}", f"{method}-{cut.__name__}{suffix}"
        server = self.start()
        if whole not in self.visible():
            self.reports[method] = server.must("quantize", "deep", *arguments, "--output-name", whole)
            self.assertEqual(len(self.reports[method]["layers"]), LAYERS * 9 + 3)
        name = self.begin(server, arguments, output)
        cut(server)
        self.assertNotIn(output, self.visible())
        server = self.start()
        self.assertNotIn(output, [m["name"] for m in server.must("models")["models"]])
        interrupted = server.operation(name)
        self.assertTrue(interrupted["done"])
        self.assertEqual(interrupted["metadata"]["state"], "INTERRUPTED")
        self.assertEqual((interrupted["metadata"]["model"], interrupted["metadata"]["output_name"]), ("deep", output))
        self.assertIn("resume", interrupted["error"]["message"])
        # Another recipe does not go on with this one's bytes.
        other = server.ctl("quantize", "deep", "--method", "fp8", "--output-name", output.removesuffix(".gguf"), "--resume")
        if not suffix:
            self.assertEqual((other.code, other.status), (FAILED, "FAILED_PRECONDITION"), other.err)
        resumed = server.start_ctl("quantize", "deep", *arguments, "--output-name", output, "--resume", output="text")
        out, err = resumed.communicate()
        self.assertEqual(resumed.returncode, DONE, err)
        self.same_output(output, whole)
        self.assertEqual(self.hidden(), [])
        done = [o for o in server.must("operations")["operations"] if o["metadata"]["output_name"] == output][0]
        self.assertEqual(done["metadata"]["progress"]["tensors_done"], str(LAYERS * 9 + 3))
        # The report is of the whole job.
        self.assert_same_report(done["response"], self.reports[method])
        server.must("load", output)
        server.must("generate", output, "hello", "--max-tokens", 2)
        self.assertEqual(server.stop(), 0)

    def test_killed_folder(self):
        self.resume_after("bitsandbytes", self.killed)

    def test_killed_gguf(self):
        self.resume_after("gguf", self.killed)

    def test_drained_folder(self):
        self.resume_after("bitsandbytes", self.drained)

    def test_drained_gguf(self):
        self.resume_after("gguf", self.drained)

    def killed(self, server):
        server.kill()

    def drained(self, server):
        server.terminate()
        self.assertEqual(server.wait(), 0)
        ended = server.events("operation")[-1]
        self.assertEqual(ended["state"], "interrupted")

    def test_killed_twice(self):
        arguments, _ = METHODS["gguf"]
        server = self.start()
        server.must("quantize", "deep", *arguments, "--output-name", "once.gguf")
        self.begin(server, arguments, "twice.gguf")
        server.kill()
        server = self.start()
        server.must("quantize", "deep", *arguments, "--output-name", "twice.gguf", "--resume", "--detach")
        server.kill()
        server = self.start()
        server.must("quantize", "deep", *arguments, "--output-name", "twice.gguf", "--resume")
        self.same_output("once.gguf", "twice.gguf")

    def test_a_new_start_forgets_the_cut_one(self):
        arguments, _ = METHODS["bitsandbytes"]
        server = self.start()
        self.begin(server, arguments, "fresh")
        server.kill()
        server = self.start()
        server.must("quantize", "deep", *arguments, "--output-name", "fresh")
        server.must("quantize", "deep", *arguments, "--output-name", "fresh-whole")
        self.same_output("fresh", "fresh-whole")
        self.assertEqual(self.hidden(), [])

    def test_killed_overwrite_keeps_the_old_version(self):
        arguments, _ = METHODS["gguf"]
        server = self.start()
        server.must("quantize", "deep", "--method", "gguf", "--set", "type=Q8_0", "--output-name", "old.gguf")
        before = (self.root / "old.gguf").read_bytes()
        self.begin(server, [*arguments, "--overwrite"], "old.gguf")
        server.kill()
        self.assertTrue((self.root / "old.gguf").read_bytes() == before)
        server = self.start()
        server.must("load", "old.gguf")
        server.must("quantize", "deep", *arguments, "--output-name", "old.gguf", "--overwrite", "--resume")
        self.assertFalse((self.root / "old.gguf").read_bytes() == before)

    def test_a_torn_tail_is_written_again(self):
        """The last bytes of journal and data that a power cut may leave: garbage instead of what was written."""
        arguments, _ = METHODS["bitsandbytes"]
        server = self.start()
        server.must("quantize", "deep", *arguments, "--output-name", "torn-whole")
        self.begin(server, arguments, "torn")
        server.kill()
        partial = self.root / ".torn.partial"
        journal = partial / "journal"
        journal.write_bytes(journal.read_bytes()[:-7])
        shard = sorted(partial.glob("*.safetensors*"))[-1]
        with open(shard, "r+b") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 3000))
            file.write(b"\xa5" * 3000)
        server = self.start()
        server.must("quantize", "deep", *arguments, "--output-name", "torn", "--resume")
        self.same_output("torn", "torn-whole")

    def test_cancel_leaves_nothing(self):
        server = self.start()
        for method, (arguments, suffix) in METHODS.items():
            with self.subTest(method):
                name = self.begin(server, arguments, "cancelled" + suffix)
                server.must("operations", "cancel", name)
                watched = server.ctl("operations", "watch", name)
                self.assertEqual((watched.code, watched.status), (FAILED, "CANCELLED"), watched.err)
                self.assertNotIn("cancelled" + suffix, self.visible())
                self.assertEqual(self.hidden(), [])
        # The server works on.
        server.must("quantize", "deep", "--method", "gguf", "--set", "type=Q8_0", "--output-name", "after.gguf")

    def test_one_writer_of_a_name(self):
        arguments, _ = METHODS["gguf"]
        server = self.start()
        self.begin(server, arguments, "contested.gguf")
        second = server.ctl("quantize", "deep", *arguments, "--output-name", "contested.gguf")
        self.assertIn(second.status, ("ABORTED", "ALREADY_EXISTS"), second.err)
        # Nor may another process on the same root take it, or sweep it away.
        neighbour_home = self.home / "neighbour"
        neighbour_home.mkdir()
        neighbour = Quantd(neighbour_home, self.root)
        self.addCleanup(neighbour.stop)
        self.assertEqual(neighbour.must("operations"), {"operations": [], "next_page_token": ""})
        third = neighbour.ctl("quantize", "deep", *arguments, "--output-name", "contested.gguf")
        self.assertIn(third.status, ("ABORTED", "ALREADY_EXISTS"), third.err)
        until(lambda: not server.must("status")["running_operations"], "the end of the job")
        self.assertIn("contested.gguf", self.visible())

    def test_second_signal_stops_at_once_and_the_job_resumes(self):
        arguments, _ = METHODS["gguf"]
        server = self.start()
        self.begin(server, arguments, "hurried.gguf")
        server.must("load", "deep")
        stream = server.start_ctl("generate", "deep", "hello", "--max-tokens", 400, "--ignore-eos", output="text")
        until(lambda: server.must("status")["running_sequences"], "the stream", server.process)
        server.terminate()
        until(lambda: server.events("draining"), "the drain")
        server.terminate()
        self.assertIn(server.wait(), (0, 1))  # 0: all had ended before the second signal was seen
        stream.communicate()
        self.assertIn(stream.returncode, (DONE, UNREACHABLE))
        server = self.start()
        if "hurried.gguf" not in self.visible():
            server.must("quantize", "deep", *arguments, "--output-name", "hurried.gguf", "--resume")
        server.must("load", "hurried.gguf")
        self.assertEqual(server.process.poll(), None)
        server.process.send_signal(signal.SIGINT)
        self.assertEqual(server.wait(), 0)


if __name__ == "__main__":
    main()
