#include "quantizers/finite_source.h"

#include <utility>
#include <variant>

#include "quantizers/quantization_error.h"

namespace quantd {
namespace {

class FiniteSource final : public ModelSource {
 public:
  explicit FiniteSource(std::unique_ptr<ModelSource> source) : source_(std::move(source)) {}

  const ModelConfig& config() const override { return source_->config(); }
  const std::vector<SourceParameter>& parameters() const override { return source_->parameters(); }
  bool Has(absl::string_view name) const override { return source_->Has(name); }
  absl::StatusOr<Weight> Read(absl::string_view name) const override {
    ASSIGN_OR_RETURN(Weight weight, source_->Read(name));
    if (auto* tensor = std::get_if<Tensor>(&weight); tensor && InfoOf(tensor->dtype).is_float) {
      ZeroNonFinite(*tensor);
    }
    return weight;
  }
  std::string quantization() const override { return source_->quantization(); }
  absl::StatusOr<SideFiles> side_files() const override { return source_->side_files(); }
  const GgufMetadata* gguf_metadata() const override { return source_->gguf_metadata(); }
  uint64_t stored_bytes() const override { return source_->stored_bytes(); }

 private:
  const std::unique_ptr<ModelSource> source_;
};

}  // namespace

std::unique_ptr<ModelSource> WithZerosForNonFinite(std::unique_ptr<ModelSource> source) {
  return std::make_unique<FiniteSource>(std::move(source));
}

}  // namespace quantd
