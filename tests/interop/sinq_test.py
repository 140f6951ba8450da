"""SINQ checkpoints that we write load through sinq's patch of Transformers and compute what we compute.

sinq computes in bfloat16 and its side file says so; 5e-2 is twice what that makes of the logits (measured 2.3e-2), far
below what a wrong scale or order gives (above 0.5).
"""
import os
import sys
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.append(str(Path(sys.prefix) / "apart"))  # see requirements_apart.txt

import pytest
import torch
import transformers
from sinq.hf_io import patch_hf_pretrained_io

from checkpoints_test import our_logits, tokens_of
from conftest import relative_error

patch_hf_pretrained_io()  # for this process: every from_pretrained after it goes through sinq


@pytest.mark.parametrize("bits", ["4", "3"])
def test_decoder_checkpoint_loads_upstream(server, truncated, bits):
    output = f"smollm2-sinq-{bits}"
    server.ctl("quantize", truncated(1), "--method", "sinq", "--bits", bits, "--group-size", "64", "--output-name", output)
    ids = tokens_of(server, output)
    model = transformers.AutoModelForCausalLM.from_pretrained(server.root / output, dtype=torch.bfloat16)
    model = model.to(torch.bfloat16)  # sinq's loader leaves norms in float32
    with torch.no_grad():
        theirs = model(torch.from_numpy(ids)).logits.float().numpy()
    assert relative_error(our_logits(server, output, ids, "exact"), theirs) < 5e-2
    assert relative_error(our_logits(server, output, ids, "fast"), theirs) < 5e-2
