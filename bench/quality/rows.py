"""The rows of compare.py's table: every method at every bit width that it has here."""


def sets(**options):
    return [part for key, value in options.items() for part in ("--set", f"{key}={value}")]


def method(name, **options):
    return ["--method", name, *sets(**options)]


def groups(name, bits, **options):
    """In groups of 64, the largest usual size that divides SmolLM2's 576 columns."""
    return ["--method", name, "--bits", bits, "--group-size", 64, *sets(**options)]


def rounded(bits, symmetric):
    return groups("compressed-tensors", bits, symmetric=str(symmetric).lower(), strategy="group")


def calibrated(arguments):
    """compare.py puts the calibration text in the place of the last argument."""
    return [*arguments, "--calibration"]


# auto-round's light preset, with smaller batches: its default takes hours on two cores.
LIGHT = {"preset": "light", "batch_size": 2}
# Rounds, steps and iterations that end in minutes: the defaults take hours, too. VPTQ's do not.
SHORT_AQLM = {"max_epochs": 2, "steps_per_epoch": 25, "init_max_iter": 10, "finetune_max_epochs": 0}


def at(bits):
    """What has this width in groups of 64, plain rounding first: {label: arguments}."""
    rows = {"rounded to nearest, symmetric": rounded(bits, True),
            "rounded to nearest, asymmetric": rounded(bits, False)}
    rows["HQQ"] = groups("hqq", bits)
    if bits != 7:
        rows["SINQ"] = groups("sinq", bits)
    rows["GPTQ"] = calibrated(groups("gptq", bits))
    rows["AWQ"] = calibrated(groups("awq", bits))
    rows["AutoRound, light preset"] = calibrated(groups("autoround", bits, **LIGHT))
    return rows


WIDTHS = {
    "8 bits": {
        "rounded to nearest, per row": method("compressed-tensors", num_bits=8, strategy="channel"),
        **at(8),
        "LLM.int8": ["--method", "bitsandbytes", "--bits", 8],
        "EETQ": method("eetq"),
        "optimum-quanto, int8": method("quanto", weights="int8"),
        "optimum-quanto, float8": method("quanto", weights="float8"),
        "torchao, int8": method("torchao", quant_type="Int8WeightOnlyConfig"),
        "torchao, float8": method("torchao", quant_type="Float8WeightOnlyConfig"),
        "Quark, int8": groups("quark", 8, qscheme="per_group"),
        "Quark, fp8": method("quark", dtype="fp8_e4m3"),
        "FBGEMM_FP8": method("fbgemm_fp8"),
        "FINEGRAINED_FP8, 64x64": method("fp8", weight_block_size="64,64"),
        "compressed-tensors, FP8": method("compressed-tensors", scheme="FP8_DYNAMIC"),
        "compressed-tensors, MXFP8": method("compressed-tensors", scheme="MXFP8A16"),
        "Metal": groups("metal", 8),
        "GGUF, Q8_0": method("gguf", type="Q8_0"),
    },
    "6 bits": {
        "rounded to nearest, symmetric": rounded(6, True),
        "HQQ": groups("hqq", 6),
        "SINQ": groups("sinq", 6),
        "torchao, int6": groups("torchao", 6, quant_type="IntxWeightOnlyConfig"),
        "compressed-tensors, MXFP6": method("compressed-tensors", scheme="MXFP6A16"),
        "Quark, fp6_e2m3": method("quark", dtype="fp6_e2m3"),
        "GGUF, Q6_K": method("gguf", type="Q6_K"),
    },
    "5 bits": {
        "rounded to nearest, symmetric": rounded(5, True),
        "HQQ": groups("hqq", 5),
        "SINQ": groups("sinq", 5),
        "torchao, int5": groups("torchao", 5, quant_type="IntxWeightOnlyConfig"),
        "GGUF, Q5_K_M": method("gguf", type="Q5_K_M"),
    },
    "4 bits": {
        **at(4),
        "AutoRound, products=bfloat16": calibrated(groups("autoround", 4, **LIGHT, products="bfloat16")),
        "bitsandbytes, NF4": method("bitsandbytes", load_in_4bit="true", bnb_4bit_quant_type="nf4"),
        "bitsandbytes, FP4": method("bitsandbytes", load_in_4bit="true", bnb_4bit_quant_type="fp4"),
        "HIGGS": groups("higgs", 4, hadamard_size=64),
        "optimum-quanto, int4": method("quanto", weights="int4"),
        "torchao, int4": groups("torchao", 4, quant_type="Int4WeightOnlyConfig"),
        "Quark, int4": groups("quark", 4),
        "Quark, MXFP4": method("quark", dtype="fp4"),
        "compressed-tensors, NVFP4": method("compressed-tensors", scheme="NVFP4A16"),
        "compressed-tensors, MXFP4": method("compressed-tensors", scheme="MXFP4A16"),
        "Four Over Six, NVFP4": method("fouroversix"),
        "FP-Quant, NVFP4": method("fp_quant"),
        "FP-Quant, MXFP4": method("fp_quant", forward_dtype="mxfp4", forward_method="quest", hadamard_group_size=32),
        "Metal": groups("metal", 4),
        "GGUF, Q4_0": method("gguf", type="Q4_0"),
        "GGUF, Q4_K_M": method("gguf", type="Q4_K_M"),
    },
    "3 bits": {
        **at(3),
        "AutoRound, products=bfloat16": calibrated(groups("autoround", 3, **LIGHT, products="bfloat16")),
        "SpQR": calibrated(method("spqr")),
        "HIGGS": groups("higgs", 3, hadamard_size=64),
        "Quark, int3": groups("quark", 3),
        "GGUF, Q3_K_M": method("gguf", type="Q3_K_M"),
    },
    "2 bits": {
        **at(2),
        "AutoRound, products=bfloat16": calibrated(groups("autoround", 2, **LIGHT, products="bfloat16")),
        "AQLM 2x8, shortened": calibrated(method("aqlm", num_codebooks=2, nbits_per_codebook=8, **SHORT_AQLM)),
        "VPTQ": calibrated(method("vptq", vector_lens="-1,6", num_centroids="-1,4096", num_res_centroids="-1,-1")),
        "HIGGS": groups("higgs", 2, hadamard_size=64),
        "optimum-quanto, int2": method("quanto", weights="int2"),
        "Quark, int2": groups("quark", 2),
        "Metal": groups("metal", 2),
        "GGUF, Q2_K": method("gguf", type="Q2_K"),
    },
    "below 2 bits": {
        "HQQ, 1.58 bits": method("hqq", nbits="1.58", group_size=64),
        "HQQ, 1 bit": groups("hqq", 1),
        "SINQ, 1 bit": groups("sinq", 1),
        "BitNet, of a model not trained for it": method("bitnet"),
    },
}
ROWS = [(width, label, arguments) for width, rows in WIDTHS.items() for label, arguments in rows.items()]
