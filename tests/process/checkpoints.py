"""Small checkpoints made by the tests themselves: safetensors folders of decoders and encoders, with tokenizers.

`python3 checkpoints.py FOLDER` writes `decoder` and `encoder` there, for the tests that are not in Python.
"""
import json
import random
import shutil
import struct
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
TINY = DATA / "golden" / "tiny-llama"
CHAT_TEMPLATE = "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def safetensors(tensors, metadata=None):
    """The bytes of a safetensors file; tensors: {name: (dtype, shape, bytes)}."""
    header, offset = {"__metadata__": metadata or {"format": "pt"}}, 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(content for _, _, content in tensors.values())])


def read_safetensors(path):
    content = Path(path).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8:8 + length]), content[8 + length:]
    return {name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
            for name, entry in header.items() if name != "__metadata__"}


def floats(rng, shape, dtype, scale=0.08, mean=0.0):
    count = 1
    for dim in shape:
        count *= dim
    values = struct.pack(f"<{count}f", *(mean + scale * (2 * rng.random() - 1) for _ in range(count)))
    if dtype == "BF16":  # the upper halves
        high = bytearray(2 * count)
        high[0::2], high[1::2] = values[2::4], values[3::4]
        values = bytes(high)
    return (dtype, shape, values)


def add_tokenizer(folder, name="sentencepiece"):
    """The 512 tokens of the SentencePiece test tokenizer, as many as the tiny decoder has rows; or the 908 of "byte_bpe"."""
    shutil.copy(DATA / "tokenizers" / f"{name}.json", folder / "tokenizer.json")
    special = {"sentencepiece": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
               "byte_bpe": {"bos_token": "<|begin|>", "eos_token": "<|im_end|>"}}[name]
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", **special, "chat_template": CHAT_TEMPLATE}))


def decoder(folder, tokenizer=True):
    """The tiny Llama of the golden data, with a tokenizer."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, folder / name)
        (folder / name).chmod(0o644)
    if tokenizer:
        add_tokenizer(folder)
    return folder


def deep_decoder(folder, layers):
    """A Llama with many layers, those of the tiny one again and again: a job that takes a while."""
    folder.mkdir(parents=True)
    tiny = read_safetensors(TINY / "model.safetensors")
    tensors = {name: value for name, value in tiny.items() if ".layers." not in name}
    for layer in range(layers):
        for name, value in tiny.items():
            if f".layers.{layer % 2}." in name:
                tensors[name.replace(f".layers.{layer % 2}.", f".layers.{layer}.")] = value
    config = json.loads((TINY / "config.json").read_text())
    config["num_hidden_layers"] = layers
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    add_tokenizer(folder)
    return folder


def random_decoder(folder, model_type, tokenizer="sentencepiece"):
    """Random weights for each decoder family: "mistral" with a sliding window, "qwen2" with biases and tied heads, "qwen3"
    with norms of heads that are not hidden size over heads wide, "phi3" with fused projections, positions that rotate three
    quarters of a head, and factors for contexts beyond 128."""
    rng = random.Random(model_type)
    hidden, inner, heads, kv_heads, layers = 64, 128, 4, 2, 2
    vocabulary = {"sentencepiece": 512, "byte_bpe": 908}[tokenizer]
    config = {"architectures": [{"mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
                                 "phi3": "Phi3ForCausalLM", "llama": "LlamaForCausalLM"}[model_type]],
              "model_type": model_type, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "hidden_act": "silu",
              "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1,
              "eos_token_id": 2, "tie_word_embeddings": model_type == "qwen2", "torch_dtype": "float32"}
    head = hidden // heads
    if model_type == "mistral":
        config["sliding_window"] = 128
    if model_type == "qwen3":
        config["head_dim"] = head = 32
    if model_type == "phi3":
        config |= {"partial_rotary_factor": 0.75, "original_max_position_embeddings": 128,
                   "rope_scaling": {"type": "longrope", "short_factor": [1 + 0.1 * i for i in range(6)],
                                    "long_factor": [1 + i for i in range(6)]}}
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [vocabulary, hidden]
    projections = [("self_attn.q", heads * head), ("self_attn.k", kv_heads * head), ("self_attn.v", kv_heads * head),
                   ("mlp.gate", inner), ("mlp.up", inner)]
    if model_type == "phi3":
        projections = [("self_attn.qkv", (heads + 2 * kv_heads) * head), ("mlp.gate_up", 2 * inner)]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, rows in projections:
            shapes[f"{prefix}{name}_proj.weight"] = [rows, hidden]
            if model_type == "qwen2" and name.startswith("self_attn"):
                shapes[f"{prefix}{name}_proj.bias"] = [rows]
        if model_type == "qwen3":
            shapes |= {prefix + "self_attn.q_norm.weight": [head], prefix + "self_attn.k_norm.weight": [head]}
        shapes |= {prefix + "self_attn.o_proj.weight": [hidden, heads * head],
                   prefix + "mlp.down_proj.weight": [hidden, inner], prefix + "input_layernorm.weight": [hidden],
                   prefix + "post_attention_layernorm.weight": [hidden]}
    folder.mkdir(parents=True)
    tensors = {name: floats(rng, shape, "F32", mean=1.0 if "norm" in name else 0.0) for name, shape in shapes.items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    (folder / "config.json").write_text(json.dumps(config))
    add_tokenizer(folder, tokenizer)
    return folder


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "sleep", "##s", "run", "the", "on", "mat",
         "revenue", "rose", "by", "four", "percent", "."]


def encoder(folder):
    """A random two-layer BERT with a WordPiece tokenizer of twenty words, mean pooling and normalization."""
    rng = random.Random("encoder")
    hidden, inner, layers, positions = 32, 64, 2, 64
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": 2, "vocab_size": len(WORDS), "hidden_act": "gelu",
        "max_position_embeddings": positions, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "torch_dtype": "float32"}))
    shapes = {"embeddings.word_embeddings.weight": [len(WORDS), hidden],
              "embeddings.position_embeddings.weight": [positions, hidden],
              "embeddings.token_type_embeddings.weight": [2, hidden],
              "embeddings.LayerNorm.weight": [hidden], "embeddings.LayerNorm.bias": [hidden]}
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}."
        for name, rows, columns in (("attention.self.query", hidden, hidden), ("attention.self.key", hidden, hidden),
                                    ("attention.self.value", hidden, hidden), ("attention.output.dense", hidden, hidden),
                                    ("intermediate.dense", inner, hidden), ("output.dense", hidden, inner)):
            shapes |= {f"{prefix}{name}.weight": [rows, columns], f"{prefix}{name}.bias": [rows]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{prefix}{name}.weight": [hidden], f"{prefix}{name}.bias": [hidden]}
    tensors = {name: floats(rng, shape, "F32", scale=0.5, mean=1.0 if name.endswith("LayerNorm.weight") else 0.0)
               for name, shape in shapes.items()}
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    special = [{"id": i, "content": WORDS[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in range(5)]
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                       "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                      {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {word: {"id": word, "ids": [WORDS.index(word)], "tokens": [word]}
                                              for word in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {word: i for i, word in enumerate(WORDS)}}}))
    (folder / "modules.json").write_text(json.dumps([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({
        "word_embedding_dimension": hidden, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False}))
    return folder


if __name__ == "__main__":
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    decoder(target / "decoder")
    deep_decoder(target / "deep", 24)
    encoder(target / "encoder")
