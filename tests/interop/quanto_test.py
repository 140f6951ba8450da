"""Checkpoints that we write with method quanto load in optimum-quanto itself and compute what we compute.

Tolerances as in checkpoints_test.py.
"""
import numpy as np
import optimum.quanto
import optimum.quanto.models
import pytest
import torch
import transformers

from checkpoints_test import SENTENCES, mean_pooled, our_logits, tokens_of
from conftest import DECODER, ENCODER, relative_error


class QuantoModel(optimum.quanto.models.QuantizedTransformersModel):
    auto_class = transformers.AutoModel


def upstream_quanto(folder, cls):
    """quanto's own loader; its layers replaced by what its dequantize() gives."""
    model = cls.from_pretrained(folder)._wrapped
    for name, module in list(model.named_modules()):
        if not isinstance(module, optimum.quanto.QLinear):
            continue
        plain = torch.nn.Linear(module.in_features, module.out_features, module.bias is not None)
        plain.weight = torch.nn.Parameter(module.weight.dequantize().detach())
        if module.bias is not None:
            plain.bias = torch.nn.Parameter(module.bias.detach())
        model.set_submodule(name, plain)
    return model.float().eval()


@pytest.mark.parametrize("weights", ["int2", "int4", "int8", "float8", "float8_e4m3fnuz", "float8_e5m2"])
def test_quanto_decoder_loads_upstream(server, weights):
    output = f"smollm2-quanto-{weights}"
    server.ctl("quantize", DECODER, "--method", "quanto", "--set", f"weights={weights}", "--output-name", output)
    ids = tokens_of(server, output)
    model = upstream_quanto(server.root / output, optimum.quanto.models.QuantizedModelForCausalLM)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).logits.numpy()
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2


@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_quanto_encoder_loads_upstream(server, weights):
    output = f"minilm-quanto-{weights}"
    server.ctl("quantize", ENCODER, "--method", "quanto", "--set", f"weights={weights}", "--output-name", output)
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.root / ENCODER)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="np")
    ids, mask = batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)
    theirs = mean_pooled(upstream_quanto(server.root / output, QuantoModel), ids, mask)
    server.ctl("load", output, "--compute", "exact")
    assert relative_error(server.infer(output, ids, "sentence_embedding", mask), theirs) < 1e-3
    server.ctl("unload", output)
