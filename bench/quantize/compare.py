#!/usr/bin/env python3
"""compare.py: seconds and GB/s of quantizing a checkpoint, ours beside the upstream Python library. See README.md."""
import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import make_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from quantd_server import Quantd  # noqa: E402

AWQ = "awq int4 g64"
# The same for calibrated methods; peers in upstream_calibrated.py. {iters} is the option's.
CALIBRATED = [
    ("gptq int4 g64", ["--method", "gptq", "--bits", "4", "--group-size", "64"]),
    (AWQ, ["--method", "awq", "--bits", "4", "--group-size", "64"]),
    ("autoround int4 g64", ["--method", "autoround", "--bits", "4", "--group-size", "64", "--set", "iters={iters}"]),
]

HERE = Path(__file__).resolve().parent
# Name (that of the peer in upstream.py, where there is one) and the arguments of `quantctl quantize`.
METHODS = [
    ("bitsandbytes nf4", ["--method", "bitsandbytes", "--set", "bnb_4bit_quant_type=nf4"]),
    ("bitsandbytes int8", ["--method", "bitsandbytes", "--bits", "8"]),
    ("compressed-tensors int4 g128", ["--method", "compressed-tensors", "--bits", "4", "--group-size", "128"]),
    ("fp8 128x128", ["--method", "fp8"]),
    ("gguf Q8_0", ["--method", "gguf", "--set", "type=Q8_0"]),
    ("gguf Q4_0", ["--method", "gguf", "--set", "type=Q4_0"]),
    ("gguf Q4_K_M", ["--method", "gguf", "--set", "type=Q4_K_M"]),
    ("quanto int4 g128", ["--method", "quanto", "--set", "weights=int4"]),
    ("hqq int4 g64", ["--method", "hqq", "--bits", "4", "--group-size", "64"]),
    ("torchao int8", ["--method", "torchao", "--set", "quant_type=Int8WeightOnlyConfig"]),
]


def ours(binaries, root, model, arguments, threads):
    """Seconds, peak bytes; None where this build lacks the method. A fresh server, so that the peak is that job's."""
    output = "bench-output.gguf" if "gguf" in arguments else "bench-output"
    try:
        with Quantd(binaries, root, threads) as server:
            done, error = server.try_ctl("quantize", model, *arguments, "--output-name", output, "--overwrite")
            if done is None:
                print(error, file=sys.stderr)
                return None
            return float(done["elapsed"].rstrip("s")), server.peak_bytes()
    finally:
        path = root / output
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def theirs(python, name, folder, threads):
    with tempfile.NamedTemporaryFile(suffix=".safetensors", dir=folder.parent) as output:
        done = subprocess.run([python, HERE / "upstream.py", name, folder, output.name, str(threads)], capture_output=True, text=True)
        return float(done.stdout.split()[-1]) if not done.returncode else None


def ours_calibrated(options, arguments):
    """Wall and processor seconds of the job, through a fresh server."""
    arguments = [argument.format(iters=options.iters) for argument in arguments]
    try:
        with Quantd(options.bin.resolve(), options.work.resolve(), options.threads) as server:
            before = server.processor_seconds()
            done = server.ctl("quantize", options.calibrated, *arguments, "--calibration", options.text.resolve(), "--nsamples",
                              options.nsamples, "--seqlen", options.seqlen, "--output-name", "bench-output", "--overwrite")
            return float(done["elapsed"].rstrip("s")), server.processor_seconds() - before
    finally:
        shutil.rmtree(options.work / "bench-output", ignore_errors=True)


def theirs_calibrated(options, name):
    with tempfile.TemporaryDirectory(dir=options.work) as output:
        done = subprocess.run(
            [Path(options.python).absolute(), HERE / "upstream_calibrated.py", name, (options.work / options.calibrated).resolve(),
             options.text.resolve(), output, *map(str, (options.nsamples, options.seqlen, options.iters, options.threads))],
            capture_output=True, text=True, cwd=output)  # GPTQModel writes logs where it stands
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1], file=sys.stderr)
        return None
    # The libraries draw progress bars on the same stream.
    return tuple(map(float, done.stdout.rpartition("seconds: ")[2].split()[:3]))


def compare_calibrated(options):
    peers = subprocess.run([options.python, HERE / "upstream_calibrated.py"], capture_output=True, text=True).stdout.splitlines()
    print(f"{options.calibrated}, {options.nsamples} sequences of {options.seqlen} tokens, {options.threads} threads; seconds of "
          "the whole job, of the wall clock and of the processor")
    print(f"{'':20} {'ours':>8} {'cpu':>8} {'busy':>5} {'upstream':>9} {'cpu':>8} {'ratio':>7} {'of cpu':>7}")
    for name, arguments in CALIBRATED:
        if options.only not in name:
            continue
        wall, cpu = ours_calibrated(options, arguments)
        line = f"{name:20} {wall:8.2f} {cpu:8.2f} {cpu / wall / options.threads:5.0%}"
        other = theirs_calibrated(options, name) if name in peers else None
        if other:
            line += f" {other[0]:9.2f} {other[1]:8.2f} {other[0] / wall:6.1f}x {other[1] / cpu:6.1f}x"
        print(line, flush=True)
        if name == AWQ and other:
            search = awq_search_seconds(options, arguments)
            print(f"{'  its searches':20} {search:8.2f} {'':8} {'':5} {other[2]:9.2f} {'':8} {other[2] / search:6.1f}x", flush=True)


def awq_search_seconds(options, arguments):
    """What the job takes less without its search for scales, and without that for clips; of each the faster of two runs, since
    these are differences of short times."""
    def fastest(*more):
        return min(ours_calibrated(options, [*arguments, *more])[0] for _ in range(2))

    whole = fastest()
    return sum(whole - fastest("--set", f"apply_{search}=false") for search in ("scale", "clip"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint and the outputs")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the upstream libraries")
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calibrated", metavar="MODEL",
                        help="a checkpoint folder below --work: measure the calibrated methods on it instead")
    parser.add_argument("--text", type=Path, help="calibration text of --calibrated")
    parser.add_argument("--nsamples", type=int, default=8)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--iters", type=int, default=50, help="of AutoRound")
    parser.add_argument("--only", default="", help="measure methods whose name contains this")
    options = parser.parse_args()
    if options.calibrated:
        if not options.text:
            parser.error("--calibrated needs --text")
        compare_calibrated(options)
        return
    model = f"random-{options.gigabytes:g}gb"
    folder = options.work / model
    if not folder.exists():
        make_checkpoint.make(folder, options.gigabytes)
    size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    peers = subprocess.run([options.python, HERE / "upstream.py"], capture_output=True, text=True).stdout.splitlines()
    print(f"{size / 1e9:.2f} GB of bf16, {options.threads} threads; GB/s of weights read, from disk to disk")
    print(f"{'':30} {'ours':>7} {'upstream':>9} {'ratio':>7} {'peak MB':>8}")
    for name, arguments in METHODS:
        if options.only not in name:
            continue
        measured = ours(options.bin.resolve(), options.work.resolve(), model, arguments, options.threads)
        if measured is None:
            continue
        seconds, peak = measured
        other = theirs(options.python, name, folder.resolve(), options.threads) if name in peers else None
        compared = f"{size / other / 1e9:9.3f} {other / seconds:6.1f}x" if other else f"{'-':>9} {'-':>7}"
        print(f"{name:30} {size / seconds / 1e9:7.3f} {compared} {peak / 1e6:8.0f}", flush=True)


if __name__ == "__main__":
    main()
