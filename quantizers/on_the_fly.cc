// Quantization while loading: a source whose matrices pass through a recipe when they are read.
#include <map>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/parameter_names.h"
#include "quantizers/pipeline.h"
#include "quantizers/plain_weight.h"
#include "quantizers/quantization_error.h"

namespace quantd {
namespace {

class QuantizingSource final : public ModelSource {
 public:
  QuantizingSource(std::unique_ptr<ModelSource> source, std::shared_ptr<const Recipe> recipe)
      : source_(std::move(source)), recipe_(std::move(recipe)), parameters_(source_->parameters()) {
    for (SourceParameter& parameter : parameters_) {
      const Scheme* scheme = SchemeOf(parameter);
      if (scheme == nullptr) continue;
      schemes_.emplace(parameter.name, scheme);
      stats_.emplace(parameter.name, recipe_->StatsOf(MakeModuleInfo(parameter, source_->config()),
                                                      source_->config()));
      parameter.is_quantized = true;
      parameter.stored_as = scheme->Describe();
    }
  }

  const ModelConfig& config() const override { return source_->config(); }
  const std::vector<SourceParameter>& parameters() const override { return parameters_; }
  bool Has(absl::string_view name) const override { return source_->Has(name); }

  absl::StatusOr<Weight> Read(absl::string_view name) const override {
    const auto scheme = schemes_.find(std::string(name));
    if (scheme == schemes_.end()) return source_->Read(name);
    const DType dtype = recipe_->InputDType().value_or(
        recipe_->gguf_policy() != nullptr ? DType::kF32 : config().dtype);
    ASSIGN_OR_RETURN(const SharedTensor plain, ReadPlain(*source_, name, dtype, scheme->second));
    const Shape& shape = plain.view.shape;
    if (absl::Status status = scheme->second->CheckShape(shape[0], shape[1]); !status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(name, " ", ToString(shape), ": ", status.message()));
    }
    RETURN_IF_ERROR(CheckFinite(name, plain.view, dtype));
    ASSIGN_OR_RETURN(QuantizedTensor quantized,
                     scheme->second->Quantize(plain.view, &stats_.at(scheme->first)));
    RETURN_IF_ERROR(plain.CheckIntact());
    return quantized;
  }

  std::string quantization() const override {
    return absl::StrCat(recipe_->method(), " (on the fly)");
  }
  absl::StatusOr<SideFiles> side_files() const override { return source_->side_files(); }
  const GgufMetadata* gguf_metadata() const override { return source_->gguf_metadata(); }
  uint64_t stored_bytes() const override { return source_->stored_bytes(); }

 private:
  const Scheme* SchemeOf(const SourceParameter& parameter) const {
    if (!IsWeightMatrix(parameter)) return nullptr;
    const ModuleInfo module = MakeModuleInfo(parameter, source_->config());
    return recipe_->SchemeFor(module, source_->config());
  }

  std::unique_ptr<ModelSource> source_;
  std::shared_ptr<const Recipe> recipe_;
  std::vector<SourceParameter> parameters_;
  std::map<std::string, const Scheme*> schemes_;
  std::map<std::string, InputStats> stats_;  // owned by the recipe
};

}  // namespace

std::unique_ptr<ModelSource> QuantizeOnTheFly(std::unique_ptr<ModelSource> source,
                                              std::shared_ptr<const Recipe> recipe) {
  return std::make_unique<QuantizingSource>(std::move(source), std::move(recipe));
}

}  // namespace quantd
