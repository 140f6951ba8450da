"""Every cell of the table of methods: what ListMethods claims is done, through a real server, on a tiny model."""
import os
import unittest

import checkpoints
from quantd_process import DONE, ProcessTest, main

PROMPT = "hello there"
# What a method needs said on the tiny decoder: HIGGS rotates 512 columns by default, and there are 256.
OPTIONS = {"higgs": ["--set", "hadamard_size=256"]}
# What makes a method that can do without calibration ask for it, or gain by it.
CALIBRATED = {
    "compressed-tensors": ["--set", "scheme=W8A8", "--set", "activations=static"],
    "fp8": ["--set", "activation_scheme=static"],
    "gguf": ["--set", "type=Q4_K_M"],
    "quark": ["--set", "dtype=fp8_e4m3", "--set", "input_dtype=fp8_e4m3"],
}


class CapabilitiesTest(ProcessTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.decoder(cls.root / "decoder")
        cls.server = cls.class_server()
        cls.methods = cls.server.must("methods")["methods"]
        cls.devices = {d["id"] for d in cls.server.must("status")["devices"]}

    def tokens(self, model, *flags):
        """Greedy tokens of a model that is loaded, asked and unloaded."""
        self.server.must("load", model, *flags)
        answer = self.server.must("generate", model, PROMPT, "--raw", "--max-tokens", 8, "--ignore-eos")
        self.server.must("unload", model)
        self.assertEqual(len(answer["token_ids"]), 8)
        return answer["token_ids"]

    def each(self, claim):
        found = [m["name"] for m in self.methods if m[claim] and not m["needs_calibration"]]
        self.assertTrue(found)
        return found

    def quantized(self, name):
        output = f"of-{name}" + (".gguf" if name == "gguf" else "")
        if not (self.root / output).exists():
            self.server.must("quantize", "decoder", "--method", name, *OPTIONS.get(name, []), "--output-name", output)
        return output

    def test_serializable_and_cpu(self):
        plain = self.server.must("inspect", "decoder")["tensors"]
        for name in self.each("serializable"):
            with self.subTest(name):
                document = self.server.must("inspect", self.quantized(name))
                self.assertIn(name, document["model"]["quantization"])
                changed = [t["name"] for t in document["tensors"] if t["stored_as"] != "BF16" and "norm" not in t["name"]]
                self.assertGreaterEqual(len(changed), 14, "no matrix was quantized by the default options")
                self.assertEqual({t["name"] for t in document["tensors"]}, {t["name"] for t in plain})
                self.assertTrue(self.tokens(self.quantized(name)))

    def test_opencl(self):
        if "opencl:0" not in self.devices:
            self.assertFalse(os.environ.get("QUANTD_REQUIRE_OPENCL"), "no OpenCL device")
            raise unittest.SkipTest("no OpenCL device")
        for name in self.each("opencl"):
            with self.subTest(name):
                # Exact on both: rounded activations would let near ties fall either way.
                cpu = self.tokens(self.quantized(name), "--device", "cpu", "--compute", "exact")
                self.assertEqual(cpu, self.tokens(self.quantized(name), "--device", "opencl", "--compute", "exact"))

    def test_on_the_fly(self):
        """Loading with --quantize gives the model that quantizing and loading the file gives."""
        for name in self.each("on_the_fly"):
            with self.subTest(name):
                on_the_fly = self.tokens("decoder", "--quantize", name, *OPTIONS.get(name, []))
                self.assertEqual(on_the_fly, self.tokens(self.quantized(name)))

    def test_takes_calibration(self):
        text = self.root.parent / "text.txt"
        text.write_text("".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs. " for i in range(400)))
        for name in [m["name"] for m in self.methods if m["takes_calibration"]]:
            with self.subTest(name):
                folders = []
                for kind, lines in (("a", text.read_text()), ("b", text.read_text()[::-1])):
                    given = self.root.parent / f"{kind}.txt"
                    given.write_text(lines)
                    blocks = [] if name == "gguf" else ["--nsamples", 3, "--seqlen", 32]
                    output = f"calibrated-{name}-{kind}" + (".gguf" if name == "gguf" else "")
                    self.server.must("quantize", "decoder", "--method", name, *CALIBRATED[name], *blocks, "--calibration", given,
                                     "--output-name", output)
                    path = self.root / output
                    folders.append((path if path.is_file() else path / "model.safetensors").read_bytes())
                self.assertTrue(folders[0] != folders[1], "the text makes no difference")

    def test_lora_is_not_claimed_without_a_way_to_use_it(self):
        self.assertNotIn("--adapter", self.server.ctl("load", "--help", output="text").out)
        self.assertFalse([m["name"] for m in self.methods if m["lora"]])

    def test_one_matrix(self):
        """quantctl tensor quantizes, and turns back, a matrix by every method."""
        matrix = self.root.parent / "matrix.safetensors"
        weights = checkpoints.read_safetensors(self.root / "decoder" / "model.safetensors")
        matrix.write_bytes(checkpoints.safetensors({"weight": weights["model.layers.0.mlp.up_proj.weight"]}))
        for name in self.each("serializable"):
            with self.subTest(name):
                stored, back = (self.root.parent / f"{name}-{kind}.safetensors" for kind in ("stored", "back"))
                answer = self.server.ctl("tensor", "quantize", matrix, "--method", name, *OPTIONS.get(name, []), "--output", stored)
                self.assertEqual(answer.code, DONE, answer.err)
                answer = self.server.ctl("tensor", "dequantize", stored, "--output", back)
                self.assertEqual(answer.code, DONE, answer.err)
                shape = checkpoints.read_safetensors(back)["weight"][1]
                self.assertEqual(shape, weights["model.layers.0.mlp.up_proj.weight"][1])


if __name__ == "__main__":
    main()
