"""Activations quantized as our checkpoints say: upstream rounds the inputs of its layers to what ours become.

One layer, as for BitNet in checkpoints_test: where a sum in another order moves an input across the middle between two
steps, the two sides part by a step, which later layers make more of. Tolerances: exact compute 1e-3 (the numerics
contract), fast compute 5e-2, which also rounds activations to 15 bit.
"""
import pytest
import torch
import transformers

from checkpoints_test import tokens_of
from conftest import relative_error

CALIBRATION = "".join(f"The miller of mill {i} knew the sound of the river, and {i * i} sacks of grain stood by the door. "
                      for i in range(300))
COMPRESSED_TENSORS = {
    "fp8-static": ["scheme=FP8"],
    "int8-static": ["scheme=W8A8", "activations=static"],
    "int8-static-all": ["scheme=W8A8", "activations=static", "observer=static_minmax"],
    "nvfp4": ["scheme=NVFP4"],
    "fp8-dynamic": ["scheme=FP8_DYNAMIC"],
    "int8-dynamic": ["scheme=W8A8"],
}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(CALIBRATION)
    return path


def quantize(server, model, output, text, method, options):
    calibrated = [] if "dynamic" in output else ["--calibration", text, "--nsamples", 8, "--seqlen", 128]
    server.ctl("quantize", model, "--method", method, *[word for option in options for word in ("--set", option)], *calibrated,
               "--output-name", output)


def our_logits(server, model, ids, compute):
    server.ctl("load", model, "--compute", compute, "--quantize-activations")
    logits = server.infer(model, ids, "logits")
    server.ctl("unload", model)
    return logits


def compare(server, output, model, rounding_off):
    ids = tokens_of(server, output)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).logits.numpy()
        rounding_off()
        plain = model(torch.from_numpy(ids)).logits.numpy()
    assert relative_error(plain, theirs) > 3e-3, "upstream's activations were not quantized"
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2


@pytest.mark.parametrize("name", COMPRESSED_TENSORS)
def test_compressed_tensors(server, truncated, text, name):
    output = f"smollm2-ct-{name}"
    quantize(server, truncated(1), output, text, "compressed-tensors", COMPRESSED_TENSORS[name])
    model = transformers.AutoModelForCausalLM.from_pretrained(server.root / output, device_map={"": "cpu"})
    model.hf_quantizer.compressor.decompress_model(model)
    model = torch.nn.Module.float(model).eval()
    quantized = [module for module in model.modules() if hasattr(module, "quantization_scheme")]
    assert len(quantized) == 7

    def rounding_off():
        for module in quantized:
            module.quantization_enabled = False

    compare(server, output, model, rounding_off)


QUARK = {
    "fp8": ["dtype=fp8_e4m3", "input_dtype=fp8_e4m3"],
    "int8": ["dtype=int8", "qscheme=per_channel", "input_dtype=int8"],
    "uint8": ["dtype=int8", "qscheme=per_channel", "input_dtype=uint8", "input_symmetric=false"],
}


class RoundedLinear(torch.nn.Module):
    """Quark's layer in float32: its quantizer of inputs, and the weight that its own quantizer dequantizes."""

    def __init__(self, layer):
        super().__init__()
        self.weight = layer.weight_quantizer(layer.weight).to(torch.bfloat16).float()
        self.quantizer, self.bias = layer.input_quantizer, layer.bias

    def forward(self, x):
        return torch.nn.functional.linear(x if self.quantizer is None else self.quantizer(x), self.weight, self.bias)


@pytest.mark.parametrize("name", QUARK)
def test_quark(server, truncated, text, name):
    pytest.importorskip("quark.torch")
    output = f"smollm2-quark-static-{name}"
    quantize(server, truncated(1), output, text, "quark", QUARK[name])
    model = transformers.AutoModelForCausalLM.from_pretrained(server.root / output, device_map={"": "cpu"}, dtype="auto").eval()
    layers = []
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if type(child).__name__ == "QParamsLinear":
                layers.append(RoundedLinear(child))
                setattr(parent, child_name, layers[-1])
    assert len(layers) == 7
    model = torch.nn.Module.float(model)

    def rounding_off():
        for layer in layers:
            layer.quantizer = None

    compare(server, output, model, rounding_off)
