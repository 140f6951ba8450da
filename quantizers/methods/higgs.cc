// HIGGS: Hadamard rotation and grids for normal values, 2 to 4 bits, as Transformers' HiggsConfig
// asks for it.
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/higgs.h"
#include "quantizers/codecs/higgs_config.h"
#include "quantizers/grids/higgs.h"
#include "quantizers/method.h"
#include "quantizers/solvers/rotated_grid.h"

namespace quantd {
namespace {

class HiggsScheme : public Scheme {
 public:
  HiggsScheme(const HiggsConfig& config, int tile)
      : packing_{.bits = config.bits, .tile = tile},
        spec_{HiggsGrid(config.bits, config.p), config.p, config.hadamard_size, config.group_size} {
  }

  std::string Describe() const override {
    return absl::StrCat("higgs ", packing_.bits, " bit, p ", spec_.dimensions, ", group ",
                        spec_.group_size, ", rotated by ", spec_.hadamard_size);
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (cols % spec_.hadamard_size != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "hadamard_size ", spec_.hadamard_size, " does not divide the ", cols,
          " columns; choose a smaller power of two or list the layer in modules_to_not_convert"));
    }
    if (rows % packing_.row_multiple() != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the packing of ", packing_.bits, " bits needs rows in multiples of ",
                       packing_.row_multiple(), ", found ", rows,
                       "; choose other bits or list the layer in modules_to_not_convert"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeRotatedGrid(weight, spec_, StopOf(stats)));
    MarkHiggs(packing_, &out);
    return out;
  }

 private:
  FlutePacking packing_;
  RotatedGridSpec spec_;
};

class HiggsRecipe : public Recipe {
 public:
  HiggsRecipe(HiggsConfig config, DType dtype)
      : config_(std::move(config)),
        dtype_(dtype),
        narrow_(config_, 32),
        wide_(config_, 64),
        codec_(config_) {}

  absl::string_view method() const override { return "higgs"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    if (!module.is_linear || IsSkipped(module, config_.modules_to_not_convert)) return nullptr;
    return config_.PackingOf(TuningOf(module)).tile == 64 ? &wide_ : &narrow_;
  }
  // FLUTE's kernels know float16 and bfloat16.
  std::optional<DType> InputDType() const override { return dtype_; }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteHiggsConfig(config_);
  }
  std::string QuantizationConfigFor(const ModelConfig&,
                                    const std::vector<ModuleInfo>& quantized) const override {
    HiggsConfig config = config_;
    config.tune_metadata.clear();
    for (const ModuleInfo& module : quantized) {
      config.tune_metadata[module.name] = TuningOf(module);
    }
    return WriteHiggsConfig(config);
  }

 private:
  // What the given config says of the module when it is about the same shape and dtype.
  HiggsTuning TuningOf(const ModuleInfo& module) const {
    const HiggsTuning* given = config_.Find(module.name);
    const bool fits = given != nullptr && given->n == module.rows && given->k == module.cols &&
                      given->dtype == dtype_;
    return fits ? *given : config_.DefaultTuning(module.rows, module.cols, dtype_);
  }

  const HiggsConfig config_;
  DType dtype_;
  HiggsScheme narrow_;
  HiggsScheme wide_;
  HiggsCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  HiggsConfig config;
  config.bits = static_cast<int>(options.Int("bits"));
  config.p = static_cast<int>(options.Int("p"));
  config.group_size = options.Int("group_size");
  config.hadamard_size = options.Int("hadamard_size");
  config.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  RETURN_IF_ERROR(CheckHiggsConfig(config));
  return std::make_unique<HiggsRecipe>(std::move(config), *DTypeFromTorch(options.String("dtype")));
}

// The dtype is that of the layers that the config was made for, else float16: Transformers' loader
// would damage the tables of a bfloat16 checkpoint.
absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(HiggsConfig config, ParseHiggsConfig(json));
  const DType dtype =
      config.tune_metadata.empty() ? DType::kF16 : config.tune_metadata.begin()->second.dtype;
  return std::make_unique<HiggsRecipe>(std::move(config), dtype);
}

std::vector<OptionSpec> HiggsOptions() {
  using Type = OptionSpec::Type;
  return {
      {"bits", Type::kInt, "4", "bits per weight", {"2", "3", "4"}},
      {"p", Type::kInt, "2", "weights that one code stands for", {"1", "2"}},
      {"group_size",
       Type::kInt,
       "256",
       "columns that a stored scale is for; divides hadamard_size",
       {"64", "128", "256"}},
      {"hadamard_size",
       Type::kInt,
       "512",
       "columns that are rotated together: a power of two that divides the columns",
       {}},
      ModulesToNotConvertSpec(),
      {"dtype",
       Type::kString,
       "float16",
       "dtype of scales, grid and everything that is kept",
       {"float16", "bfloat16"}},
  };
}

}  // namespace

Method HiggsMethod() {
  Method method;
  method.name = "higgs";
  method.summary = "HIGGS: Hadamard rotation and grids of least error for normal values";
  method.bits = "2, 3, 4";
  method.opencl = false;  // packed; it runs there dense
  method.upstream = "Transformers 5.23 with flute-kernel 0.4.2 (NVIDIA only)";
  method.options = HiggsOptions();
  method.bits_option = "bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd
