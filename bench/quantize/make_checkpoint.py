#!/usr/bin/env python3
"""make_checkpoint.py FOLDER [--gigabytes 2] [--shard-megabytes 500]: a Llama checkpoint of random weights, sharded bf16.

Shapes are those of Llama-3.2-1B (hidden 2048, intermediate 8192, 8 key/value heads of 64, vocabulary 32000) with as many
layers as the size asks for. Weights are normal with standard deviation 0.02, the same for the same arguments. No tokenizer.
"""
import argparse
import json
import math
import struct
from pathlib import Path

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCABULARY = 2048, 8192, 32, 8, 32000


def layer_shapes(layer):
    prefix, kv = f"model.layers.{layer}.", HIDDEN // HEADS * KV_HEADS
    return [(f"{prefix}input_layernorm.weight", (HIDDEN,)), (f"{prefix}mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)),
            (f"{prefix}mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)), (f"{prefix}mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)),
            (f"{prefix}post_attention_layernorm.weight", (HIDDEN,)), (f"{prefix}self_attn.k_proj.weight", (kv, HIDDEN)),
            (f"{prefix}self_attn.o_proj.weight", (HIDDEN, HIDDEN)), (f"{prefix}self_attn.q_proj.weight", (HIDDEN, HIDDEN)),
            (f"{prefix}self_attn.v_proj.weight", (kv, HIDDEN))]


def size_of(shapes):
    return sum(2 * math.prod(shape) for _, shape in shapes)


def shards_of(shapes, limit):
    shards = [[]]
    for entry in shapes:
        if shards[-1] and size_of(shards[-1]) + size_of([entry]) > limit:
            shards.append([])
        shards[-1].append(entry)
    return shards


class NormalWeights:
    """Matrices of deviation 0.02 as bfloat16, norms of ones; the same in every run."""

    def __init__(self):
        import numpy
        self.np, self.random = numpy, numpy.random.default_rng(1)

    def __call__(self, shape):
        np = self.np
        values = (np.ones(shape, np.float32) if len(shape) == 1
                  else self.random.standard_normal(shape, np.float32) * np.float32(0.02))
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def write_shard(path, shapes, values):
    header, offset = {}, 0
    for name, shape in shapes:
        end = offset + size_of([(name, shape)])
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, shape in shapes:
            out.write(values(shape))


def make(folder, gigabytes, shard_megabytes=500, values=None):
    """Writes the checkpoint; returns the bytes of its largest tensor. values(shape): its bfloat16 bytes."""
    ends = [("lm_head.weight", (VOCABULARY, HIDDEN)), ("model.embed_tokens.weight", (VOCABULARY, HIDDEN)), ("model.norm.weight", (HIDDEN,))]
    layers = max(1, round((gigabytes * 1e9 - size_of(ends)) / size_of(layer_shapes(0))))
    shapes = ends + [entry for layer in range(layers) for entry in layer_shapes(layer)]
    shards = shards_of(shapes, shard_megabytes * 1_000_000)
    folder.mkdir(parents=True)
    values, weight_map = values or NormalWeights(), {}
    for index, shard in enumerate(shards, 1):
        name = f"model-{index:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, shard, values)
        weight_map |= {tensor: name for tensor, _ in shard}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size_of(shapes)}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "hidden_act": "silu", "torch_dtype": "bfloat16"}))
    return max(size_of([entry]) for entry in shapes)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--shard-megabytes", type=int, default=500)
    options = parser.parse_args()
    print(f"largest tensor {make(options.folder, options.gigabytes, options.shard_megabytes) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
