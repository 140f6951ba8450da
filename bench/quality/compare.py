#!/usr/bin/env python3
"""compare.py: what each method and bit width costs a model in quality. See README.md."""
import argparse
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quantd_server import Quantd  # noqa: E402
from rows import ROWS  # noqa: E402

DECODER, ENCODER = "smollm2-135m.gguf", "all-minilm-l6-v2"


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
