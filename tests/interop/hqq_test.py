"""HQQ checkpoints that we write load in the hqq package itself and compute what we compute.

Transformers 5.23 no longer loads HQQ, so the layers are rebuilt by hqq's HQQLinear from the stored tensors.
Tolerances as in checkpoints_test.py.
"""
import os

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
import transformers
from hqq.core.quantize import HQQLinear
from safetensors.torch import load_file

from checkpoints_test import SENTENCES, mean_pooled, our_logits, tokens_of
from conftest import DECODER, ENCODER, relative_error

RECIPES = {
    "hqq-4": [],
    "hqq-8-axis0": ["--bits", "8", "--set", "axis=0"],
    "hqq-3-bf16": ["--bits", "3", "--group-size", "128", "--set", "compute_dtype=bfloat16"],
    "hqq-2-viewed": ["--bits", "2", "--group-size", "16", "--set", "view_as_float=true"],
    "hqq-1-axis0": ["--bits", "1", "--set", "axis=0"],
}


def upstream(folder, auto_class):
    """The model in float32 with every quantized Linear dequantized by hqq."""
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.quantization_config["quant_method"] == "hqq"
    del config.quantization_config
    model = auto_class.from_config(config, dtype=torch.float32).eval()
    state = load_file(folder / "model.safetensors")
    for name, module in model.named_modules():
        if f"{name}.W_q" not in state:
            continue
        stored = {key: state.pop(key) for key in list(state) if key.startswith(f"{name}.")}
        stored = {key.removeprefix(f"{name}."): tensor for key, tensor in stored.items()}
        dtype = getattr(torch, bytes(stored["compute_dtype"].tolist()).decode().removeprefix("torch."))
        layer = HQQLinear(None, None, compute_dtype=dtype, device="cpu", initialize=False)
        layer.load_state_dict(stored)
        state[f"{name}.weight"] = layer.dequantize().float()
        if layer.bias is not None:
            state[f"{name}.bias"] = layer.bias.float()
    missing, unexpected = model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=False)
    assert set(unexpected) <= {"embeddings.position_ids"}  # a buffer that old BERT checkpoints store
    assert set(missing) <= {"lm_head.weight"}  # tied
    return model


@pytest.mark.parametrize("name", RECIPES)
def test_decoder_checkpoint_loads_upstream(server, name):
    output = f"smollm2-{name}"
    server.ctl("quantize", DECODER, "--method", "hqq", *RECIPES[name], "--output-name", output)
    ids = tokens_of(server, output)
    with torch.no_grad():
        theirs = upstream(server.root / output, transformers.AutoModelForCausalLM)(torch.from_numpy(ids)).logits.numpy()
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2


@pytest.mark.parametrize("name", ["hqq-4", "hqq-8-axis0"])
def test_encoder_checkpoint_loads_upstream(server, name):
    output = f"minilm-{name}"
    server.ctl("quantize", ENCODER, "--method", "hqq", *RECIPES[name], "--output-name", output)
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.root / ENCODER)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="np")
    ids, mask = batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)
    theirs = mean_pooled(upstream(server.root / output, transformers.AutoModel), ids, mask)
    for compute, tolerance in (("exact", 1e-3), ("fast", 5e-2)):
        server.ctl("load", output, "--compute", compute)
        assert relative_error(server.infer(output, ids, "sentence_embedding", mask), theirs) < tolerance
        server.ctl("unload", output)
