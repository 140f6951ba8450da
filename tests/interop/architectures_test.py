"""Decoders that are not plain Llamas: random small models, saved by Transformers, compute what Transformers computes.

Phi3: projections that are fused on disk, positions that rotate a part of a head, longrope. Qwen3: heads that are not hidden
size over heads wide, with norms of their own. Their quantized checkpoints load upstream under the same module names.
Tolerances as in checkpoints_test.py.
"""
import calibrated_upstream as calibrated  # first: it sets the environment of the libraries

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from checkpoints_test import our_logits, upstream
from conftest import EXAMPLES, relative_error
from torchao_test import upstream as torchao_upstream

TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "tokenizers" / "sentencepiece.json"  # 512 tokens
# Columns are multiples of 64: bitsandbytes 0.50.2 on the CPU does not dequantize blocks that cross row ends.
COMMON = {"vocab_size": 512, "hidden_size": 192, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 6,
          "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# 24 of 32 dimensions are rotated.
LONGROPE = {"original_max_position_embeddings": 128, "partial_rotary_factor": 0.75,
            "rope_scaling": {"type": "longrope", "short_factor": [1 + 0.1 * i for i in range(12)],
                             "long_factor": [1 + 1.5 * i for i in range(12)]}}
MODELS = {
    "phi3": lambda: transformers.Phi3Config(**COMMON),
    "phi3-tied": lambda: transformers.Phi3Config(**COMMON | {"num_key_value_heads": 6}, tie_word_embeddings=True,
                                                 sliding_window=200),
    "phi3-long": lambda: transformers.Phi3Config(**COMMON, **LONGROPE),
    "qwen3": lambda: transformers.Qwen3Config(**COMMON, head_dim=64, rope_theta=1e6),
    "qwen3-tied": lambda: transformers.Qwen3Config(**COMMON, head_dim=16, tie_word_embeddings=True, attention_bias=True),
}
IDS = np.array([[1, *((7 * i * i + 3 * i) % 509 + 3 for i in range(39))]], dtype=np.int64)


@pytest.fixture(scope="session")
def model(server):
    """model(name): the folder of a random model in the server's root, made once."""
    def make(name):
        folder = server.root / name
        if folder.exists():
            return folder
        torch.manual_seed(sum(map(ord, name)))
        made = transformers.AutoModelForCausalLM.from_config(MODELS[name]()).float().eval()
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() == 2:  # large enough that attention looks at some tokens more than at others
                    parameter.normal_(0, 1.2 / parameter.shape[1] ** 0.5)
                else:
                    parameter.uniform_(0.5, 1.5)
        # What is quantized is this, whatever dtype a method works in.
        made.half().save_pretrained(folder)
        shutil.copy(TOKENIZER, folder / "tokenizer.json")
        (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
        return folder

    return make


def theirs(folder, ids=IDS):
    with torch.no_grad():
        return upstream(folder, transformers.AutoModelForCausalLM)(torch.from_numpy(ids)).logits.float().numpy()


def agree(server, name, expected, tolerance=1e-3):
    assert relative_error(our_logits(server, name, IDS, "exact"), expected) < tolerance
    assert relative_error(our_logits(server, name, IDS, "fast"), expected) < 5e-2


@pytest.mark.parametrize("name", MODELS)
def test_plain(server, model, name):
    expected = theirs(model(name))
    agree(server, name, expected)
    if any(device["id"].startswith("opencl") for device in server.ctl("status")["devices"]):
        for compute in ("exact", "fast"):
            server.ctl("load", name, "--device", "opencl", "--compute", compute)
            found = server.infer(name, IDS, "logits")
            server.ctl("unload", name)
            assert relative_error(found, expected) < (1e-3 if compute == "exact" else 5e-2)


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens(server, model, name):
    """Decoding with a cache, and through the tokenizer, gives the tokens that Transformers generates."""
    folder = model(name)
    server.ctl("load", name, "--compute", "exact")
    answer = server.ctl("generate", name, "hello there", "--max-tokens", 24, "--ignore-eos", "--temperature", 0, "--raw")
    prompt = server.ctl("tokenize", name, "hello there")["ids"]
    server.ctl("unload", name)
    whole = torch.tensor([prompt])
    made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = made.generate(whole, attention_mask=torch.ones_like(whole), max_new_tokens=24, do_sample=False, eos_token_id=None,
                           pad_token_id=0)[0, whole.shape[1]:].tolist()
    assert answer["token_ids"] == tokens


def test_contexts_beyond_the_original(server, model):
    """In a context that is loaded longer than the original, all positions take the long factors, as Transformers' do in a
    sequence that is longer; in one that is not, the short ones."""
    folder = model("phi3-long")
    ids = np.concatenate([IDS] * 4, axis=1)[:, :150]
    server.ctl("load", "phi3-long", "--compute", "exact", "--context-length", 256)
    found = server.infer("phi3-long", ids, "logits")
    server.ctl("unload", "phi3-long")
    assert relative_error(found, theirs(folder, ids)) < 1e-3
    assert relative_error(found[:, :40], theirs(folder, ids[:, :40])) > 1e-2


PER_MODULE = {
    "nf4": ["--method", "bitsandbytes", "--bits", "4", "--set", "bnb_4bit_quant_type=nf4"],
    "ct-int4": ["--method", "compressed-tensors", "--bits", "4", "--group-size", "32"],
    "ct-int8-channel": ["--method", "compressed-tensors", "--bits", "8", "--set", "strategy=channel"],
    "fp8-block": ["--method", "fp8", "--set", "weight_block_size=32,32"],
}
FAMILIES = ["phi3-long", "qwen3"]


@pytest.mark.parametrize("method", PER_MODULE)
@pytest.mark.parametrize("name", FAMILIES)
def test_quantized_checkpoint_loads_upstream(server, model, name, method):
    model(name)
    output = f"{name}-{method}"
    server.ctl("quantize", name, *PER_MODULE[method], "--output-name", output)
    agree(server, output, theirs(server.root / output))


@pytest.mark.parametrize("name", FAMILIES)
def test_torchao_checkpoint_loads_upstream(server, model, name):
    model(name)
    output, subclasses = f"{name}-torchao", set()
    server.ctl("quantize", name, "--method", "torchao", "--bits", "8", "--output-name", output)
    made = torchao_upstream(server.root / output, transformers.AutoModelForCausalLM, subclasses)
    assert len(subclasses) == 1
    with torch.no_grad():
        agree(server, output, made(torch.from_numpy(IDS)).logits.numpy())


SAMPLES = ["--calibration", EXAMPLES / "evaluation.txt", "--nsamples", "4", "--seqlen", "64"]
CALIBRATED = {
    "gptq": ["--method", "gptq", "--bits", "4", "--group-size", "32"],
    "gptq-8-act-order": ["--method", "gptq", "--bits", "8", "--group-size", "32", "--set", "desc_act=true"],
    "awq": ["--method", "awq", "--group-size", "32"],
    "autoround": ["--method", "autoround", "--bits", "4", "--group-size", "32", "--set", "iters=4"],
    "aqlm": ["--method", "aqlm", "--set", "num_codebooks=2", "--set", "nbits_per_codebook=8", "--set", "max_epochs=1",
             "--set", "steps_per_epoch=3", "--set", "init_max_iter=5"],
}


@pytest.mark.parametrize("method", CALIBRATED)
@pytest.mark.parametrize("name", FAMILIES)
def test_calibrated_checkpoint_loads_upstream(server, model, name, method):
    plain = transformers.AutoModelForCausalLM.from_pretrained(model(name), dtype=torch.float32).eval()
    output = f"{name}-{method}"
    server.ctl("quantize", name, *CALIBRATED[method], *SAMPLES, "--output-name", output)
    made = calibrated.through_transformers(server.root / output, transformers.AutoModelForCausalLM)
    assert len(calibrated.quantized_layers(made)) == 2 * (4 if name.startswith("phi3") else 7)
    with torch.no_grad():
        expected = calibrated.in_float32(made, plain)(torch.from_numpy(IDS)).logits.float().numpy()
    # Exact compute takes sums over AQLM's codebooks as float32, these are of float16: 1.3e-3 measured.
    agree(server, output, expected, 5e-3 if method == "aqlm" else 1e-3)


ELSEWHERE = {
    "spqr": ["--method", "spqr", *SAMPLES],
    "vptq": ["--method", "vptq", "--set", "kiter=5", "--set", "num_centroids=-1,64", "--set", "num_res_centroids=-1,16", *SAMPLES],
    "imatrix": ["--method", "gguf", "--set", "type=IQ4_NL", *SAMPLES[:2]],
}


@pytest.mark.parametrize("method", ELSEWHERE)
@pytest.mark.parametrize("name", FAMILIES)
def test_calibrated_checkpoint_is_what_it_dequantizes_to(server, model, name, method):
    """What the other calibrated methods write computes what Transformers computes of the plain checkpoint made of it."""
    model(name)
    output = f"{name}-{method}" + (".gguf" if method == "imatrix" else "")
    server.ctl("quantize", name, *ELSEWHERE[method], "--output-name", output)
    server.ctl("dequantize", output, "--output-name", f"{name}-{method}-plain", "--dtype", "f32")
    # A plain checkpoint has VPTQ's sums as float16: 3.7e-3 measured.
    agree(server, output, theirs(server.root / f"{name}-{method}-plain"), 1e-2 if method == "vptq" else 1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_gguf_there_and_back(server, model, name):
    """A GGUF holds the same numbers, and config.json that is made of its keys says the same model."""
    folder = model(name)
    gguf, back = f"{name}-f32.gguf", f"{name}-from-gguf"
    server.ctl("quantize", name, "--method", "gguf", "--set", "type=F32", "--output-name", gguf)
    server.ctl("dequantize", gguf, "--output-name", back, "--dtype", "f32")
    expected = theirs(folder)
    agree(server, gguf, expected)
    assert relative_error(theirs(server.root / back), expected) < 1e-3


# Transformers' reader of GGUF knows neither Phi3's factors and rotated part nor Qwen3's width of heads.
@pytest.mark.parametrize("gguf_type", ["F32", "Q8_0", "Q4_0"])
def test_gguf_loads_upstream(server, model, gguf_type):
    model("phi3")
    output = f"phi3-{gguf_type.lower()}.gguf"
    server.ctl("quantize", "phi3", "--method", "gguf", "--set", f"type={gguf_type}", "--output-name", output, "--overwrite")
    made = transformers.AutoModelForCausalLM.from_pretrained(server.root, gguf_file=output, dtype=torch.float32).eval()
    with torch.no_grad():
        agree(server, output, made(torch.from_numpy(IDS)).logits.numpy())
