"""Our Quark checkpoints in amd-quark itself, where it is installed: its loader unpacks and dequantizes to our logits.

Tolerances as in checkpoints_test. Quark rounds dequantized weights to the model's dtype and multiplies in it; here the
rounded weights are multiplied in float32, as on our side.
"""
import numpy as np
import pytest
import torch
import transformers

from checkpoints_test import SENTENCES, mean_pooled, our_logits, tokens_of
from conftest import DECODER, ENCODER, relative_error

pytest.importorskip("quark.torch")

RECIPES = {
    "int4": ["--bits", "4", "--group-size", "64"],
    "uint4": ["--set", "dtype=uint4", "--set", "symmetric=false", "--group-size", "64", "--set", "pack_method=order"],
    "int8": ["--bits", "8", "--set", "qscheme=per_channel"],
    "fp8": ["--set", "dtype=fp8_e4m3"],
    "mxfp4": ["--set", "dtype=fp4"],
    "mxfp6": ["--set", "dtype=fp6_e3m2"],
}


def upstream(folder, cls):
    model = cls.from_pretrained(folder, device_map={"": "cpu"}, dtype="auto").eval()
    dtype, quantized = model.dtype, 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ != "QParamsLinear":
                continue
            quantized += 1
            weight = child.weight_quantizer(child.weight).to(dtype).float()
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=child.bias is not None)
            linear.weight = torch.nn.Parameter(weight, requires_grad=False)
            linear.bias = child.bias
            setattr(parent, name, linear)
    assert quantized
    return torch.nn.Module.float(model)


@pytest.mark.parametrize("name", RECIPES)
def test_decoder_checkpoint_loads_upstream(server, name):
    output = f"smollm2-quark-{name}"
    server.ctl("quantize", DECODER, "--method", "quark", *RECIPES[name], "--output-name", output)
    ids = tokens_of(server, output)
    model = upstream(server.root / output, transformers.AutoModelForCausalLM)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).logits.float().numpy()
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_encoder_checkpoint_loads_upstream(server, name):
    output = f"minilm-quark-{name}"
    server.ctl("quantize", ENCODER, "--method", "quark", *RECIPES[name], "--output-name", output)
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.root / ENCODER)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="np")
    ids, mask = batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)
    theirs = mean_pooled(upstream(server.root / output, transformers.AutoModel), ids, mask)
    for compute, tolerance in (("exact", 1e-3), ("fast", 5e-2)):
        server.ctl("load", output, "--compute", compute)
        assert relative_error(server.infer(output, ids, "sentence_embedding", mask), theirs) < tolerance
        server.ctl("unload", output)
