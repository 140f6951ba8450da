// bitsandbytes: NF4 and FP4 (QLoRA) and LLM.int8, as Transformers' BitsAndBytesConfig asks for
// them.
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/bitsandbytes.h"
#include "quantizers/codecs/bitsandbytes_config.h"
#include "quantizers/method.h"
#include "quantizers/solvers/absmax.h"
#include "quantizers/solvers/block_walk.h"

namespace quantd {
namespace {

class FourBitScheme : public Scheme {
 public:
  FourBitScheme(const BitsAndBytesConfig& config, int64_t block_size)
      : quant_type_(config.bnb_4bit_quant_type),
        storage_(config.bnb_4bit_quant_storage),
        spec_{quant_type_ == "nf4" ? &Nf4Table() : &Fp4Table(), block_size,
              config.bnb_4bit_use_double_quant} {}

  std::string Describe() const override {
    return absl::StrCat(quant_type_, " block ", spec_.block_size,
                        spec_.double_quant ? " double quantized" : "");
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    const int64_t width = SizeOf(DTypeFromTorch(storage_).value_or(DType::kU8));
    const int64_t bytes = (rows * cols + 1) / 2;
    if (bytes % width == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("bnb_4bit_quant_storage ", storage_, ": a matrix of ", rows, "x", cols,
                     " packs into ", bytes, " bytes, no whole number of elements; use uint8"));
  }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats*) const override {
    ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeFourBit(weight, spec_));
    out.attributes[kBnbQuantType] = quant_type_;
    out.attributes[kBnbStorage] = storage_;
    return out;
  }

 private:
  std::string quant_type_;
  std::string storage_;
  FourBitSpec spec_;
};

class Int8Scheme : public Scheme {
 public:
  std::string Describe() const override { return "int8 rows (LLM.int8)"; }
  absl::Status CheckShape(int64_t, int64_t) const override { return absl::OkStatus(); }
  bool ConvertsItself() const override { return true; }  // into float16
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats*) const override {
    ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeRowsInt8(weight));
    MarkLlmInt8(&out);
    return out;
  }
};

class BitsAndBytesRecipe : public Recipe {
 public:
  BitsAndBytesRecipe(BitsAndBytesConfig config, int64_t block_size)
      : config_(std::move(config)), four_bit_(config_, block_size) {}

  absl::string_view method() const override { return "bitsandbytes"; }

  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    if (!module.is_linear || IsSkipped(module, config_.llm_int8_skip_modules)) return nullptr;
    return config_.load_in_8bit ? static_cast<const Scheme*>(&int8_) : &four_bit_;
  }

  // Transformers loads a model for LLM.int8 in float16, what it keeps unquantized included.
  std::optional<DType> InputDType() const override {
    return config_.load_in_8bit ? std::optional<DType>(DType::kF16) : std::nullopt;
  }

  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteBitsAndBytesConfig(config_);
  }

 private:
  BitsAndBytesConfig config_;
  FourBitScheme four_bit_;
  Int8Scheme int8_;
  BitsAndBytesCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> MakeBitsAndBytes(BitsAndBytesConfig config,
                                                         int64_t block_size) {
  RETURN_IF_ERROR(CheckBitsAndBytesConfig(config));
  return std::make_unique<BitsAndBytesRecipe>(std::move(config), block_size);
}

// `bits` and the two upstream switches say the same thing; whoever is set must agree.
absl::Status ReadWidth(const Options& options, BitsAndBytesConfig* config) {
  config->load_in_8bit = options.Bool("load_in_8bit");
  config->load_in_4bit = options.Bool("load_in_4bit");
  if (options.IsSet("bits")) {
    const bool in_8bit = options.Int("bits") == 8;
    if (in_8bit ? config->load_in_4bit : config->load_in_8bit) {
      return absl::InvalidArgumentError(
          absl::StrCat("bitsandbytes: bits ", options.Int("bits"), " contradicts ",
                       in_8bit ? "load_in_4bit" : "load_in_8bit", "; set one of them"));
    }
    config->load_in_8bit = in_8bit;
    config->load_in_4bit = !in_8bit;
  } else if (!config->load_in_8bit && !config->load_in_4bit) {
    config->load_in_4bit = true;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  BitsAndBytesConfig config;
  RETURN_IF_ERROR(ReadWidth(options, &config));
  config.bnb_4bit_quant_type = options.String("bnb_4bit_quant_type");
  config.bnb_4bit_use_double_quant = options.Bool("bnb_4bit_use_double_quant");
  config.bnb_4bit_compute_dtype = options.String("bnb_4bit_compute_dtype");
  config.bnb_4bit_quant_storage = options.String("bnb_4bit_quant_storage");
  config.llm_int8_threshold = options.Float("llm_int8_threshold");
  config.llm_int8_skip_modules = options.OptionalStringList("llm_int8_skip_modules");
  return MakeBitsAndBytes(std::move(config), options.Int("bnb_4bit_blocksize"));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(BitsAndBytesConfig config, ParseBitsAndBytesConfig(json));
  return MakeBitsAndBytes(std::move(config), /*block_size=*/64);
}

std::vector<OptionSpec> BitsAndBytesOptions() {
  using Type = OptionSpec::Type;
  return {
      {"bits", Type::kInt, "4", "short for load_in_4bit or load_in_8bit", {"4", "8"}},
      {"load_in_4bit", Type::kBool, "false", "4-bit blocks: NF4 or FP4", {}},
      {"load_in_8bit", Type::kBool, "false", "LLM.int8: int8 rows, outlier inputs in float16", {}},
      {"bnb_4bit_quant_type", Type::kString, "fp4", "table of the 4-bit codes", {"fp4", "nf4"}},
      {"bnb_4bit_use_double_quant",
       Type::kBool,
       "false",
       "quantize the block scales to 8 bits too (0.37 bits per weight less)",
       {}},
      {"bnb_4bit_compute_dtype",
       Type::kString,
       "float32",
       "dtype that upstream multiplies in; written to config.json",
       {"float32", "float16", "bfloat16"}},
      {"bnb_4bit_quant_storage",
       Type::kString,
       "uint8",
       "dtype that carries the packed bytes",
       {"uint8", "int8", "float16", "bfloat16", "float32", "float64"}},
      {"bnb_4bit_blocksize",
       Type::kInt,
       "64",
       "elements that share a scale (upstream's Params4bit blocksize)",
       {"32", "64", "128", "256", "512", "1024", "2048", "4096"}},
      {"llm_int8_threshold",
       Type::kFloat,
       "6.0",
       "inputs of at least this magnitude are multiplied in float16; written to config.json",
       {}},
      {"llm_int8_skip_modules",
       Type::kStringList,
       "",
       "modules to keep, for both widths; unset: lm_head, tied weights, the last module",
       {}},
  };
}

}  // namespace

Method BitsAndBytesMethod() {
  Method method;
  method.name = "bitsandbytes";
  method.summary = "NF4 and FP4 blocks with optional double quantization; LLM.int8 rows";
  method.bits = "4, 8";
  method.upstream = "Transformers 5.23 with bitsandbytes 0.50.2";
  method.options = BitsAndBytesOptions();
  method.bits_option = "bits";
  method.group_size_option = "bnb_4bit_blocksize";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd
