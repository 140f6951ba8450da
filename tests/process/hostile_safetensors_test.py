"""Broken safetensors files, configs, tokenizers and indexes, sent through a running server."""
import json
import shutil
import struct
import time

import checkpoints
from hostile import ALLOWED, HostileTest, main

MATRIX = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def file(header, data=bytes(16), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes):
    fields = {key: value for key, value in {**MATRIX, **changes}.items() if value is not ...}
    return file({"w": fields})


def many(*offsets, size=16):
    return file({f"t{i}": {"dtype": "F32", "shape": [2, 2], "data_offsets": list(o)} for i, o in enumerate(offsets)}, bytes(size))


FILES = {
    # Length of the header.
    "empty": b"", "short": b"\x08\0\0", "zero": struct.pack("<Q", 0), "past-end": file({"w": MATRIX}, length=10**6),
    "all-ones": file({"w": MATRIX}, length=2**64 - 1), "wraps": file({"w": MATRIX}, length=2**64 - 8),
    "over-limit": file({"w": MATRIX}, length=100_000_001), "big-endian": struct.pack(">Q", 60) + b"{}" + bytes(60),
    # Not the JSON it must be.
    "array": file(b"[]"), "bom": file(b"\xef\xbb\xbf{}", b""), "spaces": file(b"        "), "nul": file(b"{}\0\0\0\0\0\0", b""),
    "utf8": file(b'{"\xff": {}}'), "surrogate": file(b'{"\\ud800": {}}'), "cut": file(b'{"w": {"dtype"'), "comment": file(b"{/*x*/}", b""),
    "comma": file(b'{"w": 1,}'), "octal": file(b'{"w": 04}'), "nan": file(b'{"w": NaN}'), "control": file(b'{"\x01": {}}'),
    "junk": file(b"{} x", b""), "deep-array": file(b'{"w": ' + b"[" * 60000 + b"]" * 60000 + b"}"),
    "deep-object": file(b'{"w": ' + b'{"a":' * 10000 + b"1" + b"}" * 10000 + b"}"),
    "twice": file(b'{"w": %s, "w": %s}' % ((json.dumps(MATRIX).encode(),) * 2)),
    "twice-escaped": file(b'{"w": %s, "\\u0077": %s}' % ((json.dumps(MATRIX).encode(),) * 2)),
    "metadata-twice": file(b'{"__metadata__": {}, "__metadata__": {}}', b""), "metadata-number": file({"__metadata__": {"a": 1}}, b""),
    "null-entry": file({"w": None}), "array-entry": file({"w": []}),
    # Fields.
    "no-dtype": entry(dtype=...), "no-shape": entry(shape=...), "no-offsets": entry(data_offsets=...), "dtype-unknown": entry(dtype="F33"),
    "dtype-case": entry(dtype="f32"), "dtype-number": entry(dtype=4), "negative": entry(shape=[-2, -2]), "float": entry(shape=[2.0, 2]),
    "bool": entry(shape=[True, 4]), "string": entry(shape=["2", 2]), "null": entry(shape=[None]), "rank": entry(shape=[1] * 60 + [4]),
    "wraps-0": entry(shape=[2**32, 2**32], data_offsets=[0, 0]), "wraps-right": entry(shape=[2**62 + 1, 4]), "huge": entry(shape=[2**64]),
    "one-offset": entry(data_offsets=[16]), "three": entry(data_offsets=[0, 8, 16]), "minus": entry(data_offsets=[-16, 0]),
    "reversed": entry(data_offsets=[16, 0]), "half": entry(data_offsets=[0.0, 16.0]), "beyond": entry(data_offsets=[0, 32]),
    "near-2-64": entry(data_offsets=[2**64 - 16, 2**64 - 1]), "size": entry(shape=[2, 3]), "cut-data": file({"w": MATRIX}, bytes(8)),
    "gap-front": many((4, 20), size=20), "gap-between": many((0, 16), (20, 36), size=36), "gap-behind": many((0, 16), size=20),
    "same-range": many((0, 16), (0, 16)), "overlap": many((0, 16), (8, 24), size=24), "crowd": many(*[(0, 16)] * 600),
    # Other files under this name.
    "gguf": b"GGUF" + bytes(60), "zip": b"PK\x03\x04" + bytes(60), "pickle": b"\x80\x04\x95" + bytes(60),
}

CONFIG = json.loads((checkpoints.TINY / "config.json").read_text())


def config(**changes):
    fields = {key: value for key, value in {**CONFIG, **changes}.items() if value is not ...}
    return json.dumps(fields).encode().replace(b'"1e400"', b"1e400")


