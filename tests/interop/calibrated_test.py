"""Checkpoints of the calibrated methods that we write load in the libraries they come from and compute what we compute.

The decoder's first layer, and the encoder where the library takes encoders, on a few sequences: what is compared is the
file, not its quality. Tolerances as in checkpoints_test.py. Upstream's own float16 forward of the whole model is held to
2e-2: 1e-3 for each of its products and norms, far below what a wrong scale, order or sign gives (above 0.3).
"""
import calibrated_upstream as upstream  # first: it sets the environment of the libraries

import numpy as np
import pytest
import torch
import transformers

from checkpoints_test import SENTENCES, mean_pooled, our_logits, tokens_of
from conftest import ENCODER, EXAMPLES, relative_error

SAMPLES = ["--calibration", EXAMPLES / "evaluation.txt", "--nsamples", "4", "--seqlen", "128"]


def gptq(bits, group, *options):
    return ["--method", "gptq", "--bits", bits, "--group-size", group, *options]


def awq(*options):
    return ["--method", "awq", "--group-size", "64", *options]


def autoround(bits, form, *options):
    return ["--method", "autoround", "--bits", bits, "--group-size", "64", "--set", f"format={form}", "--set", "iters=4",
            *options]


def aqlm(codebooks, bits):
    return ["--method", "aqlm", "--set", f"num_codebooks={codebooks}", "--set", f"nbits_per_codebook={bits}",
            "--set", "max_epochs=1", "--set", "steps_per_epoch=3", "--set", "init_max_iter=5"]


ASYMMETRIC = ["--set", "sym=false"]
THROUGH_TRANSFORMERS = {
    "gptq-4": gptq("4", "64"),
    "gptq-4-asym": gptq("4", "64", *ASYMMETRIC),
    "gptq-4-asym-v2": gptq("4", "64", *ASYMMETRIC, "--set", "format=gptq_v2"),
    "gptq-2": gptq("2", "32"),
    "gptq-3": gptq("3", "64"),
    "gptq-8-act-order": gptq("8", "32", "--set", "desc_act=true"),
    "gptq-4-static": gptq("4", "32", "--set", "desc_act=true", "--set", "static_groups=true"),
    "gptq-4-rows": gptq("4", "-1"),
    "awq": awq(),
    "awq-symmetric-no-clip": awq("--set", "zero_point=false", "--set", "apply_clip=false"),
    "autoround-4": autoround("4", "auto_round"),
    "autoround-4-asym": autoround("4", "auto_round", *ASYMMETRIC),
    "autoround-2": autoround("2", "auto_round"),
    "autoround-3-asym": autoround("3", "auto_round", *ASYMMETRIC),
    "autoround-6": autoround("6", "auto_round"),
    "autoround-8-gptqmodel": autoround("8", "auto_round:gptqmodel"),
    "autoround-as-gptq": autoround("4", "auto_gptq"),
    "autoround-as-awq": autoround("4", "auto_awq", *ASYMMETRIC),
    "aqlm-2x8": aqlm(2, 8),
    "aqlm-1x10": aqlm(1, 10),
}
VPTQ = {
    "residual": ["--set", "num_centroids=-1,256", "--set", "num_res_centroids=-1,16"],
    "outliers": ["--set", "vector_lens=4,8", "--set", "num_centroids=64,512", "--set", "num_res_centroids=-1,-1",
                 "--set", "npercent=2"],
    "groups-bf16": ["--set", "num_centroids=-1,128", "--set", "num_res_centroids=-1,-1", "--set", "group_num=2", "--set",
                    "enable_norm=false", "--set", "enable_perm=false", "--set", "dtype=bfloat16"],
}
SPQR = {
    "csr": [],
    "ptcsr": ["--set", "sparse_strategy=ptcsr", "--set", "exact_outliers=true"],
    "identity": ["--set", "permutation_order=identity", "--set", "outlier_threshold=none"],
}


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.float().numpy()


def agree(server, output, ids, theirs):
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 1e-3
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2


@pytest.fixture(scope="session")
def plain(server, truncated):
    return transformers.AutoModelForCausalLM.from_pretrained(server.root / truncated(1), dtype=torch.float32).eval()


@pytest.mark.parametrize("name", THROUGH_TRANSFORMERS)
def test_decoder_checkpoint_loads_upstream(server, truncated, plain, name):
    output = f"smollm2-{name}"
    server.ctl("quantize", truncated(1), *THROUGH_TRANSFORMERS[name], *SAMPLES, "--output-name", output)
    model = upstream.through_transformers(server.root / output, transformers.AutoModelForCausalLM)
    assert len(upstream.quantized_layers(model)) == 7
    ids = tokens_of(server, output)
    as_it_runs = None if name == "aqlm-2x8" else logits_of(model, ids)  # see calibrated_upstream.multiplied_out
    theirs = logits_of(upstream.in_float32(model, plain), ids)
    agree(server, output, ids, theirs)
    assert as_it_runs is None or relative_error(as_it_runs, theirs) < 2e-2


# BERT's blocks are not where the libraries look by themselves, its pooler is a linear outside them, and it has biases.
ENCODERS = {"gptq": gptq("4", "64"), "autoround": autoround("4", "auto_round"), "aqlm": aqlm(1, 8)}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_checkpoint_loads_upstream(server, name):
    output = f"minilm-{name}"
    server.ctl("quantize", ENCODER, *ENCODERS[name], *SAMPLES, "--output-name", output)
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.root / ENCODER)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="np")
    ids, mask = batch["input_ids"].astype(np.int64), batch["attention_mask"].astype(np.int64)
    unquantized = transformers.AutoModel.from_pretrained(server.root / ENCODER, dtype=torch.float32).eval()
    model = upstream.through_transformers(server.root / output, transformers.AutoModel)
    assert len(upstream.quantized_layers(model)) == 36
    theirs = mean_pooled(upstream.in_float32(model, unquantized), ids, mask)
    for compute, tolerance in (("exact", 1e-3), ("fast", 5e-2)):
        server.ctl("load", output, "--compute", compute)
        assert relative_error(server.infer(output, ids, "sentence_embedding", mask), theirs) < tolerance
        server.ctl("unload", output)


@pytest.mark.parametrize("name", VPTQ)
def test_vptq_checkpoint_unpacks_upstream(server, truncated, name):
    """Transformers asks for a GPU before it loads VPTQ; the package's own layer computes without one."""
    output = f"smollm2-vptq-{name}"
    server.ctl("quantize", truncated(1), "--method", "vptq", "--set", "kiter=5", *VPTQ[name], *SAMPLES, "--output-name", output)
    model, quantized = upstream.with_weights(server.root / output, transformers.AutoModelForCausalLM, upstream.vptq_weight)
    assert quantized == 7
    ids = tokens_of(server, output)
    agree(server, output, ids, logits_of(model, ids))


@pytest.fixture(scope="session")
def spqr_kernels():
    return upstream.spqr_kernels()


@pytest.mark.parametrize("name", SPQR)
def test_spqr_checkpoint_unpacks_upstream(server, truncated, spqr_kernels, name):
    """spqr_quant multiplies on NVIDIA GPUs only; its host code unpacks."""
    output = f"smollm2-spqr-{name}"
    server.ctl("quantize", truncated(1), "--method", "spqr", *SPQR[name], *SAMPLES, "--output-name", output)
    model, quantized = upstream.with_weights(server.root / output, transformers.AutoModelForCausalLM,
                                             upstream.spqr_weight(spqr_kernels))
    assert quantized == 7
    ids = tokens_of(server, output)
    agree(server, output, ids, logits_of(model, ids))
