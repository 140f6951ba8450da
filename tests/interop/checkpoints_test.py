"""Checkpoints that we write load in the real upstream libraries and compute what we compute.

Tolerances: exact compute must agree to 1e-3 (the numerics contract; measured 1e-6 to 1e-4, the order of float32 sums).
Fast compute rounds activations; 5e-2 is far below what a wrong scale, order or sign would give (above 0.5).
"""
import json
import os

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # BitNet's functions are compiled otherwise

import numpy as np
import pytest
import torch
import transformers
from transformers.quantizers.quantizer_compressed_tensors import CompressedTensorsHfQuantizer

from conftest import DECODER, ENCODER, EXAMPLES, relative_error

TEXT = "The miller knew the sound of the river, and when the note was low there was water enough to grind all day."
SENTENCES = ["A cat sleeps on the warm windowsill.", "Quarterly revenue rose by four percent."]

HF_RECIPES = {
    "w4a16": ["--quantization-config", EXAMPLES / "smollm2-w4a16.json"],
    "ct-int8-channel": ["--method", "compressed-tensors", "--bits", "8", "--set", "strategy=channel"],
    "ct-fp8": ["--method", "compressed-tensors", "--set", "scheme=FP8_DYNAMIC"],
    "nf4": ["--method", "bitsandbytes", "--bits", "4", "--set", "bnb_4bit_quant_type=nf4"],
    "nf4-dq": ["--method", "bitsandbytes", "--bits", "4", "--set", "bnb_4bit_quant_type=nf4",
               "--set", "bnb_4bit_use_double_quant=true"],
    "fp4": ["--method", "bitsandbytes", "--bits", "4", "--set", "bnb_4bit_quant_type=fp4"],
    "int8": ["--method", "bitsandbytes", "--bits", "8"],
    "metal": ["--method", "metal"],
    "fp8-block": ["--method", "fp8", "--set", "weight_block_size=64,64"],
}
GGUF_TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"]


def tokens_of(server, model):
    ids = server.ctl("tokenize", model, TEXT)["ids"]
    return np.array([ids], dtype=np.int64)


def our_logits(server, model, ids, compute):
    server.ctl("load", model, "--compute", compute)
    logits = server.infer(model, ids, "logits")
    server.ctl("unload", model)
    return logits


def plain_weights(model):
    """The upstream model with every quantized Linear dequantized by the upstream library, computing in float32.

    Upstream's own CPU forward rounds activations or computes in bf16; weight-only float32 is what both sides can be held to.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if isinstance(quantizer, CompressedTensorsHfQuantizer):
        quantizer.compressor.decompress_model(model)
        for module in model.modules():
            if hasattr(module, "quantization_scheme"):
                module.quantization_enabled = False
    elif getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
        model = model.dequantize()
    # Not model.float(), which refuses models that were loaded quantized.
    return torch.nn.Module.float(model).eval()


def upstream(folder, cls):
    config = json.loads((folder / "config.json").read_text())
    # Fine-grained FP8 is dequantized while it is loaded, into the dtype that is asked for.
    is_fp8 = config.get("quantization_config", {}).get("quant_method") == "fp8"
    dtype = torch.float32 if is_fp8 else "auto"
    return plain_weights(cls.from_pretrained(folder, device_map={"": "cpu"}, dtype=dtype))


@pytest.mark.parametrize("name", HF_RECIPES)
def test_decoder_checkpoint_loads_upstream(server, name):
    output = f"smollm2-{name}"
    server.ctl("quantize", DECODER, *HF_RECIPES[name], "--output-name", output)
    ids = tokens_of(server, output)
    model = upstream(server.root / output, transformers.AutoModelForCausalLM)
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).logits.numpy()
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2


@pytest.mark.parametrize("gguf_type", GGUF_TYPES)
def test_gguf_loads_upstream(server, gguf_type):
    output = f"smollm2-{gguf_type.lower()}.gguf"
    server.ctl("quantize", DECODER, "--method", "gguf", "--set", f"type={gguf_type}", "--output-name", output)
    ids = tokens_of(server, output)
    model = transformers.AutoModelForCausalLM.from_pretrained(server.root, gguf_file=output, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).logits.numpy()
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2


def test_tokenizer_made_from_gguf_equals_upstream(server):
    """tokenizer.json written for a GGUF model gives the tokens that our own reading of the GGUF gives."""
    output = "smollm2-nf4"
    if not (server.root / output).exists():
        server.ctl("quantize", DECODER, *HF_RECIPES["nf4"], "--output-name", output)
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.root / output)
    for text in [TEXT, "naïve café 12345 \t\n\n  日本語 😀👩‍👩‍👧 <|im_start|>user\nhi<|im_end|>"]:
        assert server.ctl("tokenize", DECODER, text)["ids"] == tokenizer(text)["input_ids"]


def mean_pooled(model, ids, mask):
    with torch.no_grad():
        hidden = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state
    weights = torch.from_numpy(mask)[..., None].float()
    pooled = (hidden * weights).sum(1) / weights.sum(1)
    return torch.nn.functional.normalize(pooled, dim=-1).numpy()


@pytest.mark.parametrize("name", [None, "ct-int8-channel", "nf4", "int8"])
def test_encoder_checkpoint_loads_upstream(server, name):
    output = ENCODER if name is None else f"minilm-{name}"
    if name is not None:
        server.ctl("quantize", ENCODER, *HF_RECIPES[name], "--output-name", output)
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.root / ENCODER)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="np")
    ids, mask = batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)
    theirs = mean_pooled(upstream(server.root / output, transformers.AutoModel), ids, mask)
    for compute, tolerance in (("exact", 1e-3), ("fast", 5e-2)):
        server.ctl("load", output, "--compute", compute)
        assert relative_error(server.infer(output, ids, "sentence_embedding", mask), theirs) < tolerance
        server.ctl("unload", output)


BITNET_FORMS = {
    "bitlinear": ["linear_class=bitlinear"],
    "bitlinear-norm": ["linear_class=bitlinear", "use_rms_norm=true"],
    "auto-offline": ["linear_class=autobitlinear"],
    "auto-online": ["linear_class=autobitlinear", "quantization_mode=online"],
}


@pytest.mark.parametrize("form", BITNET_FORMS)
def test_bitnet_decoder_loads_upstream(server, truncated, form):
    """A model that was not trained for ternary weights is destroyed by them, but both sides must destroy it alike.

    One layer: where a sum in another order moves an input across the middle between two int8 steps, the two sides part by
    one step, and 30 layers make 5 % of it. In one layer such a step is far below the tolerance.
    """
    output = f"smollm2-bitnet-{form}"
    options = [text for option in BITNET_FORMS[form] for text in ("--set", option)]
    server.ctl("quantize", truncated(1), "--method", "bitnet", *options, "--output-name", output)
    ids = tokens_of(server, output)
    # AutoBitLinear's deserializer leaves other parameters in the dtype of the file.
    dtype = torch.float32 if form.startswith("bitlinear") else "auto"
    model = transformers.AutoModelForCausalLM.from_pretrained(server.root / output, dtype=dtype)
    model = torch.nn.Module.float(model).eval()
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).logits.numpy()
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2
