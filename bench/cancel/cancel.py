#!/usr/bin/env python3
"""cancel.py: seconds from CancelOperation to an operation that is over and has left nothing, by method. See README.md."""
import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1]
sys.path += [str(BENCH), str(BENCH / "quantize"), str(BENCH.parent / "tests" / "process")]
import checkpoints  # noqa: E402
import make_checkpoint  # noqa: E402
from quantd_server import Quantd  # noqa: E402

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 4096, 11008, 32, 32000
CALIBRATED = ["--nsamples", "8", "--seqlen", "256"]
# Name, the arguments of `quantctl quantize`, whether it is given the text.
METHODS = [
    ("bitsandbytes nf4", ["--method", "bitsandbytes", "--set", "bnb_4bit_quant_type=nf4"], False),
    ("gguf Q4_K", ["--method", "gguf", "--set", "type=Q4_K"], False),
    ("hqq", ["--method", "hqq"], False),
    ("gptq", ["--method", "gptq"], True),
    ("awq", ["--method", "awq"], True),
    ("autoround", ["--method", "autoround"], True),
    ("spqr", ["--method", "spqr"], True),
    ("aqlm", ["--method", "aqlm"], True),
    ("vptq", ["--method", "vptq"], True),
]
MODEL, OUTPUT = "one-layer", "cancelled"


class RandomWeights:
    """Bfloat16 matrices of magnitudes from 2^-9 to 2^-5, norms of ones; the same in every run."""

    HIGH = bytes((0x3B, 0x3C, 0xBB, 0xBC)[i % 4] for i in range(256))

    def __init__(self):
        self.random = random.Random(1)

    def row(self, columns):
        values = bytearray(2 * columns)
        values[0::2], values[1::2] = self.random.randbytes(columns), self.random.randbytes(columns).translate(self.HIGH)
        return bytes(values)

    def __call__(self, shape):
        if len(shape) == 1:
            return b"\x80\x3f" * shape[0]
        # Of every hundred rows one is made, the others are that one turned: quick without numpy.
        rows, made = [], b""
        for i in range(shape[0]):
            if i % 100 == 0:
                made = self.row(shape[1])
            turn = 2 * (i % 100) * (shape[1] // 128)
            rows.append(made[turn:] + made[:turn])
        return b"".join(rows)


def make_model(folder):
    matrices = {"lm_head": (VOCABULARY, HIDDEN), "model.embed_tokens": (VOCABULARY, HIDDEN), "model.norm": (HIDDEN,)}
    layer = {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,), "mlp.down_proj": (HIDDEN, INTERMEDIATE),
             "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN)}
    layer |= {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes = [(f"{name}.weight", shape) for name, shape in matrices.items()]
    shapes += [(f"model.layers.0.{name}.weight", shape) for name, shape in layer.items()]
    folder.mkdir(parents=True)
    make_checkpoint.write_shard(folder / "model.safetensors", shapes, RandomWeights())
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "hidden_act": "silu", "torch_dtype": "bfloat16"}))
    checkpoints.add_tokenizer(folder)


def make_text(path):
    path.write_text("".join(f"the {i} quick brown foxes jump over {i * i} lazy dogs. " for i in range(2000)))


def left(root):
    return [path for path in root.iterdir() if OUTPUT in path.name]


def clear(root):
    for path in left(root):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


class Job:
    """A quantization in a server, and somebody who waits for its end."""

    def __init__(self, server, root, arguments):
        self.server, self.root, self.begun = server, root, time.monotonic()
        name = OUTPUT + (".gguf" if "gguf" in arguments else "")
        self.name = server.ctl("quantize", MODEL, *arguments, "--output-name", name, "--detach")["name"]
        self.watcher = subprocess.Popen([server.binaries / "quantctl", "--server", server.address, "--output", "json", "operations",
                                         "watch", self.name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def ends_within(self, seconds):
        """The operation as it then is, or None."""
        try:
            return json.loads(self.watcher.communicate(timeout=max(0, self.begun + seconds - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            return None

    def phase(self):
        done = self.server.try_ctl("operations", "get", self.name)[0] or {}
        progress = done.get("metadata", {}).get("progress", {})
        return f"{progress.get('tensors_done', 0)}/{progress.get('tensors_total', 0)} {progress.get('current_tensor', '')}"

    def cancel(self):
        """Seconds until it is over and nothing of it is left."""
        begin = time.monotonic()
        self.server.ctl("operations", "cancel", self.name)
        end = self.ends_within(1e6)
        if end["metadata"]["state"] != "CANCELLED":
            return None
        while left(self.root):
            time.sleep(0.005)
        return time.monotonic() - begin


def cancelled(server, root, arguments, delay):
    """Of a job that is cancelled after `delay` seconds: how long it ran, and (seconds, delay, phase) unless it was over by then."""
    job, found = Job(server, root, arguments), None
    if job.ends_within(delay) is None:
        at, phase = time.monotonic() - job.begun, job.phase()
        seconds = job.cancel()
        found = (seconds, at, phase) if seconds is not None else None
    ran = time.monotonic() - job.begun
    clear(root)
    return ran, found


def measure(server, root, arguments, options):
    """What was found, and the seconds over which the delays are spread."""
    ran, whole = cancelled(server, root, arguments, options.within)
    found, span = [whole] if whole else [], min(options.within, ran)
    for i in range(3 * options.cancels):
        if len(found) == options.cancels:
            break
        # Multiples of the golden ratio's fraction are even over every stretch of them.
        ran, one = cancelled(server, root, arguments, span * ((i + 0.5) * 0.618034 % 1))
        if one is None:  # quicker than the first
            span = min(span, ran)
            continue
        found.append(one)
        if options.verbose:
            print("    %5.2f s after %5.1f s at %s" % one, file=sys.stderr, flush=True)
    return found, span


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a model root; the checkpoint is made there if it is not there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cancels", type=int, default=12, help="of each method")
    parser.add_argument("--within", type=float, default=150, help="seconds; jobs that take longer are cancelled in the first of them")
    parser.add_argument("--only", help="methods whose name holds it")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    root = options.work.resolve()
    if not (root / MODEL).exists():
        make_model(root / MODEL)
    text = root / "cancel-text.txt"
    make_text(text)
    clear(root)
    print("| method | worst | median | cancels | over | at the worst |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for name, arguments, calibrated in METHODS:
        if options.only and options.only not in name:
            continue
        if calibrated:
            arguments = [*arguments, *CALIBRATED, "--calibration", text]
        with Quantd(options.bin.resolve(), root, options.threads) as server:
            found, span = measure(server, root, arguments, options)
        if not found:
            print(f"| {name} | - | - | 0 | {span:.0f} s | |", flush=True)
            continue
        worst = max(found)
        median = statistics.median(seconds for seconds, _, _ in found)
        print(f"| {name} | {worst[0]:.2f} s | {median:.2f} s | {len(found)} | {span:.0f} s | {worst[1]:.1f} s: {worst[2]} |", flush=True)


if __name__ == "__main__":
    main()
