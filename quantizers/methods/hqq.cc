// HQQ: half-quadratic quantization, 1 to 8 bits, as hqq's BaseQuantizeConfig and Transformers'
// HqqConfig ask for it.
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "quantizers/codecs/hqq.h"
#include "quantizers/codecs/hqq_config.h"
#include "quantizers/method.h"
#include "quantizers/solvers/half_quadratic.h"

namespace quantd {
namespace {

class HqqScheme : public Scheme {
 public:
  HqqScheme(HqqParameters parameters, DType compute_dtype)
      : parameters_(parameters), compute_dtype_(compute_dtype) {}

  std::string Describe() const override {
    return absl::StrCat("hqq ", parameters_.bits->name, " bit, ",
                        parameters_.group_size ? absl::StrCat("group ", *parameters_.group_size)
                                               : "whole rows or columns",
                        ", axis ", parameters_.axis);
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    const int64_t group = parameters_.GroupSize(rows, cols);
    if (rows * cols % group != 0) {
      return absl::InvalidArgumentError(absl::StrCat("group_size ", group, " does not divide the ",
                                                     rows * cols, " weights; choose a divisor"));
    }
    const int64_t groups = rows * cols / group;
    const int64_t packed_rows = parameters_.axis == 1 ? groups : group;
    const HqqPacking& packing = parameters_.bits->packing;
    if (packing.word == DType::kU8 && packed_rows % packing.per_word != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("nbits ", parameters_.bits->name, " packs ", packing.per_word,
                       " rows of groups into one, but axis ", parameters_.axis, " and group_size ",
                       group, " give ", packed_rows, "; choose another group_size, axis or nbits"));
    }
    const int64_t row_bytes = (parameters_.axis == 1 ? group : groups) * SizeOf(packing.word);
    if (parameters_.view_as_float && row_bytes % SizeOf(compute_dtype_) != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "view_as_float: rows of ", row_bytes, " packed bytes are no whole number of ",
          InfoOf(compute_dtype_).torch_name, "s; set it to false"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    HalfQuadraticSpec spec;
    spec.bits = parameters_.bits->bits;
    spec.max_code = parameters_.bits->max_code;
    spec.group_size = parameters_.GroupSize(weight.shape[0], weight.shape[1]);
    spec.axis = parameters_.axis;
    spec.round_zero = parameters_.round_zero;
    spec.optimize = parameters_.optimize;
    ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeHalfQuadratic(weight, spec, StopOf(stats)));
    MarkHqq(parameters_, &out);
    return out;
  }

 private:
  HqqParameters parameters_;
  DType compute_dtype_;
};

class HqqRecipe : public Recipe {
 public:
  HqqRecipe(HqqConfig config, DType compute_dtype)
      : config_(std::move(config)), compute_dtype_(compute_dtype), codec_(config_) {
    for (const auto& [tag, parameters] : config_.layers) {
      schemes_.emplace(&parameters, HqqScheme(parameters, compute_dtype_));
    }
  }

  absl::string_view method() const override { return "hqq"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const HqqParameters* parameters = module.is_linear ? config_.Find(module.name) : nullptr;
    return parameters == nullptr ? nullptr : &schemes_.at(parameters);
  }
  // hqq casts the whole model to its compute_dtype.
  std::optional<DType> InputDType() const override { return compute_dtype_; }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteHqqConfig(config_);
  }

 private:
  const HqqConfig config_;
  DType compute_dtype_;
  std::map<const HqqParameters*, HqqScheme> schemes_;
  HqqCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> MakeHqq(HqqConfig config, DType compute_dtype) {
  RETURN_IF_ERROR(CheckHqqConfig(config));
  return std::make_unique<HqqRecipe>(std::move(config), compute_dtype);
}

absl::Status ReadGroupSize(const Options& options, HqqParameters* parameters) {
  const std::string& text = options.String("group_size");
  parameters->group_size.reset();
  if (text == "none") return absl::OkStatus();
  int64_t size;
  if (!absl::SimpleAtoi(text, &size)) {
    return absl::InvalidArgumentError(
        absl::StrCat("hqq: group_size: expected a positive multiple of 8, or none"));
  }
  parameters->group_size = size;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  HqqConfig config;
  HqqParameters& parameters = config.layers[""];
  parameters.bits = FindHqqBits(options.String("nbits"));
  RETURN_IF_ERROR(ReadGroupSize(options, &parameters));
  parameters.axis = static_cast<int>(options.Int("axis"));
  parameters.view_as_float = options.Bool("view_as_float");
  parameters.optimize = options.Bool("optimize");
  parameters.round_zero =
      options.IsSet("round_zero") ? options.Bool("round_zero") : parameters.bits->name == "4";
  if (options.IsSet("skip_modules")) config.skip_modules = options.StringList("skip_modules");
  return MakeHqq(std::move(config), *DTypeFromTorch(options.String("compute_dtype")));
}

// A quantization_config does not say the dtype: HQQLinear's default.
absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(HqqConfig config, ParseHqqConfig(json));
  return MakeHqq(std::move(config), DType::kF16);
}

std::vector<OptionSpec> HqqOptions() {
  using Type = OptionSpec::Type;
  return {
      {"nbits",
       Type::kString,
       "4",
       "bits per weight; 1.58 stands for three levels",
       {"1", "1.58", "2", "3", "4", "5", "6", "8"}},
      {"group_size",
       Type::kString,
       "64",
       "weights that share scale and zero point, a multiple of 8; none: whole rows (axis 1)",
       {}},
      {"axis", Type::kInt, "1", "1: groups along the inputs; 0: across the outputs", {"0", "1"}},
      {"view_as_float", Type::kBool, "false", "store packed bytes as compute_dtype", {}},
      {"optimize", Type::kBool, "true", "half-quadratic iteration; false: round to nearest", {}},
      {"round_zero", Type::kBool, "", "start from whole zero points; unset: with 4 bits only", {}},
      {"compute_dtype",
       Type::kString,
       "float16",
       "dtype of scales, zero points and everything that is kept",
       {"float16", "bfloat16", "float32"}},
      {"skip_modules", Type::kStringList, "lm_head", "modules to keep: parts of their names", {}},
  };
}

}  // namespace

Method HqqMethod() {
  Method method;
  method.name = "hqq";
  method.summary = "HQQ: integer groups whose zero points are found by half-quadratic splitting";
  method.bits = "1, 1.58, 2, 3, 4, 5, 6, 8";
  method.upstream = "hqq 0.2.8, Transformers 4.51";
  method.options = HqqOptions();
  method.bits_option = "nbits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd
