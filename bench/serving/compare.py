#!/usr/bin/env python3
"""compare.py: quantd beside llama.cpp, in one run. See README.md."""
import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import peer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quantd_server import Quantd  # noqa: E402

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
SOURCE = "smollm2-135m.gguf"
# Label, output, arguments of `quantctl quantize`, whether llama.cpp reads it.
VARIANTS = [
    ("Q8_0", "bench-q8_0.gguf", ["--method", "gguf", "--set", "type=Q8_0"], True),
    ("Q4_0", "bench-q4_0.gguf", ["--method", "gguf", "--set", "type=Q4_0"], True),
    ("Q4_K_M", "bench-q4_k_m.gguf", ["--method", "gguf", "--set", "type=Q4_K_M"], True),
    ("int4 g128/64", "bench-w4a16", ["--quantization-config", str(EXAMPLES / "smollm2-w4a16.json")], False),
]
PREFILL_TOKENS, DECODE_TOKENS, ROUNDS = 512, 128, 5


class Server(Quantd):
    def generate(self, model, prompt, tokens):
        return self.ctl("generate", model, prompt, "--raw", "--max-tokens", tokens, "--ignore-eos")["usage"]

    def prefill(self, model, prompt):
        usage = self.generate(model, prompt, 1)
        return usage["prompt_tokens"] / usage["prefill_seconds"]

    def decode(self, model, prompt, tokens):
        usage = self.generate(model, prompt, tokens)
        # The first token comes with the prefill.
        return (usage["generated_tokens"] - 1) / usage["decode_seconds"]


def prompt_of(server, tokens):
    """A text of about `tokens` tokens, and those tokens."""
    words = (EXAMPLES / "evaluation.txt").read_text().split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        count = len(server.ctl("tokenize", SOURCE, " ".join(words[:middle]))["ids"])
        low, high = (middle, high) if count <= tokens else (low, middle - 1)
    text = " ".join(words[:low])
    return text, server.ctl("tokenize", SOURCE, text)["ids"]


def measure(server, root, variant, prompts, threads):
    label, output, arguments, has_peer = variant
    report = server.ctl("quantize", SOURCE, *arguments, "--output-name", output, "--overwrite")
    before = server.resident_bytes()
    start = time.perf_counter()
    model = server.ctl("load", output)
    load_seconds = time.perf_counter() - start
    resident = server.resident_bytes() - before
    other = peer.Peer(root / output, threads) if has_peer and peer.llama_cpp else None
    (long_text, long_ids), (short_text, short_ids) = prompts
    samples = {"prefill": [], "decode": [], "peer_prefill": [], "peer_decode": []}
    for _ in range(ROUNDS):
        samples["prefill"].append(server.prefill(output, long_text))
        if other:
            samples["peer_prefill"].append(other.prefill(long_ids))
        samples["decode"].append(server.decode(output, short_text, DECODE_TOKENS))
        if other:
            samples["peer_decode"].append(other.decode(short_ids, DECODE_TOKENS))
    if other:
        other.close()
    quality = server.ctl("evaluate", output, "--text", EXAMPLES / "evaluation.txt")
    server.ctl("unload", output)
    row = {name: statistics.median(values) if values else None for name, values in samples.items()}
    return row | {
        "label": label, "quantize_seconds": float(report["elapsed"].rstrip("s")),
        "quantize_peak_bytes": int(report["peak_memory_bytes"]), "load_seconds": load_seconds,
        "resident_bytes": resident, "weight_bytes": int(model["memory"]["weight_bytes"]), "perplexity": quality["perplexity"]}


def shown(row, bandwidth):
    def rate(ours, theirs):
        return f"{ours:8.1f} {theirs or 0:8.1f} {f'{ours / theirs:5.2f}x' if theirs else '     -'}"
    share = f"{100 * row['decode'] * row['weight_bytes'] / bandwidth:4.0f} %" if bandwidth else "   - "
    return (f"{row['label']:13} {rate(row['decode'], row['peer_decode'])} {share}  {rate(row['prefill'], row['peer_prefill'])}  "
            f"{row['quantize_seconds']:6.2f} {row['quantize_peak_bytes'] / 1e6:6.0f} {row['load_seconds']:6.2f} "
            f"{row['weight_bytes'] / 1e6:6.0f} {row['resident_bytes'] / 1e6:6.0f} {row['perplexity']:8.3f}")


def read_bandwidth(binaries, threads):
    """Bytes per second of plain reads, from the kernel benchmark, or None when it was not built."""
    program = binaries / "linear_bench"
    if not program.exists():
        return None
    done = subprocess.run([program, "--bandwidth", str(threads)], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout) * 1e9


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    root = options.root.resolve()
    with Server(options.bin.resolve(), root, options.threads) as server:
        prompts = [prompt_of(server, PREFILL_TOKENS), prompt_of(server, 16)]
        bandwidth = read_bandwidth(options.bin.resolve(), options.threads)
        rows = [measure(server, root, variant, prompts, options.threads) for variant in VARIANTS]
    print(f"SmolLM2-135M, {options.threads} threads; tokens/s are medians of {ROUNDS} interleaved rounds: ours, llama.cpp, ratio.")
    if bandwidth:
        print(f"Read bandwidth {bandwidth / 1e9:.1f} GB/s; the share is decode's weight traffic of it.")
    print(f"{'':13} {'decode':>24} {'roof':>6}  {'prefill ' + str(len(prompts[0][1])):>24}  "
          f"{'quant s':>7} {'peak MB':>6} {'load s':>6} {'wts MB':>6} {'RSS MB':>6} {'ppl':>8}")
    for row in rows:
        print(shown(row, bandwidth))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
