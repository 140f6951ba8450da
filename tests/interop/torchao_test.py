"""Our torchao checkpoints in torchao itself: it rebuilds its tensor subclasses from our header and dequantizes to our logits.

Its CPU forward rounds activations or, for int4, does not exist; so weights are dequantized and both sides compute in
float32. Tolerances as in checkpoints_test.
"""
import numpy as np
import pytest
import torch
import transformers

from checkpoints_test import SENTENCES, mean_pooled, our_logits, tokens_of
from conftest import DECODER, ENCODER, relative_error

torchao = pytest.importorskip("torchao")
from torchao.utils import TorchAOBaseTensor  # noqa: E402

RECIPES = {
    "int8": ["--bits", "8"],
    "int8-dynamic": ["--set", "quant_type=Int8DynamicActivationInt8WeightConfig"],
    "int4": ["--bits", "4", "--group-size", "64"],
    "intx4": ["--set", "quant_type=IntxWeightOnlyConfig", "--set", "weight_dtype=int4", "--group-size", "32"],
    "intx-dynamic": ["--set", "quant_type=Int8DynamicActivationIntxWeightConfig", "--set", "weight_mapping_type=ASYMMETRIC"],
    "float8": ["--set", "quant_type=Float8WeightOnlyConfig"],
}


def dequantized(weight):
    if type(weight).__name__ != "Int4Tensor":
        return weight.dequantize()
    # w = scale * q + zero_point, both [groups, rows]; two signed nibbles a byte, the even column in the low one.
    low, high = weight.qdata << 4 >> 4, weight.qdata >> 4
    codes = torch.stack([low, high], -1).flatten(-2).float()
    group = weight.block_size[-1]
    scale, zero = (t.t().float().repeat_interleave(group, 1) for t in (weight.scale, weight.zero_point))
    return scale * codes + zero


def upstream(folder, cls, subclasses):
    model = cls.from_pretrained(folder, device_map={"": "cpu"})
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, TorchAOBaseTensor):
            subclasses.add(type(weight).__name__)
            module.weight = torch.nn.Parameter(dequantized(weight).float(), requires_grad=False)
    return torch.nn.Module.float(model).eval()


@pytest.mark.parametrize("name", RECIPES)
def test_decoder_checkpoint_loads_upstream(server, name):
    output, subclasses = f"smollm2-ao-{name}", set()
    server.ctl("quantize", DECODER, "--method", "torchao", *RECIPES[name], "--output-name", output)
    ids = tokens_of(server, output)
    model = upstream(server.root / output, transformers.AutoModelForCausalLM, subclasses)
    assert len(subclasses) == 1
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).logits.numpy()
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2


@pytest.mark.parametrize("name", ["int8", "float8"])
def test_encoder_checkpoint_loads_upstream(server, name):
    output, subclasses = f"minilm-ao-{name}", set()
    server.ctl("quantize", ENCODER, "--method", "torchao", *RECIPES[name], "--output-name", output)
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.root / ENCODER)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="np")
    ids, mask = batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)
    theirs = mean_pooled(upstream(server.root / output, transformers.AutoModel, subclasses), ids, mask)
    assert len(subclasses) == 1
    for compute, tolerance in (("exact", 1e-3), ("fast", 5e-2)):
        server.ctl("load", output, "--compute", compute)
        assert relative_error(server.infer(output, ids, "sentence_embedding", mask), theirs) < tolerance
        server.ctl("unload", output)
