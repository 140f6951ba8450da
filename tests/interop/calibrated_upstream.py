"""Checkpoints of calibrated methods, loaded by the library that each method comes from, on the CPU."""
import functools
import importlib.util
import os
import sys
import types
import unittest.mock
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # it does not start on two cores otherwise

import torch
import transformers
from safetensors.torch import load_file

# Without a name both libraries compile a kernel of their own at the first load, which takes minutes.
KERNELS = {"gptq": lambda bits: transformers.GPTQConfig(bits=bits, backend="gptq_torch"),
           "awq": lambda bits: transformers.AwqConfig(bits=bits, backend="torch_awq")}
LINEARS = {"TorchLinear", "AwqTorchLinear", "QuantLinear", "QuantizedLinear"}


def replace(model, name, module):
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def linear(weight, bias):
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias.float(), requires_grad=False)
    return layer


def multiplied_out(layer, columns, dtype):
    """The weight that upstream's forward multiplies by: what it makes of the unit vectors."""
    if type(layer).__module__.startswith("aqlm"):
        # Its kernel for codebooks of 256 adds from several threads into the same sums; this is its other one.
        from aqlm.inference_kernels.dequantization import dequantize_gemm
        return dequantize_gemm(torch.eye(columns, dtype=dtype), layer.codes, layer.codebooks, layer.scales, None).T
    bias, layer.bias = layer.bias, None
    product = layer(torch.eye(columns, dtype=dtype)).T
    layer.bias = bias
    return product


def through_transformers(folder, auto_class):
    """The model as Transformers loads it, in float16, the type that these libraries multiply in."""
    config = transformers.AutoConfig.from_pretrained(folder).quantization_config
    kernel = KERNELS.get(config["quant_method"])
    loading = {"quantization_config": kernel(config["bits"])} if kernel else {}
    return auto_class.from_pretrained(folder, device_map={"": "cpu"}, dtype=torch.float16, **loading).eval()


def quantized_layers(model):
    return {name: layer for name, layer in model.named_modules() if type(layer).__name__ in LINEARS}


def in_float32(model, plain):
    """The model with upstream's weights in plain float32 linears, which is what both sides can be held to.

    `plain`: the same model unquantized, which says how wide every linear is.
    """
    with torch.no_grad():
        for name, layer in quantized_layers(model).items():
            columns = plain.get_submodule(name).in_features
            replace(model, name, linear(multiplied_out(layer, columns, torch.float16), layer.bias))
    return torch.nn.Module.float(model)


def with_weights(folder, auto_class, weight_of):
    """The model in float32 and how many of its linears weight_of(name, quantization_config, stored tensors, linear) unpacked.

    For libraries whose loader wants a GPU but whose layers can be unpacked without one.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    quantization = config.quantization_config
    del config.quantization_config
    model = auto_class.from_config(config, dtype=torch.float32).eval()
    stored, count = load_file(folder / "model.safetensors"), 0
    for name, module in list(model.named_modules()):
        own = {key.removeprefix(f"{name}."): stored[key] for key in stored if key.startswith(f"{name}.")}
        if isinstance(module, torch.nn.Linear) and own and "weight" not in own:
            for key in own:
                del stored[f"{name}.{key}"]
            bias = own.pop("bias", None)
            replace(model, name, linear(weight_of(name, quantization, own, module), bias))
            count += 1
    missing, unexpected = model.load_state_dict({key: tensor.float() for key, tensor in stored.items()}, strict=False)
    assert not unexpected
    assert {name for name in missing if not name.endswith(("_proj.weight", "dense.weight"))} <= {"lm_head.weight"}  # tied
    return model, count


@functools.cache
def vptq_layer_class():
    """vptq's layer. The package imports sentence_transformers, for a type check that layers do not come to."""
    name = "sentence_transformers.SentenceTransformer"
    stand_in = types.ModuleType(name)
    stand_in.SentenceTransformer = type("SentenceTransformer", (), {})
    with unittest.mock.patch.dict(sys.modules, {"sentence_transformers": types.ModuleType("sentence_transformers"),
                                                name: stand_in}):
        from vptq import VQuantLinear
    return VQuantLinear


def vptq_weight(name, quantization, stored, module):
    entry = quantization["config_for_layers"][name]
    assert entry["in_features"] == module.in_features and entry["out_features"] == module.out_features
    dtype = stored["centroids.weight"].dtype
    layer = vptq_layer_class()(**entry | {"bias": False}, enable_proxy_error=False, dtype=dtype)
    layer.load_state_dict(stored)
    with torch.no_grad():
        return layer(torch.eye(module.in_features, dtype=dtype)).T


def spqr_kernels():
    """spqr_quant's own C++ for the host; the package compiles it together with a CUDA kernel, which a stub stands in for.

    Compiled once (45 s of processor time) into the virtual environment.
    """
    build = Path(sys.prefix) / "spqr_host"
    build.mkdir(exist_ok=True)
    from torch.utils import cpp_extension
    source = Path(importlib.util.find_spec("spqr_quant").origin).parent / "inference_kernels"
    cuda = [Path(place) for place in importlib.util.find_spec("nvidia.cu13").submodule_search_locations]
    (build / "no_kernel.cpp").write_text("""#include <cuda_runtime.h>
#include <cstdint>
int spqr_matvec(int, int, int, int, int, const void*, const void*, int, void*, void*, int, void*, void*, cudaStream_t, void*,
                uint32_t) { return -1; }
""")
    return cpp_extension.load(
        "spqr_host", [str(source / "spqr_cuda.cpp"), str(build / "no_kernel.cpp")], extra_cflags=["-O1", "-w"],
        extra_include_paths=[str(source), *(str(place / "include") for place in cuda)],
        extra_ldflags=[str(library) for place in cuda for library in place.glob("lib/libcudart.so.*")],
        build_directory=str(build))


def spqr_weight(kernels):
    def weight_of(name, quantization, stored, module):
        for part in ("dense_weights", "row_offsets", "col_vals", "in_perm"):
            assert list(stored[part].shape) == [quantization["shapes"][f"{name}.{part}.shape"]]
        permuted = torch.zeros(module.out_features, module.in_features, dtype=torch.float16)
        kernels.dequantize_compressed(module.out_features, module.in_features, quantization["bits"], quantization["beta1"],
                                      quantization["beta2"], stored["dense_weights"], stored["row_offsets"],
                                      stored["col_vals"], stored["col_vals"].numel(), permuted)
        order = stored["in_perm"].view(torch.uint16).to(torch.int64)
        weight = torch.empty_like(permuted)
        weight[:, order] = permuted
        return weight
    return weight_of
