"""Our tokens against PyPI `tokenizers`, on the real vocabularies of the two models that run.sh fetches.

QUANTD_BIN is the folder of quantd_tokenize, QUANTD_MODELS that of the models; a test whose model is not there is
skipped.
"""
import json
import os
import pathlib
import random
import struct
import subprocess
import sys

import pytest

tokenizers = pytest.importorskip("tokenizers")
DATA = pathlib.Path(__file__).resolve().parents[1] / "data" / "tokenizers"
sys.path.insert(0, str(DATA))
from make_corpus import TEXTS  # noqa: E402

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


def texts():
    rng = random.Random(7)
    pool = list(" \t\n\r'sStTmdlreve0123abcXYZ.,!?-_<|>") + list("\u00a0\u3000\u0301\u4e2d\u00e9\u017f\U0001f600\u200d\u0660\u0939\u093f")
    noise = ["".join(rng.choice(pool) for _ in range(rng.randrange(1, 60))) for _ in range(2000)]
    return TEXTS + noise


def ours(mode, path, lines=(), *extra):
    binary = pathlib.Path(os.environ["QUANTD_BIN"]) / "quantd_tokenize"
    if not binary.exists():
        pytest.skip(f"{binary} is not built")
    stdin = "".join(text.encode().hex() + "\n" for text in lines)
    return subprocess.run([binary, mode, path, *extra], input=stdin, capture_output=True, text=True, check=True).stdout


def check_equal(path, upstream):
    theirs = tokenizers.Tokenizer.from_file(str(upstream))
    theirs.no_padding()
    theirs.no_truncation()
    for plain in (False, True):
        theirs.encode_special_tokens = plain
        lines = ours("ids", path, texts(), *(["plain"] if plain else [])).splitlines()
        for text, line in zip(texts(), lines, strict=True):
            ids, decoded = line.split("\t")
            expected = theirs.encode(text, add_special_tokens=not plain).ids
            assert [int(i) for i in ids.split()] == expected, repr(text)
            assert bytes.fromhex(decoded).decode(errors="replace") == theirs.decode(expected), repr(text)


def read_gguf(path):
    with open(path, "rb") as file:
        def take(format_):
            return struct.unpack(format_, file.read(struct.calcsize(format_)))[0]

        def value(kind):
            if kind == 8:
                return file.read(take("<Q"))
            if kind == 9:
                element, count = take("<I"), take("<Q")
                return [value(element) for _ in range(count)]
            return take(SCALARS[kind])

        assert file.read(4) == b"GGUF"
        file.read(12)
        return {file.read(take("<Q")).decode(): value(take("<I")) for _ in range(take("<Q"))}


def write_keys(metadata, path):
    def get(name):
        return metadata.get("tokenizer.ggml." + name)

    names = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id",
             "add_bos": "add_bos_token", "add_eos": "add_eos_token", "add_space_prefix": "add_space_prefix"}
    lines = ["model " + get("model").decode(), "pre " + get("pre").decode()]
    lines += [f"{key} {int(get(name))}" for key, name in names.items() if get(name) is not None]
    scores = get("scores") or [0] * len(get("tokens"))
    lines += [f"token {token.hex() or '-'} {kind} {score}"
              for token, kind, score in zip(get("tokens"), get("token_type"), scores)]
    lines += ["merge " + merge.hex() for merge in get("merges") or []]
    path.write_text("\n".join(lines) + "\n")
    return lines


def real(name):
    path = pathlib.Path(os.environ["QUANTD_MODELS"]) / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    return path


@pytest.mark.parametrize("name", ["byte_bpe", "minilm", "sentencepiece"])
def test_written_tokenizer_json_loads_upstream(name, tmp_path):
    written = tmp_path / "tokenizer.json"
    written.write_text(ours("json", DATA / f"{name}.json"))
    check_equal(DATA / f"{name}.json", written)


def test_minilm():
    path = real("all-minilm-l6-v2/tokenizer.json")
    check_equal(path, path)


def test_smollm2_from_gguf(tmp_path):
    keys = tmp_path / "keys.txt"
    lines = write_keys(read_gguf(real("smollm2-135m.gguf")), keys)
    written = tmp_path / "tokenizer.json"
    written.write_text(ours("json", keys))
    check_equal(keys, written)
    # SmolLM2 publishes Digits(individual) + ByteLevel; that is what "smollm" must have become.
    steps = json.loads(written.read_text())["pre_tokenizer"]["pretokenizers"]
    assert [step["type"] for step in steps] == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]
    back = ours("gguf", written).splitlines()
    assert [line for line in back if line.startswith(("token", "merge"))] == [
        line for line in lines if line.startswith(("token", "merge"))]
