#!/usr/bin/env python3
"""linear_algebra_bench.py [SIZE] [THREADS]: our products and factorizations beside numpy's, whose
BLAS is OpenBLAS, in turns on the same machine. Needs numpy and scipy; run from the project's root."""
import json, os, subprocess, sys, time

size = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
threads = sys.argv[2] if len(sys.argv) > 2 else "1"
os.environ["OPENBLAS_NUM_THREADS"] = threads
import numpy as np
from scipy.linalg import lapack


def least(work):
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def theirs():
    x = np.random.default_rng(1).uniform(-1, 1, (2048, size)).astype(np.float32)
    gram = x.T @ x + 1000 * np.eye(size, dtype=np.float32)
    a, b = x[:, :128].repeat(max(1, size // 2048), 0)[:size].copy(), x[:128]
    c = gram.copy()

    def update():
        np.add(c, a @ b, out=c[: len(a)]) if len(a) == size else a @ b

    def factor():  # as GPTQ does it upstream
        low, _ = lapack.spotrf(gram, lower=1)
        inverse, _ = lapack.spotri(low, lower=1)
        lapack.spotrf(inverse + np.tril(inverse, -1).T, lower=0)

    z = x.copy()  # numpy would see that x.T @ x is symmetric and do half of it
    return {"product": least(lambda: x.T @ z), "update": least(update),
            "cholesky": least(lambda: lapack.spotrf(gram, lower=1)), "factor_of_inverse": least(factor)}


bench = ["build/release/bin/linear_algebra_bench", str(size), threads]
for turn in range(3):
    reference = theirs()
    for line in subprocess.run(bench, capture_output=True, text=True, check=True).stdout.splitlines():
        ours = json.loads(line)
        ratio = reference[ours["what"]] / ours["seconds"]
        print(f'{ours["what"]}: {ours["seconds"]:.3f} s, {ours["gflops"]:.1f} GFLOP/s, {ratio:.2f} x numpy\'s speed')
