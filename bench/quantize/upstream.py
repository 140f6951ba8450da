"""What the upstream Python libraries do with the Linear weights of a checkpoint folder: read, quantize, save.

Each entry of PEERS quantizes one bf16 matrix [out, in] and returns the tensors that would be stored. A library that is not
installed has no entry. Run as a program: upstream.py METHOD FOLDER OUTPUT THREADS prints the seconds.
"""
import json
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

PEERS = {}


def peer(name, *modules):
    def register(function):
        try:
            for module in modules:
                __import__(module)
            PEERS[name] = function
        except ImportError:
            pass
        return function
    return register


@peer("bitsandbytes nf4", "bitsandbytes")
def nf4(weight):
    import bitsandbytes.functional as F
    codes, state = F.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    return {"weight": codes, "absmax": state.absmax}


@peer("bitsandbytes int8", "bitsandbytes")
def int8(weight):
    import bitsandbytes.functional as F
    codes, scb, _ = F.int8_vectorwise_quant(weight.half())
    return {"weight": codes, "SCB": scb}


@peer("compressed-tensors int4 g128", "compressed_tensors")
def pack_quantized(weight):
    from compressed_tensors.compressors import compress_module
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, QuantizationStatus
    from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
    from compressed_tensors.quantization.utils import calculate_qparams
    args = QuantizationArgs(num_bits=4, group_size=128, strategy="group", symmetric=True)
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    initialize_module_for_quantization(linear, QuantizationScheme(targets=["Linear"], weights=args, format="pack-quantized"))
    groups = weight.unflatten(-1, (-1, 128))
    scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
    linear.weight_scale.data.copy_(scale)
    linear.quantization_status = QuantizationStatus.FROZEN
    compress_module(linear)
    return {name: value for name, value in linear.state_dict().items() if value.numel() > 1}


def gguf_blocks(weight, name):
    import gguf
    blocks = gguf.quants.quantize(weight.float().numpy(), gguf.GGMLQuantizationType[name])
    return {"weight": torch.from_numpy(blocks)}


@peer("gguf Q8_0", "gguf")
def q8_0(weight):
    return gguf_blocks(weight, "Q8_0")


@peer("gguf Q4_0", "gguf")
def q4_0(weight):
    return gguf_blocks(weight, "Q4_0")


@peer("quanto int4 g128", "optimum.quanto")
def quanto(weight):
    from optimum.quanto import MaxOptimizer, qint4, quantize_weight
    scale, shift = MaxOptimizer()(weight, qint4, 0, 128)
    return {"weight": quantize_weight(weight, qint4, 0, scale, shift=shift, group_size=128)._data._data}


@peer("hqq int4 g64", "hqq")
def hqq(weight):
    from hqq.core.quantize import Quantizer
    codes, meta = Quantizer.quantize(weight, nbits=4, group_size=64, axis=1, device="cpu", compute_dtype=weight.dtype)
    return {"W_q": codes, "scale": meta["scale"], "zero": meta["zero"]}


@peer("torchao int8", "torchao")
def torchao_int8(weight):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    module = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype))
    module[0].weight = torch.nn.Parameter(weight, requires_grad=False)
    quantize_(module, Int8WeightOnlyConfig())
    return {"weight": module[0].weight.qdata, "scale": module[0].weight.scale}


def quantize_folder(name, folder, output, threads):
    torch.set_num_threads(threads)
    function, stored = PEERS[name], {}
    start = time.perf_counter()
    for shard in sorted(set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())):
        with safe_open(folder / shard, "pt") as file:
            for key in file.keys():
                weight = file.get_tensor(key)
                linear = weight.dim() == 2 and key.startswith("model.layers.")
                parts = function(weight) if linear else {"": weight}
                stored |= {f"{key}.{part}": value.contiguous() for part, value in parts.items()}
    save_file(stored, output)
    return time.perf_counter() - start


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("\n".join(PEERS))
    else:
        print(quantize_folder(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
