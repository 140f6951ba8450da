"""Broken GGUF files, sent through a running server."""
import struct

from hostile import HostileTest, main

U32, STRING, ARRAY, BOOL = 4, 8, 9, 7
BIG = 2**63


def text(value, length=None):
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(value) if length is None else length) + value


def pair(key, kind, payload):
    return text(key) + struct.pack("<i", kind) + payload


def tensor(name="w", dims=(32, 2), kind=0, offset=0, n_dims=None):
    packed = b"".join(struct.pack("<Q", d % 2**64) for d in dims)
    return text(name) + struct.pack("<I", len(dims) if n_dims is None else n_dims) + packed + struct.pack("<iQ", kind, offset)


def gguf(pairs=(), tensors=(), version=3, n_pairs=None, n_tensors=None, data=256, magic=b"GGUF"):
    count = lambda items, given: (len(items) if given is None else given) % 2**64
    head = magic + struct.pack("<IQQ", version, count(tensors, n_tensors), count(pairs, n_pairs))
    head += pair("general.architecture", STRING, text("llama"))[:0] + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + bytes(data)


def array(kind, count, payload=b""):
    return struct.pack("<iQ", kind, count % 2**64) + payload


ONE = tensor()
ARCH = pair("general.architecture", STRING, text("llama"))
VALID = gguf([ARCH], [ONE])
FILES = {
    "empty": b"", "magic": gguf(magic=b"GGML"), "reversed": gguf(magic=b"FUGG"), "zip": b"PK\x03\x04" + bytes(60),
    "safetensors": struct.pack("<Q", 2) + b"{}", **{f"cut-{n}": VALID[:n] for n in (3, 4, 7, 12, 20, 24, 30, 50, 70, 90)},
    **{f"version-{v}": gguf([ARCH], [ONE], version=v) for v in (0, 1, 4, 2**32 - 1, 3 << 24)},
    **{f"pairs-{i}": gguf([ARCH], [ONE], n_pairs=n) for i, n in enumerate((-1, BIG - 1, 2**58, 10**9, 2**61 + 1))},
    **{f"tensors-{i}": gguf([ARCH], [ONE], n_tensors=n) for i, n in enumerate((-1, BIG - 1, 2**58, 10**9, 2**61 + 1))},
    **{f"key-{i}": gguf([text("k", n) + struct.pack("<iI", U32, 1)]) for i, n in enumerate((2**64 - 1, BIG, 2**30, 2**64 - 20))},
    **{f"value-{i}": gguf([pair("k", STRING, text("v", n))]) for i, n in enumerate((2**64 - 1, BIG, 2**30, 2**64 - 20))},
    **{f"element-{i}": gguf([pair("k", ARRAY, array(STRING, 1, text("v", n)))]) for i, n in enumerate((2**64 - 1, BIG, 2**30))},
    **{f"name-{i}": gguf([ARCH], [text("w", n) + ONE[9:]]) for i, n in enumerate((2**64 - 1, BIG, 2**30))},
    "key-empty": gguf([pair("", U32, bytes(4))]), "key-twice": gguf([ARCH, ARCH], [ONE]), "name-twice": gguf([ARCH], [ONE, tensor(offset=256)], data=512),
    "name-long": gguf([ARCH], [tensor("n" * 65)]), "name-nul": gguf([ARCH], [ONE, tensor("w\0x", offset=256)], data=512),
    **{f"type-{i}": gguf([pair("k", kind, bytes(16))]) for i, kind in enumerate((13, -1))},
    **{f"array-type-{i}": gguf([pair("k", ARRAY, array(kind, 1, bytes(16)))]) for i, kind in enumerate((13, ARRAY))},
    "architecture-number": gguf([pair("general.architecture", U32, bytes(4))], [ONE]),
    "architecture-unknown": gguf([pair("general.architecture", STRING, text("nonsense"))], [ONE]), "architecture-none": gguf([], [ONE]),
    **{f"count-{i}": gguf([pair("k", ARRAY, array(10, n))]) for i, n in enumerate((-1, 2**61, 10**9))},
    "deep": gguf([pair("k", ARRAY, array(ARRAY, 1) * 4000)]),
    **{f"alignment-{i}": gguf([ARCH, pair("general.alignment", U32, struct.pack("<I", n))], [ONE]) for i, n in enumerate((0, 13, 2**31))},
    "alignment-type": gguf([ARCH, pair("general.alignment", STRING, text("32"))], [ONE]),
    "alignment-huge": gguf([ARCH, pair("general.alignment", 10, struct.pack("<Q", BIG))], [ONE]),
    "dims-5": gguf([ARCH], [tensor(dims=(1,) * 5)]), "dims-many": gguf([ARCH], [tensor(n_dims=2**32 - 1)]), "dim-negative": gguf([ARCH], [tensor(dims=(-1, 2))]),
    "dim-zero": gguf([ARCH], [tensor(dims=(0, 2), kind=2)]), "product": gguf([ARCH], [tensor(dims=(2**32, 2**32))]),
    "bytes": gguf([ARCH], [tensor(dims=(2**62, 1))]), "sum": gguf([ARCH], [tensor("a", (2**60, 1)), tensor("b", (2**60, 1), offset=2**62)]),
    "block": gguf([ARCH], [tensor(dims=(33, 2), kind=2)]), **{f"ggml-type-{k}": gguf([ARCH], [tensor(kind=k)]) for k in (4, 5, 99, -1)},
    "offset-past": gguf([ARCH], [tensor(offset=4096)]), "offset-odd": gguf([ARCH], [tensor(offset=8)]), "offset-wraps": gguf([ARCH], [tensor(offset=2**64 - 32)]),
    "overlap": gguf([ARCH], [ONE, tensor("x", offset=128)], data=512), "size": gguf([ARCH], [tensor(dims=(32, 2000))]),
    # A valid container of no model.
    "no-keys": VALID,
}


class HostileGgufTest(HostileTest):
    def test_files(self):
        for name, content in FILES.items():
            with self.subTest(name):
                (self.root / "bad.gguf").write_bytes(content)
                self.refuse("bad.gguf", verbs=("load", "quantize"))


if __name__ == "__main__":
    main()
