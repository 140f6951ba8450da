"""GGUF files that are sound containers but describe a model that cannot be, sent through a running server."""
import math
import struct

import checkpoints
from gguf_file import ARRAY, BOOL, F32, I32, STRING, U32, GgufFile, Typed
from hostile import ALLOWED, HostileTest, main

HUGE = 2**32 - 1


def u32(value):
    return Typed(U32, value)


def strings(*values):
    return Typed(ARRAY, list(values), STRING)


# Metadata that is wrong: {case: {key: value}}; None removes the key. Keys of the architecture start with a dot.
KEYS = {
    **{f"blocks-{n}": {".block_count": u32(n)} for n in (0, 1, 3, 513, HUGE)},
    **{f"width-{n}": {".embedding_length": u32(n)} for n in (0, 65, HUGE)},
    **{f"inner-{n}": {".feed_forward_length": u32(n)} for n in (0, 129, HUGE)},
    **{f"heads-{n}": {".attention.head_count": u32(n)} for n in (0, 3, HUGE)},
    **{f"kv-heads-{n}": {".attention.head_count_kv": u32(n)} for n in (0, 3, 5, HUGE)},
    **{f"rope-{n}": {".rope.dimension_count": u32(n)} for n in (7, 15, 128, HUGE)},
    "context-0": {".context_length": u32(0)},
    **{f"key-length-{n}": {".attention.key_length": u32(n)} for n in (0, 15, HUGE)},
    "no-architecture": {"general.architecture": None}, "architecture-path": {"general.architecture": Typed(STRING, "../../etc/passwd")},
    "architecture-array": {"general.architecture": strings("llama")}, "blocks-text": {".block_count": Typed(STRING, "2")},
    "blocks-array": {".block_count": Typed(ARRAY, [2, 2], U32)}, "blocks-none": {".block_count": None},
    "heads-none": {".attention.head_count": None}, "eps-none": {".attention.layer_norm_rms_epsilon": None},
    "tokenizer-unknown": {"tokenizer.ggml.model": Typed(STRING, "nonsense")}, "pre-unknown": {"tokenizer.ggml.pre": Typed(STRING, "nonsense")},
    "tokens-number": {"tokenizer.ggml.tokens": u32(3)}, "tokens-few": {"tokenizer.ggml.tokens": strings("a", "b")},
    "types-few": {"tokenizer.ggml.token_type": Typed(ARRAY, [1, 1], I32)}, "types-text": {"tokenizer.ggml.token_type": strings("a")},
    "eps-text": {".attention.layer_norm_rms_epsilon": Typed(STRING, "small")}, "eos-flag": {"tokenizer.ggml.eos_token_id": Typed(BOOL, True)},
    **{f"eps-{x}": {".attention.layer_norm_rms_epsilon": Typed(F32, x)} for x in (math.nan, math.inf, -1.0, 0.0)},
    **{f"base-{x}": {".rope.freq_base": Typed(F32, x)} for x in (math.nan, math.inf, -1.0, 0.0)},
    **{f"{token}-{n}": {f"tokenizer.ggml.{token}_token_id": u32(n)} for token in ("bos", "eos") for n in (908, HUGE)},
    **{f"merges-{i}": {"tokenizer.ggml.merges": strings(*merges)} for i, merges in enumerate(
        (("ab",), ("qqqq zzzz",), ("a b c",), ("",), (" ",)))},
    "split": {"split.count": Typed(U32, 65535), "split.no": Typed(U32, 0)},
}


