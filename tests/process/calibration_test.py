"""Calibrated quantization through a real server: killed, cancelled, without a text, with bad ones, on 1 and 2 threads."""
import json

import checkpoints
from quantd_process import DONE, ENDLESS, FAILED, ProcessTest, main, until

LAYERS = 24
GPTQ = ["--method", "gptq", "--set", "group_size=32", "--nsamples", 12, "--seqlen", 64]


class CalibrationTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.deep_decoder(cls.root / "deep", LAYERS)
        checkpoints.decoder(cls.root / "decoder")
        cls.text = cls.home / "text.txt"
        cls.text.write_text("".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs, once more. " for i in range(2000)))

    def hidden(self):
        return [path.name for path in self.root.iterdir() if path.name.startswith(".")]

    def begin(self, server, output, *arguments):
        """Starts a job and waits until it works on its third block and has written down what is done."""
        name = server.must("quantize", "deep", *GPTQ, "--calibration", self.text, "--output-name", output, *arguments,
                           "--detach")["name"]
        until(lambda: int(server.operation(name)["metadata"]["progress"]["block"]) >= 3, "the third block", server.process)
        journal = self.root / f".{output}.partial" / "journal"
        lines = lambda: journal.read_bytes().count(b"\n")
        written = lines()
        # It is written every second: the next tensor's end is such a moment after a pause.
        server.pause(1.1)
        until(lambda: lines() > written, "more in the journal", server.process)

    def test_killed_jobs_resume_to_the_same_bytes(self):
        server = self.start()
        report = server.must("quantize", "deep", *GPTQ, "--calibration", self.text, "--output-name", "whole")
        fitted = [layer for layer in report["layers"] if "output_error" in layer]
        self.assertEqual(len(fitted), LAYERS * 7)
        better = [layer for layer in fitted if layer["output_error"] < layer["rounding_output_error"]]
        self.assertGreater(len(better), len(fitted) * 0.9)
        self.begin(server, "killed")
        server.kill()
        self.assertIn(".killed.partial", self.hidden())
        server = self.start()
        self.begin(server, "killed", "--resume")
        server.kill()
        server = self.start(threads=2)
        resumed = server.must("quantize", "deep", *GPTQ, "--calibration", self.text, "--output-name", "killed", "--resume")
        self.assert_same_report(resumed, report)
        self.assert_same_files(self.root / "killed", self.root / "whole")
        self.assertEqual(self.hidden(), [])
        server.must("load", "killed")
        server.must("generate", "killed", "hello", "--max-tokens", 2)

    def test_cancel_ends_the_training_of_a_block(self):
        server = self.start()
        name = server.must("quantize", "decoder", *ENDLESS, "--calibration", self.text, "--output-name", "cancelled", "--detach")["name"]
        until(lambda: int(server.operation(name)["metadata"]["progress"]["block"]) >= 1, "the first block", server.process)
        server.must("operations", "cancel", name)
        until(lambda: server.operation(name)["done"], "the end", server.process)
        self.assertEqual(server.operation(name)["metadata"]["state"], "CANCELLED")
        self.assertEqual(self.hidden(), [])
        self.assertFalse((self.root / "cancelled").exists())

    def test_the_model_writes_its_own_text(self):
        server = self.start()
        own = ["quantize", "decoder", "--method", "gptq", "--set", "group_size=32", "--nsamples", 4, "--seqlen", 32]
        report = server.must(*own, "--output-name", "own")
        self.assertIn("no calibration text was given: calibrated on 4 sequences of 32 tokens that the model wrote itself",
                      report["warnings"][0])
        server.must(*own, "--output-name", "own-again")
        self.assert_same_files(self.root / "own", self.root / "own-again")

    def test_static_scales_of_activations(self):
        server = self.start()
        fp8 = ["quantize", "decoder", "--method", "compressed-tensors", "--set", "scheme=FP8", "--nsamples", 4, "--seqlen", 32]
        report = server.must(*fp8, "--calibration", self.text, "--output-name", "static")
        self.assertEqual(len([layer for layer in report["layers"] if "static float8 inputs" in layer["scheme"]]), 14)
        scales = {name: tensor
                  for name, tensor in checkpoints.read_safetensors(self.root / "static" / "model.safetensors").items() if name.endswith(".input_scale")}
        self.assertEqual(len(scales), 14)
        self.assertEqual({tuple(shape) for _, shape, _ in scales.values()}, {(1,)})
        self.assertGreater(len({data for _, _, data in scales.values()}), 4)
        server.must("load", "static", "--quantize-activations")
        self.assertTrue(server.must("generate", "static", "hello", "--max-tokens", 2)["token_ids"])
        server.must("unload", "static")
        # Another text, other scales; the weights are the same.
        own = server.must(*fp8, "--output-name", "static-own")
        self.assertIn("no calibration text was given", own["warnings"][0])
        ours, others = (checkpoints.read_safetensors(self.root / name / "model.safetensors") for name in ("static", "static-own"))
        self.assertEqual({name.rsplit(".", 1)[1] for name in ours if ours[name] != others[name]}, {"input_scale"})
        # Not where there is no text, nor where nothing is said of activations.
        answer = server.ctl("load", "decoder", "--quantize", "compressed-tensors", "--set", "scheme=FP8")
        self.assertEqual((answer.code, answer.status), (FAILED, "INVALID_ARGUMENT"), answer.err)
        self.assertIn("needs calibration", answer.err)
        answer = server.ctl("load", "decoder", "--quantize-activations")
        self.assertEqual((answer.code, answer.status), (FAILED, "FAILED_PRECONDITION"), answer.err)
        self.assertIn("quantize_activations", answer.err)

    def test_weights_that_are_not_finite(self):
        path = checkpoints.decoder(self.root / "spoilt") / "model.safetensors"
        tensors = checkpoints.read_safetensors(path)
        name = "model.layers.0.mlp.up_proj.weight"
        dtype, shape, data = tensors[name]
        tensors[name] = (dtype, shape, b"\xc0\x7f" + data[2:])  # a bfloat16 NaN
        path.write_bytes(checkpoints.safetensors(tensors))
        server = self.start()
        gptq = ["quantize", "spoilt", "--method", "gptq", "--set", "group_size=32", "--nsamples", 4, "--seqlen", 32, "--output-name",
                "mended"]
        answer = server.ctl(*gptq, "--calibration", self.text)
        self.assertEqual((answer.code, answer.status), (FAILED, "INVALID_ARGUMENT"), answer.err)
        self.assertIn(name, answer.err)
        report = server.must(*gptq, "--calibration", self.text, "--set", "nonfinite=zero")
        self.assertIn(f"{name}: 1 non-finite values set to 0", " ".join(report["warnings"]))
        server.must(*gptq, "--set", "nonfinite=zero", "--overwrite")  # the model writes its own text
        server.must("load", "mended")

    def test_a_resume_of_nothing_is_said(self):
        server = self.start()
        report = server.must("quantize", "decoder", "--method", "fp8", "--output-name", "anew", "--resume")
        self.assertIn("found no interrupted job of this output", " ".join(report["warnings"]))

    def test_encoders(self):
        checkpoints.encoder(self.root / "encoder")
        server = self.start()
        text = self.home / "lines.txt"
        text.write_text("a cat sleeps on the mat\nthe dog runs by\nrevenue rose by four percent .\n" * 4)
        report = server.must("quantize", "encoder", "--method", "gptq", "--set", "group_size=32", "--calibration", text,
                             "--output-name", "small")
        self.assertEqual(len([layer for layer in report["layers"] if "output_error" in layer]), 12)
        own = server.must("quantize", "encoder", "--method", "gptq", "--set", "group_size=32", "--nsamples", 4, "--output-name",
                          "own-encoder")
        self.assertIn("drawn at random", own["warnings"][0])
        server.must("load", "small")
        server.must("embed", "small", "the cat sleeps")

    def test_texts(self):
        server = self.start()

        def quantize(content, *flags):
            path = self.home / "given.txt"
            path.write_bytes(content)
            return server.ctl("quantize", "decoder", "--method", "gptq", "--set", "group_size=32", "--calibration", path,
                              "--output-name", "given", *flags)

        for content, flags, parts in [
                (b"", (), ["empty"]),
                (b" \n\n", (), ["empty"]),
                (b"one two three", ("--seqlen", 64), ["too short", "64"]),
                (b"fine so far \xff\xfe", (), ["UTF-8", "byte 12"]),
                (b'{"text": "a b c"}\n{"words": 1}\n', (), ["line 2"]),
                (b'{"text": "a"}\n', (), ["too short"]),
                (self.text.read_bytes(), ("--seqlen", 1 << 30), ["seqlen", "context"]),
                (self.text.read_bytes(), ("--nsamples", -1), ["nsamples"])]:
            answer = quantize(content, *flags)
            self.assertEqual((answer.code, answer.status), (FAILED, "INVALID_ARGUMENT"), f"{content[:20]}: {answer.err}")
            for part in parts:
                self.assertIn(part, answer.err)
            self.assertEqual(self.hidden(), [])
        records = "".join(json.dumps({"text": f"{i} is a number and {i + 1} is the one that follows it at once"}) + "\n"
                          for i in range(6))
        answer = quantize(records.encode(), "--seqlen", 64)
        self.assertEqual(answer.code, DONE, answer.err)
        self.assertIn("gives 6 sequences of the 128 wanted", " ".join(answer.json["warnings"]))


if __name__ == "__main__":
    main()
