#!/usr/bin/env python3
"""codebooks.py [--bin build/release/bin] [--threads 2] [--size 1024] [CASE ...]: AQLM's and VPTQ's solvers beside their
original arithmetic in PyTorch (codebook_peer.py), on one matrix with the same inputs and settings, in turns. Says wall and
processor seconds of both, so that other load on the machine can be told from slowness. Needs torch; run from the root."""
import argparse
import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

CASES = {
    # name: method, our options, the peer's
    "aqlm-2x8": ("aqlm", {"num_codebooks": 2, "nbits_per_codebook": 8, "max_epochs": 2, "relative_mse_tolerance": -1},
                 {"books": 2, "bits": 8, "epochs": 2}),
    "aqlm-1x12": ("aqlm", {"num_codebooks": 1, "nbits_per_codebook": 12, "max_epochs": 1, "relative_mse_tolerance": -1},
                  {"books": 1, "bits": 12, "epochs": 1}),
    "aqlm-1x16": ("aqlm", {"num_codebooks": 1, "nbits_per_codebook": 16, "max_epochs": 1, "init_max_iter": 10,
                           "relative_mse_tolerance": -1}, {"books": 1, "bits": 16, "epochs": 1, "init_max_iter": 10}),
    "vptq-256": ("vptq", {"num_centroids": "-1,256", "num_res_centroids": "-1,-1", "ktol": 0}, {"centroids": 256}),
    "vptq-4096": ("vptq", {"num_centroids": "-1,4096", "num_res_centroids": "-1,256", "ktol": 0},
                  {"centroids": 4096, "residual": 256}),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--ours", action="store_true", help="without PyTorch's turn")
    parser.add_argument("cases", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    import torch

    import codebook_peer

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(5)
    n = arguments.size
    weight = torch.randn(n, n) * (0.5 + torch.rand(n, 1)) / n**0.5
    x = torch.randn(4096, n) @ (torch.eye(n) + 0.5 * torch.randn(n, n) / n**0.5) * (0.2 + torch.rand(n))
    xtx = x.T @ x / len(x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer"
        path.write_bytes(weight.numpy().tobytes() + xtx.numpy().tobytes())
        for name in arguments.cases:
            method, ours, theirs = CASES[name]
            command = [f"{arguments.bin}/codebook_bench", method, str(n), str(n), path, str(arguments.threads)]
            command += [f"{key}={value}" for key, value in ours.items()]
            mine = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            busy = mine["cpu_seconds"] / mine["seconds"] / arguments.threads
            line = f"{name}: {mine['seconds']:.2f} s, processor {mine['cpu_seconds']:.2f} s ({100 * busy:.0f} % of the threads)"
            if not arguments.ours:
                start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
                error = getattr(codebook_peer, method)(weight, xtx, **theirs)
                seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                line += f"; PyTorch {seconds:.2f} s, processor {cpu:.2f} s: {seconds / mine['seconds']:.1f} x, "
                line += f"{cpu / mine['cpu_seconds']:.1f} x by processor; error {mine['error']:.5f}, PyTorch {error:.5f}"
            else:
                line += f"; error {mine['error']:.5f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
