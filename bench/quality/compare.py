#!/usr/bin/env python3
"""compare.py: what each method and bit width costs a model in quality. See README.md."""
import argparse
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quantd_server import Quantd  # noqa: E402

DECODER, ENCODER = "smollm2-135m.gguf", "all-minilm-l6-v2"


def sets(**options):
    return [part for key, value in options.items() for part in ("--set", f"{key}={value}")]


def integers(bits, symmetric):
    return ["--method", "compressed-tensors", "--bits", bits, "--group-size", 64,
            *sets(symmetric="true" if symmetric else "false", strategy="group")]


def calibrated(method, bits, *options):
    return ["--method", method, "--bits", bits, "--group-size", 64, *options]


# auto-round's light preset, with smaller batches: its default takes hours on two cores.
LIGHT = sets(preset="light", batch_size=2)
# Rounds, steps and iterations that end in minutes: the defaults take hours, too. VPTQ's do not.
SHORT_AQLM = sets(max_epochs=2, steps_per_epoch=25, init_max_iter=10, finetune_max_epochs=0)
# Group of rows, label, arguments of `quantctl quantize`; 64 is the largest usual group that divides SmolLM2's 576 columns.
# A row with the argument "--calibration" takes the calibration text.
ROWS = [
    ("8 bits", "round to nearest, per row", ["--method", "compressed-tensors", "--bits", 8, *sets(strategy="channel")]),
    ("8 bits", "LLM.int8", ["--method", "bitsandbytes", "--bits", 8]),
    ("8 bits", "fp8 64x64", ["--method", "fp8", *sets(weight_block_size="64,64")]),
    ("8 bits", "GGUF Q8_0", ["--method", "gguf", *sets(type="Q8_0")]),
    ("4 bits", "round to nearest, symmetric", integers(4, True)),
    ("4 bits", "round to nearest, asymmetric", integers(4, False)),
    ("4 bits", "bitsandbytes NF4", ["--method", "bitsandbytes", "--bits", 4, *sets(bnb_4bit_quant_type="nf4")]),
    ("4 bits", "HQQ", ["--method", "hqq", "--bits", 4, "--group-size", 64]),
    ("4 bits", "GGUF Q4_K_M", ["--method", "gguf", *sets(type="Q4_K_M")]),
    ("4 bits", "GPTQ", [*calibrated("gptq", 4), "--calibration"]),
    ("4 bits", "AWQ", [*calibrated("awq", 4), "--calibration"]),
    ("4 bits", "AutoRound light", [*calibrated("autoround", 4), *LIGHT, "--calibration"]),
    ("3 bits", "round to nearest, symmetric", integers(3, True)),
    ("3 bits", "round to nearest, asymmetric", integers(3, False)),
    ("3 bits", "HQQ", ["--method", "hqq", "--bits", 3, "--group-size", 64]),
    ("3 bits", "GGUF Q3_K_M", ["--method", "gguf", *sets(type="Q3_K_M")]),
    ("3 bits", "GPTQ", [*calibrated("gptq", 3), "--calibration"]),
    ("3 bits", "AutoRound light", [*calibrated("autoround", 3), *LIGHT, "--calibration"]),
    ("3 bits", "SpQR", ["--method", "spqr", "--calibration"]),
    ("2 bits", "round to nearest, symmetric", integers(2, True)),
    ("2 bits", "HQQ", ["--method", "hqq", "--bits", 2, "--group-size", 64]),
    ("2 bits", "GGUF Q2_K", ["--method", "gguf", *sets(type="Q2_K")]),
    ("2 bits", "GPTQ", [*calibrated("gptq", 2), "--calibration"]),
    ("2 bits", "AutoRound light", [*calibrated("autoround", 2), *LIGHT, "--calibration"]),
    ("2 bits", "AQLM 2x8", ["--method", "aqlm", *sets(num_codebooks=2, nbits_per_codebook=8), *SHORT_AQLM, "--calibration"]),
    ("2 bits", "VPTQ", ["--method", "vptq", *sets(vector_lens="-1,6", num_centroids="-1,4096", num_res_centroids="-1,-1"),
                        "--calibration"]),
]


def measure(server, root, source, arguments, texts, tokens):
    """One line of the table, or None and why not."""
    arguments = [part for argument in arguments
                 for part in (texts["calibration"] if argument == "--calibration" else (argument,))]
    output = "quality-output.gguf" if "gguf" in arguments else "quality-output"
    try:
        before = server.processor_seconds()
        report, error = server.try_ctl("quantize", source, *arguments, "--output-name", output, "--overwrite")
        spent = server.processor_seconds() - before
        if report is None:
            return None, error
        server.ctl("load", output)
        result = server.ctl("evaluate", output, "--text", texts["evaluation"], "--reference", source, "--max-tokens", tokens)
        server.ctl("unload", output)
        path = root / output
        size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        return {"size": size, "bits": report["bits_per_weight"], "seconds": spent,
                **result}, ""
    finally:
        path = root / output
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def print_row(label, row):
    if "mean_cosine" in row:
        quality = f"{row['mean_cosine']:.5f}"
    else:
        quality = (f"{row['perplexity']:.2f} | {row.get('mean_kl_divergence', 0):.4f} | "
                   f"{100 * row.get('top1_agreement', 1):.1f} %")
    print(f"| {label} | {row['size'] / 1e6:.1f} | {row['bits']:.2f} | {quality} | {row['seconds']:.1f} |", flush=True)


def table(server, root, source, options, texts):
    decoder = source == DECODER
    print(f"\n{source}\n\n| method | MB | bits per weight | "
          + ("perplexity | KL divergence | top-1 agreement" if decoder else "cosine") + " | processor seconds |")
    print("|---|---|---|---|---|" + ("---|---|" if decoder else ""), flush=True)
    server.ctl("load", source)
    if decoder:
        plain = server.ctl("evaluate", source, "--text", texts["evaluation"], "--max-tokens", options.tokens)
        print(f"| source | {(root / source).stat().st_size / 1e6:.1f} | | {plain['perplexity']:.2f} | | | |")
    for group, label, arguments in ROWS:
        name = f"{group}, {label}"
        if not re.search(options.only, name):
            continue
        row, error = measure(server, root, source, arguments, texts, options.tokens)
        if row is None:
            print(f"{name}: {error}", file=sys.stderr)
        else:
            print_row(name, row)
    server.ctl("unload", source)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="model root with the two models of scripts/fetch_models.py")
    parser.add_argument("--calibration", type=Path, required=True, help="text that the calibrated methods see")
    parser.add_argument("--evaluation", type=Path, required=True, help="another text")
    parser.add_argument("--tokens", type=int, default=20_000, help="of the evaluation text")
    parser.add_argument("--nsamples", type=int, default=32, help="calibration sequences")
    parser.add_argument("--seqlen", type=int, default=512, help="tokens of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--models", default=f"{DECODER},{ENCODER}")
    parser.add_argument("--only", default="", help="rows whose name matches this regular expression")
    options = parser.parse_args()
    calibration = ("--calibration", options.calibration.resolve(), "--nsamples", options.nsamples, "--seqlen", options.seqlen)
    texts = {"calibration": calibration, "evaluation": options.evaluation.resolve()}
    with Quantd(options.bin.resolve(), options.root.resolve(), options.threads) as server:
        for source in options.models.split(","):
            table(server, options.root.resolve(), source, options, texts)


if __name__ == "__main__":
    main()
