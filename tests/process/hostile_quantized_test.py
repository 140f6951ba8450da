"""Quantized checkpoints of every method in which one stored tensor is missing, of a wrong shape or not finite."""
import json

import checkpoints
from capabilities_test import OPTIONS
from hostile import HostileTest, main

MODULE = "model.layers.1.mlp.up_proj"
# Bytes of a value that is NaN, where the dtype has one.
NAN = {"F32": b"\xff\xff\xff\xff", "F16": b"\xff\xff", "BF16": b"\xff\xff", "F8_E8M0": b"\xff"}
# What its library may leave out or does not look at: facts about the matrix, scales of inputs that are not quantized.
OPTIONAL = ("weight_format", "weight_shape",
            # HQQ's settings, one tensor each, which config.json holds, too.
            "channel_wise", "compute_dtype", "encoded_state_dict", "offload_meta", "optimize", "packing", "quant_scale", "quant_zero",
            "round_zero", "stores_quant_config", "unpack_view_dtype", "view_as_float",
            # quanto's placeholders; torchao's zero points, absent where all are 0.
            "input_scale", "output_scale", "_weight_zero_point")


def shorter(dtype, shape, content):
    """Without the last row; None where there is no row to lose."""
    if not shape or shape[0] < 2 or len(content) % shape[0]:
        return None
    return (dtype, [shape[0] - 1, *shape[1:]], content[:-(len(content) // shape[0])])


def broken(tensors):
    """{what is wrong with which tensor: all tensors of the checkpoint}."""
    own = [name for name in tensors if name.startswith(MODULE + ".") and not name.endswith((".bias", *OPTIONAL))]
    assert own
    for name in own:
        dtype, shape, content = tensors[name]
        yield f"{name} missing", {key: value for key, value in tensors.items() if key != name}
        if short := shorter(dtype, shape, content):
            yield f"{name} short", {**tensors, name: short}
        if dtype in NAN:
            nan = NAN[dtype]
            yield f"{name} nan", {**tensors, name: (dtype, shape, nan + content[len(nan):])}


class HostileQuantizedTest(HostileTest):
    def check(self, folder):
        weights = folder / "model.safetensors"
        metadata = json.loads(weights.read_bytes()[8:8 + int.from_bytes(weights.read_bytes()[:8], "little")])["__metadata__"]
        for label, tensors in broken(checkpoints.read_safetensors(weights)):
            with self.subTest(label):
                bad = self.root / "bad"
                bad.mkdir()
                for file in folder.iterdir():
                    if file.is_file() and file != weights:
                        (bad / file.name).write_bytes(file.read_bytes())
                (bad / "model.safetensors").write_bytes(checkpoints.safetensors(tensors, metadata))
                self.refuse("bad", MODULE, verbs=("load",))

    def test_every_method(self):
        for method in self.server.must("methods")["methods"]:
            name = method["name"]
            if name == "gguf" or method["needs_calibration"] or not method["serializable"]:
                continue
            self.server.must("quantize", "good", "--method", name, *OPTIONS.get(name, []), "--output-name", f"of-{name}")
            self.check(self.root / f"of-{name}")

    def test_skip_patterns(self):
        """Patterns of a skip list that would keep another regex engine busy for ever are refused, or match quickly."""
        for pattern in ("(a+)+$", "(a|aa)+b", "(((", "", "((a{1000}){1000}){1000}", "a" * 70_000):
            with self.subTest(pattern[:40]):
                config = self.home / "config.json"
                config.write_text(json.dumps({"quant_method": "bitsandbytes", "load_in_8bit": True,
                                              "llm_int8_skip_modules": [pattern, "lm_head"]}))
                answer = self.server.ctl("quantize", "good", "--quantization-config", config, "--output-name", "out")
                if answer.code:
                    self.assertEqual(answer.status, "INVALID_ARGUMENT", answer.err)
                    self.assertIn("llm_int8_skip_modules", answer.err)
                self.server.ctl("unload", "out")
                if (self.root / "out").exists():
                    for file in (self.root / "out").iterdir():
                        file.unlink()
                    (self.root / "out").rmdir()


if __name__ == "__main__":
    main()
