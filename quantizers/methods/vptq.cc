// VPTQ: vectors down the rows with residual codebooks, 1 to 5 bits, as the VPTQ repository's branch
// algorithm makes them for vptq.
#include "quantizers/codecs/vptq.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "quantizers/method.h"
#include "quantizers/methods/calibrated_gram.h"
#include "quantizers/parameter_names.h"
#include "quantizers/solvers/vector_gptq.h"

namespace quantd {
namespace {

// What the options say of every layer, and how the codes are found.
struct Settings {
  VptqLayer layer;      // its sizes are those of each matrix
  double npercent = 0;  // of the columns that are outliers
  VectorGptqSpec spec;  // percdamp, kiter, ktol, seed
  DType dtype = DType::kF16;
};

// The layout of a matrix: the outliers take what groups do not divide.
VptqLayer LayerFor(const Settings& settings, const ModuleInfo& module) {
  VptqLayer layer = settings.layer;
  layer.in_features = module.cols;
  layer.out_features = module.rows;
  layer.bias = module.has_bias;
  const bool has_outliers = layer.outlier_vector_len > 1;
  layer.outlier_size = 0;
  if (has_outliers) {
    const auto wanted =
        static_cast<int64_t>(std::ceil(settings.npercent / 100 * static_cast<double>(module.cols)));
    layer.outlier_size = wanted + (module.cols - wanted) % layer.group_num;
  }
  layer.group_size = (module.cols - layer.outlier_size) / layer.group_num;
  return layer;
}

class VptqScheme : public Scheme {
 public:
  explicit VptqScheme(Settings settings) : settings_(std::move(settings)) {}

  std::string Describe() const override {
    const VptqLayer& layer = settings_.layer;
    return absl::StrCat(
        "vptq v", layer.vector_len, " k", layer.num_centroids,
        layer.has_residual() ? absl::StrCat("+", layer.num_res_centroids) : "",
        layer.group_num > 1 ? absl::StrCat(", ", layer.group_num, " groups") : "",
        layer.outlier_vector_len > 1 ? absl::StrCat(", ", settings_.npercent, "% outliers") : "");
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    const VptqLayer layer = LayerFor(settings_, Info(rows, cols));
    if (cols > 65536 && layer.enable_perm) {
      return absl::InvalidArgumentError(
          "at most 65536 columns can be permuted; set enable_perm=false");
    }
    if (layer.group_size < 1 || layer.group_size * layer.group_num + layer.outlier_size != cols) {
      return absl::InvalidArgumentError(
          absl::StrCat("group_num ", layer.group_num, " does not divide the ", cols, " columns"));
    }
    const auto check = [](int64_t vectors, int64_t centroids, const char* which) {
      if (vectors >= centroids) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat("a group has ", vectors, " vectors, fewer than the ", centroids, " of ",
                       which, "; choose fewer or list the layer in modules_to_not_convert"));
    };
    const int64_t vectors = Vectors(rows, layer.vector_len) * layer.group_size;
    RETURN_IF_ERROR(check(vectors, layer.num_centroids, "num_centroids"));
    RETURN_IF_ERROR(check(vectors, layer.num_res_centroids, "num_res_centroids"));
    if (layer.outlier_size == 0) return absl::OkStatus();
    return check(Vectors(rows, layer.outlier_vector_len) * layer.outlier_size,
                 layer.outlier_num_centroids, "the outliers' num_centroids");
  }

