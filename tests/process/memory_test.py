"""Quantizing streams: on a sharded checkpoint of 2 GB the server's peak memory stays near that of its largest tensor."""
import math
import random
import sys
import time
from pathlib import Path

from quantd_process import ProcessTest, main

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "quantize"))
import make_checkpoint  # noqa: E402

# A matrix as read, as float32 and as written is 3 times its bfloat16 bytes at most; the rest is the process itself.
LIMIT_TIMES, LIMIT_PLUS = 3, 200_000_000
METHODS = {"int4 as safetensors": (["--method", "compressed-tensors", "--bits", 4, "--group-size", 128], "output"),
           "Q8_0 as GGUF": (["--method", "gguf", "--set", "type=Q8_0"], "output.gguf")}


class QuickWeights:
    """Bytes of bfloat16 numbers of either sign between 2^-7 and 2^-5, without NumPy: a block of 8 MiB again and again."""

    def __init__(self):
        numbers = bytearray(8 << 20)
        source = random.Random(1)
        numbers[0::2] = source.randbytes(len(numbers) // 2)
        numbers[1::2] = source.randbytes(len(numbers) // 2).translate(bytes([0x3C, 0xBC] * 128))
        self.block = bytes(numbers)

    def __call__(self, shape):
        size = 2 * math.prod(shape)
        return self.block * (size // len(self.block)) + self.block[:size % len(self.block)]


class MemoryTest(ProcessTest):
    def test_peak_is_near_the_largest_tensor(self):
        largest = make_checkpoint.make(self.root / "source", 2, values=QuickWeights())
        shards = list((self.root / "source").glob("*.safetensors"))
        self.assertGreater(len(shards), 2)
        self.assertGreater(sum(shard.stat().st_size for shard in shards), 1_900_000_000)
        for name, (arguments, output) in METHODS.items():
            with self.subTest(name):
                server = self.start(threads=2)  # a fresh one: the peak is this job's
                begin = time.monotonic()
                server.must("quantize", "source", *arguments, "--output-name", output)
                status = Path(f"/proc/{server.process.pid}/status").read_text()
                peak = 1024 * int(status.split("VmHWM:")[1].split()[0])
                print(f"{name}: peak {peak / 1e6:.0f} MB, {time.monotonic() - begin:.1f} s", file=sys.stderr)
                self.assertLess(peak, LIMIT_TIMES * largest + LIMIT_PLUS)
                self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    main()
