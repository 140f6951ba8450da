"""What the upstream Python libraries take, on the CPU, to quantize a checkpoint by calibration data: load, calibrate, save.

Each entry of PEERS does the whole job as its library's README does it. A library that is not installed has no entry. Run as a
program: upstream_calibrated.py METHOD FOLDER TEXT OUTPUT NSAMPLES SEQLEN ITERS THREADS prints wall and processor seconds,
imports not counted, and the seconds of its searches (AWQ).
"""
import importlib
import importlib.util
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it does not start on two cores otherwise

# AutoAWQ needs an older Transformers than the others: both are in a folder of their own (requirements_autoawq.txt).
AUTOAWQ = Path(sys.prefix) / "autoawq"
if sys.argv[1:2] == ["awq int4 g64"]:
    sys.path.insert(0, str(AUTOAWQ))

import torch
import transformers

BITS, GROUP = 4, 64
SEARCH_SECONDS = []  # of AWQ's searches, which most of its time goes to


def sequences(folder, text, nsamples, seqlen):
    """The first tokens of the text, nsamples runs of seqlen."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text.read_text(), add_special_tokens=False)["input_ids"][:nsamples * seqlen]
    assert len(ids) == nsamples * seqlen, "the text is too short"
    return torch.tensor(ids).reshape(nsamples, seqlen), tokenizer


def gptq(folder, ids, tokenizer, output, iters):
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    model = GPTQModel.load(str(folder), QuantizeConfig(bits=BITS, group_size=GROUP, offload_to_disk=False), device="cpu")
    examples = [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in ids]
    model.quantize(examples, batch_size=1, backend=BACKEND.GPTQ_TORCH)
    model.save(str(output))


def timed(function):
    """The same, its seconds added to SEARCH_SECONDS."""
    def run(*arguments, **named):
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            SEARCH_SECONDS.append(time.perf_counter() - start)
    return run


def awq(folder, ids, tokenizer, output, iters):
    from awq import AutoAWQForCausalLM
    from awq.quantize.quantizer import AwqQuantizer
    for search in ("_search_best_scale", "_search_best_clip"):
        setattr(AwqQuantizer, search, timed(getattr(AwqQuantizer, search)))
    model = AutoAWQForCausalLM.from_pretrained(str(folder), device_map="cpu")
    model.quantize(tokenizer, quant_config={"zero_point": True, "q_group_size": GROUP, "w_bit": BITS, "version": "GEMM"},
                   calib_data=ids.tolist(), max_calib_samples=len(ids), max_calib_seq_len=ids.shape[1])
    model.save_quantized(str(output))


def autoround(folder, ids, tokenizer, output, iters):
    from auto_round import AutoRound
    AutoRound(str(folder), tokenizer, scheme="W4A16", group_size=GROUP, iters=iters, nsamples=len(ids), seqlen=ids.shape[1],
              batch_size=8, dataset=[{"input_ids": row[None]} for row in ids], device_map="cpu",
              enable_torch_compile=False).quantize_and_save(str(output), format="auto_round")


# Row of compare.py: the function and the module to import before the clock starts.
PEERS = {name: (function, module)
         for name, function, module in [("gptq int4 g64", gptq, "gptqmodel"), ("awq int4 g64", awq, "awq"),
                                        ("autoround int4 g64", autoround, "auto_round")]
         if importlib.util.find_spec(module) or (AUTOAWQ / module).is_dir()}

if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("\n".join(PEERS))
    else:
        name, folder, text, output = sys.argv[1], *map(Path, sys.argv[2:5])
        nsamples, seqlen, iters, threads = map(int, sys.argv[5:9])
        torch.set_num_threads(threads)
        ids, tokenizer = sequences(folder, text, nsamples, seqlen)
        function, module = PEERS[name]
        importlib.import_module(module)
        wall, cpu = time.perf_counter(), time.process_time()
        function(folder, ids, tokenizer, output, iters)
        print(f"\nseconds: {time.perf_counter() - wall} {time.process_time() - cpu} {sum(SEARCH_SECONDS)}")