DIMENSIONS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size", "max_position_embeddings")
CONFIGS = {
    "empty": b"", "cut": config()[:-20], "array": b"[]", "utf16": config().decode().encode("utf-16"), "nul": config() + b"\0",
    "utf8": b'{"\xff": 1}', "comma": b'{"a": 1,}', "nan": b'{"a": NaN}', "deep": b'{"a":' * 30000 + b"1" + b"}" * 30000,
    "twice": config()[:-1] + b', "hidden_size": 256}',
    **{f"{key}-{i}": config(**{key: value}) for key in DIMENSIONS
       for i, value in enumerate((0, -1, 1.5, "4", None, True, [4], 2**63, 10**30, "1e400", ...))},
    "layers-many": config(num_hidden_layers=10**9), "hidden-other": config(hidden_size=512), "vocab-other": config(vocab_size=513),
    "heads": config(num_attention_heads=3), "kv-heads": config(num_key_value_heads=3), "eps-0": config(rms_norm_eps=0),
    "eps-inf": config(rms_norm_eps="inf"), "eps-huge": config(rms_norm_eps="1e400"),
    "theta-0": config(rope_parameters={"rope_theta": 0, "rope_type": "default"}),
    "theta-negative": config(rope_parameters={"rope_theta": -1, "rope_type": "default"}),
    "rope-unknown": config(rope_parameters={"rope_theta": 1e4, "rope_type": "nonsense"}), "eos-past": config(eos_token_id=512),
    "eos-many": config(eos_token_id=list(range(2000))), "architecture": config(architectures=["NonsenseForCausalLM"], model_type="nonsense"),
    "type-path": config(architectures=..., model_type="../../etc/passwd"), "activation": config(hidden_act="nonsense"),
    **{f"quant-{i}": config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True, **changes})
       for i, changes in enumerate(({"load_in_4bit": "4"}, {"load_in_4bit": False, "quant_method": "nonsense"},
                                    {"load_in_4bit": False, "quant_method": 4}))},
    **{f"pack-{i}": config(quantization_config={
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": True,
                                                                          "strategy": "group", "group_size": 128, **changes}}}})
       for i, changes in enumerate(({"num_bits": 0}, {"num_bits": -4}, {"num_bits": 1000}, {"num_bits": "4"}, {"num_bits": 4.5},
                                    {"group_size": 0}, {"group_size": -2}, {"group_size": 2**31},
                                    {"group_size": 2**63}))},
}

TOKENIZER = json.loads((checkpoints.DATA / "tokenizers" / "sentencepiece.json").read_text())


def tokenizer(change):
    copy = json.loads(json.dumps(TOKENIZER))
    change(copy)
    return json.dumps(copy).encode()


def token_id(value):
    return tokenizer(lambda t: t["model"]["vocab"].update({"the": value}))


def nested(depth):
    inner = {"type": "NFC"}
    for _ in range(depth):
        inner = {"type": "Sequence", "normalizers": [inner]}
    return inner


TOKENIZERS = {
    "empty": b"", "array": b"[]", "cut": json.dumps(TOKENIZER).encode()[:-9], "deep": b'{"a":' * 30000 + b"1" + b"}" * 30000,
    **{f"id-{i}": token_id(value) for i, value in enumerate((-1, 2**31 - 1, 2**32, 3.5, "3", None, 5))},
    "model-type": tokenizer(lambda t: t["model"].update(type="Nonsense")), "vocab-array": tokenizer(lambda t: t["model"].update(vocab=[])),
    "normalizer": tokenizer(lambda t: t.update(normalizer={"type": "Nonsense"})),
    **{f"merge-{i}": tokenizer(lambda t, m=merge: t["model"]["merges"].append(m))
       for i, merge in enumerate((["qqqq", "zzzz"], ["a"], ["a", "b", "c"], 7))},
    "added-past": tokenizer(lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 2**31, "content": "new"})),
    "nested": tokenizer(lambda t: t.update(normalizer=nested(300))),
    "regex": tokenizer(lambda t: t.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False})),
}


def normalizers(*steps):
    return tokenizer(lambda t: t.update(normalizer={"type": "Sequence", "normalizers": list(steps)}))


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern):
    return tokenizer(lambda t: t.update(pre_tokenizer={
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}))


# Refused, or bounded in time and memory: what they make of a text of 64 KiB.
BOMBS = {
    "growth": normalizers(*[replace({"String": "a"}, "a" * 10)] * 12),
    "growth-regex": normalizers(*[replace({"Regex": "."}, "aaaaaaaaaa")] * 12),
    "prepend": normalizers({"type": "Prepend", "prepend": "a" * 50_000}),
    "pad": tokenizer(lambda t: t.update(padding={"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None,
                                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"})),
    "added": tokenizer(lambda t: t["added_tokens"].extend(
        {**t["added_tokens"][0], "id": 260 + i, "content": "a" * (i + 1), "special": False} for i in range(250))),
    **{f"regex-{i}": split(pattern) for i, pattern in enumerate(
        ("(a+)+$", "(a|aa)+b", "", "((a{1000}){1000}){1000}", "(a*)*b", "(?:a?){64}a{64}", "(?=(a+))a*b", "(?<!a+)b"))},
    **{f"replace-{i}": normalizers(replace({"Regex": pattern}, "x")) for i, pattern in enumerate(
        ("(a+)+$", "(a|aa)+b", "", "((a{1000}){1000}){1000}", "(a*)*b"))},
}


def index(shard=..., **changes):
    names = checkpoints.read_safetensors(checkpoints.TINY / "model.safetensors")
    document = {"metadata": {"total_size": 1}, "weight_map": {name: "part.safetensors" for name in names}}
    if shard is not ...:
        document["weight_map"]["lm_head.weight"] = shard
    document.update(changes)
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


INDEXES = {
    **{f"path-{i}": index(path) for i, path in enumerate(
        ("../x.safetensors", "/etc/passwd", "/proc/self/environ", "/dev/zero", "a/../../b", "a\0b", "", ".", "..", "https://x/y", "a\\b",
         "x" * 5000, ".hidden.safetensors"))},
    "absent": index("absent.safetensors"), "itself": index("model.safetensors.index.json"), "config": index("config.json"),
    "number": index(7), "no-map": index(weight_map=...), "map-array": index(weight_map=[]),
    "not-there": json.dumps({"weight_map": {"nonsense.weight": "part.safetensors"}}).encode(), "array": b"[]", "cut": index()[:-5],
}


class HostileSafetensorsTest(HostileTest):
    def folder(self):
        return checkpoints.decoder(self.root / "bad")

    def test_safetensors(self):
        for name, content in FILES.items():
            with self.subTest(name):
                (self.folder() / "model.safetensors").write_bytes(content)
                self.refuse("bad", "safetensors")
        for name, content in FILES.items():
            with self.subTest(f"bare {name}"):
                (self.root / "bad.safetensors").write_bytes(content)
                self.refuse("bad.safetensors", "safetensors", verbs=("inspect",))

    def test_tensors(self):
        good = checkpoints.read_safetensors(checkpoints.TINY / "model.safetensors")
        name = "model.layers.1.mlp.up_proj.weight"
        dtype, shape, data = good[name]
        nan = data[:100] + b"\xff\x7f" + data[102:]
        for label, changed in {"missing": None, "short": (dtype, [511, 256], data[:-512]), "transposed": (dtype, [256, 512], data),
                               "rank": (dtype, [512 * 256], data), "rows": (dtype, [0, 256], b""), "integer": ("I64", [512, 64], data)}.items():
            with self.subTest(label):
                tensors = dict(good)
                tensors.pop(name)
                if changed:
                    tensors[name] = changed
                (self.folder() / "model.safetensors").write_bytes(checkpoints.safetensors(tensors))
                self.refuse("bad", name, verbs=("load", "quantize"))
        with self.subTest("nan"):
            (self.folder() / "model.safetensors").write_bytes(checkpoints.safetensors({**good, name: (dtype, shape, nan)}))
            self.refuse("bad", name, verbs=("quantize",))

    def test_configs(self):
        for name, content in CONFIGS.items():
            with self.subTest(name):
                (self.folder() / "config.json").write_bytes(content)
                self.refuse("bad", verbs=("load", "quantize"))

    def test_tokenizers(self):
        for name, content in TOKENIZERS.items():
            with self.subTest(name):
                (self.folder() / "tokenizer.json").write_bytes(content)
                self.refuse("bad", "tokenizer", verbs=("load", "tokenize"))

    def test_bombs(self):
        text = "a" * (1 << 16)
        for name, content in BOMBS.items():
            with self.subTest(name):
                folder = self.folder()
                (folder / "tokenizer.json").write_bytes(content)
                began = time.monotonic()
                for sample in ("hello", text):
                    answer = self.server.ctl("tokenize", "bad", sample)
                    self.assertIn(answer.status, ("", *ALLOWED), answer.err[:500])
                # One second is meant for the text; the machine may be busy.
                self.assertLess(time.monotonic() - began, 20)
                self.still_good()
                shutil.rmtree(folder)

    def test_odd_but_right(self):
        """What the format allows is read, however odd."""
        one, name = bytes(4), "n" * 4000
        files = {
            "none": file({}, b""), "scalar": file({"w": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, one),
            "no-rows": file({"w": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]}}, b""),
            "unsorted": file({"b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
                              "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, one * 2),
            "names": file({key: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, key in enumerate(
                (name, "../../etc/passwd", "Gewicht \u00e4\n\u2603", "a/b", " "))}, bytes(5)),
            "unaligned": file({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                               "w": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]}}, bytes(5)),
            "nan": file({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0\0\xc0\x7f"),
        }
        for label, content in files.items():
            with self.subTest(label):
                path = self.root / "odd.safetensors"
                path.write_bytes(content)
                header = json.loads(content[8:8 + struct.unpack("<Q", content[:8])[0]])
                listed = self.server.must("inspect", "odd.safetensors").get("tensors", [])
                self.assertEqual(len(listed), len(header))
                path.unlink()

    def test_indexes(self):
        for name, content in INDEXES.items():
            with self.subTest(name):
                folder = self.folder()
                (folder / "model.safetensors").rename(folder / "part.safetensors")
                (folder / "model.safetensors.index.json").write_bytes(content)
                self.refuse("bad", verbs=("inspect", "quantize"))


if __name__ == "__main__":
    main()