class HostileGgufModelTest(HostileTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        checkpoints.random_decoder(cls.root / "source", "llama", tokenizer="byte_bpe")
        cls.server.must("quantize", "source", "--method", "gguf", "--set", "type=Q8_0", "--output-name", "sound")
        cls.sound = (cls.root / "sound.gguf").read_bytes()
        cls.idle = cls.memory()

    def broken(self, change):
        file = GgufFile(self.sound)
        change(file)
        (self.root / "bad.gguf").write_bytes(file.bytes())

    def refuse_file(self, change, *words):
        self.broken(change)
        self.refuse("bad.gguf", *words, verbs=("load", "quantize"))

    def test_the_sound_file(self):
        self.broken(lambda file: None)
        self.assertEqual((self.root / "bad.gguf").read_bytes(), self.sound)
        self.server.must("load", "bad.gguf")
        self.server.must("unload", "bad.gguf")
        (self.root / "bad.gguf").unlink()

    def test_keys(self):
        for name, changes in KEYS.items():
            def change(file):
                for key, value in changes.items():
                    key = "llama" + key if key.startswith(".") else key
                    if value is None:
                        del file.keys[key]
                    else:
                        file.keys[key] = value
            with self.subTest(name):
                self.refuse_file(change)

    def test_tensors(self):
        name = "blk.1.ffn_up.weight"

        def replace(dims=None, kind=None, content=None):
            def change(file):
                old = file.tensors[name]
                file.tensors[name] = [dims or old[0], old[1] if kind is None else kind, old[2] if content is None else content]
            return change
        cases = {"missing": lambda file: file.tensors.pop(name), "type": replace(kind=24, content=bytes(64 * 128)),
                 "swapped": replace(dims=[128, 64]), "short": replace(dims=[64, 127]), "vector": replace(dims=[64 * 128]),
                 "no-rows": replace(dims=[64, 0], content=b"")}
        for label, change in cases.items():
            with self.subTest(label):
                self.refuse_file(change, name)
        with self.subTest("block scale"):  # of Q8_0: a half in front of each 32 codes
            scale = bytearray(GgufFile(self.sound).tensors[name][2])
            scale[34:36] = struct.pack("<H", 0x7E00)
            self.refuse_file(replace(content=bytes(scale)), name)

    def test_tokens(self):
        """Odd tokens are refused, or served as the bytes they are."""
        for label, token in {"long": b"x" * 20_000, "utf8": b"\xff\xfe\x80"}.items():
            def change(file):
                file.keys["tokenizer.ggml.tokens"].value[300] = token
            with self.subTest(label):
                self.broken(change)
                answer = self.server.ctl("load", "bad.gguf")
                if answer.code:
                    self.assertIn(answer.status, ALLOWED, answer.err)
                else:
                    self.server.must("generate", "bad.gguf", *("hello", "--max-tokens", "8", "--ignore-eos"))
                    self.server.must("unload", "bad.gguf")
                (self.root / "bad.gguf").unlink()

    def test_a_context_beyond_memory(self):
        self.broken(lambda file: file.keys.update({"llama.context_length": u32(HUGE)}))
        answer = self.server.ctl("load", "bad.gguf")
        self.assertIn(answer.status, ("", "RESOURCE_EXHAUSTED"), answer.err)
        if not answer.code:
            self.server.must("generate", "bad.gguf", "hello", "--max-tokens", "2")
            self.server.must("unload", "bad.gguf")
        (self.root / "bad.gguf").unlink()

    def test_templates(self):
        """A template that would never end, or reaches for what it must not have, ends with an error of its own."""
        for label, template in {"loop": "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
                                "attributes": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
                                "growth": "{% set x = 'a' * 1000000000 %}{{ x * 1000 }}", "cut": "{% for"}.items():
            with self.subTest(label):
                self.broken(lambda file: file.keys.update({"tokenizer.chat_template": Typed(STRING, template)}))
                answer = self.server.ctl("load", "bad.gguf")
                if answer.code:
                    self.assertIn(answer.status, ALLOWED, answer.err)
                else:
                    chat = self.server.ctl("generate", "bad.gguf", "hello", "--max-tokens", "2")
                    self.assertIn(chat.status, (*ALLOWED, "FAILED_PRECONDITION"), chat.err)
                    self.server.must("unload", "bad.gguf")
                (self.root / "bad.gguf").unlink()


if __name__ == "__main__":
    main()