  InputNeeds Needs() const override { return {.gram = true}; }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    const int64_t rows = weight.shape[0], cols = weight.shape[1];
    ASSIGN_OR_RETURN(const std::vector<float> gram, MeanGram(stats, cols, "VPTQ"));
    const VptqLayer layer = LayerFor(settings_, Info(rows, cols));
    VectorGptqSpec spec = settings_.spec;
    spec.dtype = settings_.dtype;
    spec.vector_len = layer.vector_len;
    spec.centroids = layer.num_centroids;
    spec.residual_centroids = layer.has_residual() ? layer.num_res_centroids : 0;
    spec.outlier_size = layer.outlier_size;
    spec.outlier_vector_len = layer.outlier_vector_len;
    spec.outlier_centroids = layer.outlier_num_centroids;
    spec.group_num = layer.group_num;
    spec.enable_norm = layer.enable_norm;
    spec.enable_perm = layer.enable_perm;
    ASSIGN_OR_RETURN(VectorGptqResult found,
                     SolveVectorGptq(FloatsOf(weight), rows, cols, gram, spec, StopOf(stats)));
    return Assemble(layer, std::move(found));
  }

 private:
  static int64_t Vectors(int64_t rows, int64_t length) { return (rows + length - 1) / length; }
  static ModuleInfo Info(int64_t rows, int64_t cols) {
    ModuleInfo info;
    info.rows = rows;
    info.cols = cols;
    return info;
  }

  // Main and residual codes side by side.
  template <class Code>
  static void Fill(const VectorColumns& run, Grid* grid, std::vector<Code>* codes) {
    grid->table = run.centroids;
    grid->table.insert(grid->table.end(), run.residual.begin(), run.residual.end());
    for (size_t i = 0; i < run.codes.size(); ++i) {
      (*codes)[i * grid->codebooks] = static_cast<Code>(run.codes[i]);
      if (grid->codebooks > 1) {
        (*codes)[i * grid->codebooks + 1] = static_cast<Code>(run.residual_codes[i]);
      }
    }
  }

  QuantizedTensor Assemble(const VptqLayer& layer, VectorGptqResult found) const {
    QuantizedTensor out = EmptyVptq(layer, settings_.dtype);
    for (size_t i = 0; i < out.leading.size(); ++i) {
      Fill(found.columns[i], &out.leading[i].grid, &out.leading[i].wide_codes);
    }
    if (out.wide_codes.empty()) {
      Fill(found.columns.back(), &out.grid, &out.codes);
    } else {
      Fill(found.columns.back(), &out.grid, &out.wide_codes);
    }
    if (!std::is_sorted(found.order.begin(), found.order.end())) {
      out.input.permutation = std::move(found.order);
    }
    out.column_scale = std::move(found.column_scale);
    out.column_offset = std::move(found.column_offset);
    return out;
  }

  const Settings settings_;
};

class VptqRecipe : public Recipe {
 public:
  VptqRecipe(VptqConfig config, const Settings& settings)
      : config_(std::move(config)), settings_(settings), scheme_(settings), codec_(config_) {
    for (const auto* layers : {&config_.config_for_layers, &config_.shared_layer_config}) {
      for (const auto& [module, layer] : *layers) {
        Settings own = settings;
        own.layer = layer;
        own.npercent = 100.0 * static_cast<double>(layer.outlier_size) /
                       static_cast<double>(layer.in_features);
        own_.emplace(&layer, VptqScheme(own));
        own_settings_.emplace(&layer, own);
      }
    }
  }

  absl::string_view method() const override { return "vptq"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const bool takes = module.is_linear && !module.is_tied && module.layer >= 0;
    if (!takes || IsSkipped(module, config_.modules_to_not_convert)) return nullptr;
    const VptqLayer* layer = config_.Find(module.name);
    return layer == nullptr ? &scheme_ : &own_.at(layer);
  }
  std::optional<DType> InputDType() const override { return settings_.dtype; }
  std::optional<CalibrationSpec> calibration() const override { return CalibrationSpec{}; }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig& model) const override {
    return WriteVptqConfig(ConfigFor(model));
  }
  std::string QuantizationConfigFor(const ModelConfig& model,
                                    const std::vector<ModuleInfo>& quantized) const override {
    VptqConfig config = ConfigFor(model);
    config.config_for_layers.clear();
    config.shared_layer_config.clear();
    for (const ModuleInfo& module : quantized) {
      const VptqLayer* layer = config_.Find(module.name);
      config.config_for_layers[module.name] =
          LayerFor(layer == nullptr ? settings_ : own_settings_.at(layer), module);
    }
    return WriteVptqConfig(config);
  }

 private:
  // Loaders replace every linear that is not listed.
  VptqConfig ConfigFor(const ModelConfig& model) const {
    VptqConfig config = config_;
    for (const std::string& module : LinearsOutsideBlocks(model)) {
      if (!config.modules_to_not_convert) config.modules_to_not_convert.emplace();
      config.modules_to_not_convert->push_back(module);
    }
    return config;
  }

  const VptqConfig config_;
  const Settings settings_;
  VptqScheme scheme_;
  std::map<const VptqLayer*, VptqScheme> own_;  // of layers that the given config names
  std::map<const VptqLayer*, Settings> own_settings_;
  VptqCodec codec_;
};

// Two integers, of the outlier columns and of the others.
absl::StatusOr<std::pair<int, int>> ReadPair(const Options& options, const char* name, int min,
                                             int max) {
  const std::vector<std::string> texts = options.StringList(name);
  int values[2] = {0, 0};
  bool fits = texts.size() == 2;
  for (size_t i = 0; fits && i < 2; ++i) {
    fits = absl::SimpleAtoi(texts[i], &values[i]) &&
           (values[i] == -1 || (values[i] >= min && values[i] <= max));
  }
  if (fits) return std::pair(values[0], values[1]);
  return absl::InvalidArgumentError(absl::StrCat("vptq: ", name, ": expected two integers from ",
                                                 min, " to ", max,
                                                 " or -1, of outliers and of the other columns"));
}

bool IsPowerOfTwo(int value) { return value > 1 && std::has_single_bit(unsigned(value)); }

absl::Status ReadCodebooks(const Options& options, VptqLayer* layer) {
  ASSIGN_OR_RETURN(const auto lengths, ReadPair(options, "vector_lens", 1, 64));
  ASSIGN_OR_RETURN(const auto centroids, ReadPair(options, "num_centroids", 2, 65536));
  ASSIGN_OR_RETURN(const auto residuals, ReadPair(options, "num_res_centroids", 2, 65536));
  layer->outlier_vector_len = lengths.first;
  layer->vector_len = lengths.second;
  layer->outlier_num_centroids = centroids.first;
  layer->num_centroids = centroids.second;
  layer->num_res_centroids = residuals.second;
  if (layer->vector_len < 1) {
    return absl::InvalidArgumentError("vptq: vector_lens: expected a positive second number");
  }
  if (!IsPowerOfTwo(layer->num_centroids)) {
    return absl::InvalidArgumentError(
        "vptq: num_centroids: expected a power of two as the second number");
  }
  if (residuals.first != -1 ||
      (layer->has_residual() && (!IsPowerOfTwo(layer->num_res_centroids) ||
                                 layer->num_res_centroids > layer->num_centroids))) {
    return absl::InvalidArgumentError(
        "vptq: num_res_centroids: expected -1 and then -1 or a power of two up to num_centroids");
  }
  const bool has_outliers = layer->outlier_vector_len > 1;
  if (has_outliers != IsPowerOfTwo(layer->outlier_num_centroids)) {
    return absl::InvalidArgumentError(
        "vptq: vector_lens and num_centroids: outliers need a length above 1 and a power of two of "
        "centroids; -1 for both means none");
  }
  return absl::OkStatus();
}

