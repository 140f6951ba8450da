// FINEGRAINED_FP8: float8_e4m3fn in tiles, as DeepSeek publishes its models.
#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/fp8.h"
#include "quantizers/codecs/fp8_config.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/method.h"
#include "quantizers/solvers/activation_range.h"
#include "quantizers/solvers/fp8.h"

namespace quantd {
namespace {

class TileScheme : public Scheme {
 public:
  explicit TileScheme(const FineGrainedFp8Config& config)
      : tile_(config.tile),
        power_of_two_(config.scale_fmt == "ue8m0"),
        static_inputs_(config.is_static()) {}

  std::string Describe() const override {
    const std::string tile =
        tile_.rows > 0 ? absl::StrCat("tiles of ", tile_.rows, "x", tile_.cols) : "one scale";
    return absl::StrCat("fp8 ", tile, power_of_two_ ? ", power-of-two scales" : "",
                        static_inputs_ ? ", static inputs" : "");
  }
  // Upstream leaves a matrix alone that is no whole number of tiles.
  bool Fits(int64_t rows, int64_t cols) const {
    return tile_.rows == 0 || (rows % tile_.rows == 0 && cols % tile_.cols == 0);
  }
  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (Fits(rows, cols)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("a matrix of ", rows, "x", cols, " is no whole number of tiles of ",
                     tile_.rows, "x", tile_.cols, "; choose another weight_block_size"));
  }
  InputNeeds Needs() const override { return {.extremes = static_inputs_}; }

  // Upstream leaves static scales to whoever publishes the model; these are the largest input over
  // the largest number of the format.
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    if (weight.shape.size() == 2) RETURN_IF_ERROR(CheckShape(weight.shape[0], weight.shape[1]));
    ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeTilesFp8(weight, tile_, power_of_two_));
    if (!static_inputs_) return out;
    ASSIGN_OR_RETURN(const Tensor range,
                     ObservedRange(stats, {.kind = RangeObserver::Kind::kAll}, DType::kF32));
    const float largest = std::max(std::fabs(LoadFloat(range, 0)), std::fabs(LoadFloat(range, 1)));
    SetFp8InputScale(largest > 0 ? largest / kE4M3Max : 1.0f, &out);
    return out;
  }

 private:
  BlockShape tile_;
  bool power_of_two_;
  bool static_inputs_;
};

class Fp8Recipe : public Recipe {
 public:
  explicit Fp8Recipe(FineGrainedFp8Config config)
      : config_(std::move(config)),
        scheme_(config_),
        codec_(FineGrainedFp8Layout(config_.tile, config_.scale_fmt == "ue8m0", DType::kBF16,
                                    config_.is_static())) {}

  absl::string_view method() const override { return "fp8"; }

  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    if (!module.is_linear || !scheme_.Fits(module.rows, module.cols)) return nullptr;
    return IsSkipped(module, config_.modules_to_not_convert) ? nullptr : &scheme_;
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteFineGrainedFp8Config(config_);
  }
  std::optional<CalibrationSpec> calibration() const override {
    if (!config_.is_static()) return std::nullopt;
    return CalibrationSpec{.nsamples = 512, .true_sequential = false, .quantized_inputs = false};
  }

 private:
  FineGrainedFp8Config config_;
  TileScheme scheme_;
  Fp8Codec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> MakeFp8(FineGrainedFp8Config config) {
  RETURN_IF_ERROR(CheckFineGrainedFp8Config(config));
  if (config.has_modules_to_convert) {
    return absl::UnimplementedError(
        "modules_to_convert: embedding tables in fp8 are not supported; expected null");
  }
  return std::make_unique<Fp8Recipe>(std::move(config));
}

// "128,128", or "none" for one scale a matrix.
absl::Status ReadTile(const Options& options, BlockShape* tile) {
  if (options.String("weight_block_size") == "none") {
    *tile = {.rows = 0, .cols = 0};
    return absl::OkStatus();
  }
  constexpr int64_t kMaxTile = int64_t{1} << 24;
  const std::vector<std::string> sizes = options.StringList("weight_block_size");
  if (sizes.size() == 2 && absl::SimpleAtoi(sizes[0], &tile->rows) &&
      absl::SimpleAtoi(sizes[1], &tile->cols) && tile->rows > 0 && tile->cols > 0 &&
      tile->rows <= kMaxTile && tile->cols <= kMaxTile) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "fp8: option weight_block_size: expected rows,columns as in 128,128, or none");
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  FineGrainedFp8Config config;
  RETURN_IF_ERROR(ReadTile(options, &config.tile));
  config.scale_fmt = options.String("scale_fmt");
  config.activation_scheme = options.String("activation_scheme");
  config.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  return MakeFp8(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(FineGrainedFp8Config config, ParseFineGrainedFp8Config(json));
  return MakeFp8(std::move(config));
}

}  // namespace

Method FineGrainedFp8Method() {
  using Type = OptionSpec::Type;
  Method method;
  method.name = "fp8";
  method.summary = "FINEGRAINED_FP8: float8_e4m3fn tiles with float or power-of-two scales";
  method.bits = std::string("8");
  method.takes_calibration = true;
  method.upstream = "Transformers 5.23";
  method.options = {
      {"weight_block_size",
       Type::kStringList,
       "128,128",
       "rows,columns of a tile; none: one scale a matrix",
       {}},
      {"scale_fmt",
       Type::kString,
       "float",
       "float32 scales, or powers of two in one byte",
       {"float", "ue8m0"}},
      {"activation_scheme",
       Type::kString,
       "dynamic",
       "how upstream scales inputs: as they come, or with one scale of a calibration",
       {"dynamic", "static"}},
      ModulesToNotConvertSpec(),
  };
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd
