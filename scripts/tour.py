#!/usr/bin/env python3
"""tour.py --bin DIR --root DIR [PROMPT]: what quantd does, on two real models, through a real server.

Starts quantd on free ports, quantizes SmolLM2-135M four ways and MiniLM once, streams an answer, embeds two sentences,
and prints a table. Finished outputs and their measurements are kept, so a second run is quick.
"""
import argparse
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEXT = HERE.parent / "examples" / "evaluation.txt"
SOURCE = "smollm2-135m.gguf"
ENCODER = "all-minilm-l6-v2"
DEFAULT_PROMPT = "What is gravity? Answer in one short paragraph."
SENTENCES = ["A cat sleeps on the warm windowsill.", "A kitten is napping in the sun."]

# Label, source model, output name, arguments of `quantctl quantize`. 128 does not divide SmolLM2's hidden size 576, so
# the int4 recipe uses groups of 128 where they fit (down_proj) and of 64 elsewhere.
RECIPES = [
    ("GGUF Q8_0", SOURCE, "smollm2-q8_0.gguf", ["--method", "gguf", "--set", "type=Q8_0"]),
    ("GGUF Q4_K", SOURCE, "smollm2-q4_k.gguf", ["--method", "gguf", "--set", "type=Q4_K"]),
    ("compressed-tensors int4 g128/64", SOURCE, "smollm2-w4a16",
     ["--quantization-config", str(HERE.parent / "examples" / "smollm2-w4a16.json")]),
    ("bitsandbytes NF4", SOURCE, "smollm2-nf4",
     ["--method", "bitsandbytes", "--bits", "4", "--set", "bnb_4bit_quant_type=nf4"]),
    ("compressed-tensors int8", ENCODER, "minilm-int8",
     ["--method", "compressed-tensors", "--bits", "8", "--set", "strategy=channel"]),
]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """quantd for the time of a `with` block; its log goes beside the model root."""

    def __init__(self, binaries: Path, root: Path):
        self.binaries, self.address = binaries, f"127.0.0.1:{free_port()}"
        self.log = open(root.parent / ".cache" / "quantd.log", "w")
        self.process = subprocess.Popen(
            [binaries / "quantd", "--model-root", root, "--listen", self.address,
             "--metrics-listen", f"127.0.0.1:{free_port()}"], stdout=self.log, stderr=self.log)

    def ctl(self, *args, show=False) -> dict:
        """One quantctl call. Without `show`, its JSON document."""
        command = [self.binaries / "quantctl", "--server", self.address]
        if show:
            subprocess.run([*command, *args], check=True)
            return {}
        done = subprocess.run([*command, "--output", "json", *args], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"quantctl {' '.join(map(str, args))} failed with exit code {done.returncode}")
        return json.loads(done.stdout) if done.stdout else {}

    def __enter__(self):
        for _ in range(100):
            if subprocess.run([self.binaries / "quantctl", "--server", self.address, "status"],
                              capture_output=True).returncode == 0:
                return self
            if self.process.poll() is not None:
                break
        sys.exit(f"quantd did not start; its log: {self.log.name}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(40)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def evaluate(server: Server, model: str, reference: str) -> dict:
    text = TEXT
    if reference == ENCODER:  # one sentence per line
        text = TEXT.parent.parent / ".cache" / "sentences.txt"
        text.parent.mkdir(exist_ok=True)
        text.write_text(TEXT.read_text().replace("\n\n", " ").replace(". ", ".\n"))
    server.ctl("load", reference)
    if model != reference:
        server.ctl("load", model)
    arguments = ["--reference", reference] if model != reference else []
    result = server.ctl("evaluate", model, "--text", text, *arguments)
    if model != reference:
        server.ctl("unload", model)
    return result


def measure(server: Server, root: Path, recipe) -> dict:
    """Quantizes unless it was done before, then evaluates; both are remembered."""
    label, source, output, arguments = recipe
    memory = root.parent / ".cache" / "tour" / f"{output}.json"
    if memory.exists() and (root / output).exists():
        return json.loads(memory.read_text())
    print(f"\n$ quantctl quantize {source} {' '.join(arguments)} --output-name {output}", file=sys.stderr)
    report = server.ctl("quantize", source, *arguments, "--output-name", output, "--overwrite")
    row = {"label": label, "report": report, "quality": evaluate(server, output, source)}
    memory.parent.mkdir(parents=True, exist_ok=True)
    memory.write_text(json.dumps(row))
    return row


def source_row(server: Server, root: Path) -> list:
    memory = root.parent / ".cache" / "tour" / "source.json"
    if not memory.exists():
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps(evaluate(server, SOURCE, SOURCE)))
    quality = json.loads(memory.read_text())
    bits = server.ctl("inspect", SOURCE)["model"]["bits_per_weight"]
    return [f"{SOURCE} (source)", f"{size_of(root / SOURCE) / 1e6:.1f} MB", f"{bits:.2f}", "-", "-",
            f"ppl {quality['perplexity']:.3f}"]


def table_row(root: Path, recipe, row: dict) -> list:
    report, quality = row["report"], row["quality"]
    shown = (f"ppl {quality['perplexity']:.3f}, KL {quality['mean_kl_divergence']:.4f}"
             if quality.get("perplexity") else f"cosine {quality['mean_cosine']:.5f}")
    return [recipe[0] if recipe[1] == SOURCE else f"MiniLM {recipe[0]}",
            f"{size_of(root / recipe[2]) / 1e6:.1f} MB", f"{report['bits_per_weight']:.2f}",
            f"{float(report['elapsed'].rstrip('s')):.1f}", f"{int(report['peak_memory_bytes']) / 1e6:.0f} MB", shown]


def print_table(rows: list):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT)
    options = parser.parse_args()
    root, binaries = options.root.resolve(), options.bin.resolve()
    (root.parent / ".cache").mkdir(exist_ok=True)
    started = time.monotonic()
    with Server(binaries, root) as server:
        rows = [["method", "size", "bits/weight", "seconds", "peak memory", "quality"], source_row(server, root)]
        rows += [table_row(root, recipe, measure(server, root, recipe)) for recipe in RECIPES]
        chat = "smollm2-q8_0.gguf"
        server.ctl("load", chat)
        print(f"\n$ quantctl generate {chat} {options.prompt!r}\n", flush=True)
        server.ctl("generate", chat, options.prompt, "--max-tokens", "120", show=True)
        server.ctl("load", "minilm-int8")
        print(f"\n$ quantctl embed minilm-int8 {' '.join(map(repr, SENTENCES))}\n", flush=True)
        server.ctl("embed", "minilm-int8", *SENTENCES, show=True)
    print()
    print_table(rows)
    print(f"\n{time.monotonic() - started:.1f} s; perplexity and KL divergence on {TEXT.name}, against the source model.")


if __name__ == "__main__":
    main()