absl::Status CheckSettings(const Settings& settings) {
  const auto wrong = [](const char* name, const char* expected) {
    return absl::InvalidArgumentError(absl::StrCat("vptq: ", name, ": expected ", expected));
  };
  const bool has_outliers = settings.layer.outlier_vector_len > 1;
  if (settings.npercent < 0 || settings.npercent >= 100 ||
      (settings.npercent > 0) != has_outliers) {
    return wrong("npercent", "0 to 100, above 0 just when vector_lens names outliers");
  }
  if (settings.layer.group_num < 1 || settings.layer.group_num > 65536) {
    return wrong("group_num", "1 to 65536");
  }
  if (settings.spec.percdamp < 0 || settings.spec.percdamp > 100) {
    return wrong("percdamp", "0 to 100");
  }
  if (settings.spec.kiter < 1) return wrong("kiter", "a positive number");
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  Settings settings;
  RETURN_IF_ERROR(ReadCodebooks(options, &settings.layer));
  settings.layer.group_num = options.Int("group_num");
  settings.layer.enable_norm = options.Bool("enable_norm");
  settings.layer.enable_perm = options.Bool("enable_perm");
  settings.npercent = options.Float("npercent");
  settings.spec.percdamp = options.Float("percdamp");
  settings.spec.kiter = static_cast<int>(std::min<int64_t>(options.Int("kiter"), 1000000));
  settings.spec.ktol = options.Float("ktol");
  settings.spec.seed = static_cast<uint64_t>(options.Int("kseed"));
  settings.dtype = *DTypeFromTorch(options.String("dtype"));
  RETURN_IF_ERROR(CheckSettings(settings));
  VptqConfig config;
  config.modules_to_not_convert = options.StringList("modules_to_not_convert");
  return std::make_unique<VptqRecipe>(std::move(config), settings);
}

Settings DefaultSettings() {
  Settings settings;
  settings.layer.num_res_centroids = 256;
  settings.layer.enable_norm = settings.layer.enable_perm = true;
  return settings;
}

// Layers that the config does not name take the defaults.
absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(VptqConfig config, ParseVptqConfig(json));
  return std::make_unique<VptqRecipe>(std::move(config), DefaultSettings());
}

std::vector<OptionSpec> VptqOptions() {
  using Type = OptionSpec::Type;
  return {
      {"vector_lens",
       Type::kStringList,
       "-1,8",
       "rows that one code stands for, of outlier columns (-1: none) and of the others",
       {}},
      {"num_centroids",
       Type::kStringList,
       "-1,65536",
       "centroids, powers of two, of outlier columns (-1: none) and of the others",
       {}},
      {"num_res_centroids",
       Type::kStringList,
       "-1,256",
       "centroids of what is left (-1: none); outlier columns have none",
       {}},
      {"npercent", Type::kFloat, "0", "percent of the columns that are outliers", {}},
      {"group_num", Type::kInt, "1", "groups of columns with centroids of their own", {}},
      {"enable_norm", Type::kBool, "true", "shift and scale every column to 0..1", {}},
      {"enable_perm", Type::kBool, "true", "columns by falling Hessian diagonal", {}},
      {"percdamp", Type::kFloat, "0.01", "dampening of the Hessian, times its mean diagonal", {}},
      {"kiter", Type::kInt, "100", "iterations of k-means at most", {}},
      {"ktol", Type::kFloat, "0.00001", "its tolerance", {}},
      {"kseed", Type::kInt, "0", "of its start", {}},
      {"modules_to_not_convert", Type::kStringList, "lm_head", "modules to keep", {}},
      {"dtype",
       Type::kString,
       "float16",
       "dtype of centroids, scales and everything that is kept",
       {"float16", "bfloat16"}},
  };
}

}  // namespace

Method VptqMethod() {
  Method method;
  method.name = "vptq";
  method.summary = "VPTQ: vectors of weights by codebooks, with GPTQ's corrections; 1 to 5 bits";
  method.bits = "1-5";
  method.needs_calibration = true;
  method.on_the_fly = false;
  method.opencl = false;  // it runs there dense
  method.upstream = "vptq 0.0.5, Transformers 4.56 (NVIDIA only)";
  method.options = VptqOptions();
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd
