// ModelSource over a GGUF file: Hugging Face names and row order, blocks decoded on reading.
#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "formats/gguf/gguf.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/model_source.h"

namespace quantd {
namespace {

bool IsBlockType(GgmlType type) {
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(type));
  return info != nullptr && info->block_elements > 1;
}

class GgufSource final : public ModelSource {
 public:
  GgufSource(std::unique_ptr<GgufReader> reader, ModelConfig config)
      : reader_(std::move(reader)), config_(std::move(config)) {}

  absl::Status Index() {
    for (const GgufTensorInfo& tensor : reader_->header().tensors) {
      if (std::vector<float>* divisors = RopeDivisors(tensor.name)) {
        RETURN_IF_ERROR(ReadRopeDivisors(tensor, *divisors));
        continue;
      }
      const std::optional<std::string> name = HfNameFor(config_, tensor.name);
      if (!name) {
        return absl::UnimplementedError(absl::StrCat(
            "GGUF tensor ", tensor.name, " has no counterpart in ", config_.architecture));
      }
      const GgmlTypeInfo* type = FindGgmlType(static_cast<uint32_t>(tensor.type));
      largest_type_ = std::max(largest_type_, {tensor.bytes, std::string(type->name)});
      Add({*name, tensor.shape, IsBlockType(tensor.type), std::string(type->name), tensor.bytes},
          tensor);
    }
    return absl::OkStatus();
  }

  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceParameter>& parameters() const override { return parameters_; }
  bool Has(absl::string_view name) const override { return tensors_.contains(std::string(name)); }

  absl::StatusOr<Weight> Read(absl::string_view name) const override {
    const auto found = tensors_.find(std::string(name));
    if (found == tensors_.end()) {
      return absl::NotFoundError(absl::StrCat("the GGUF has no parameter ", name));
    }
    ASSIGN_OR_RETURN(Weight weight, Decode(*found->second));
    return PermuteRows(std::move(weight), RowOrderToHf(config_, name));
  }

  std::optional<SharedTensor> Lend(absl::string_view name) const override {
    const auto found = tensors_.find(std::string(name));
    if (found == tensors_.end() || !RowOrderToHf(config_, name).empty()) return std::nullopt;
    const GgufTensorInfo& tensor = *found->second;
    const std::optional<DType> dtype = PlainDTypeOf(tensor.type);
    if (!dtype) return std::nullopt;
    absl::StatusOr<SharedTensor> lent = reader_->Lend(tensor.name);
    if (!lent.ok()) return std::nullopt;  // Read says why
    lent->view.dtype = *dtype;
    lent->view.shape = tensor.shape;
    return *std::move(lent);
  }

  std::string quantization() const override {
    bool any = false;
    for (const SourceParameter& parameter : parameters_) any |= parameter.is_quantized;
    return any ? absl::StrCat("gguf ", FileTypeName()) : "none";
  }
  absl::StatusOr<SideFiles> side_files() const override { return SideFiles{}; }
  const GgufMetadata* gguf_metadata() const override { return &reader_->header().metadata; }
  uint64_t stored_bytes() const override { return stored_bytes_; }

 private:
  absl::StatusOr<Weight> Decode(const GgufTensorInfo& tensor) const {
    ASSIGN_OR_RETURN(const SharedTensor blocks, reader_->Lend(tensor.name));
    auto weight = DecodeGgufBlocks(tensor.type, tensor.shape, blocks.view.bytes);
    RETURN_IF_ERROR(blocks.CheckIntact());
    if (!weight.ok()) {
      return absl::Status(weight.status().code(),
                          absl::StrCat("tensor ", tensor.name, ": ", weight.status().message()));
    }
    return weight;
  }

  // Where the divisors of rotary frequencies go that the tensor `name` holds; null: it holds none.
  std::vector<float>* RopeDivisors(absl::string_view name) {
    RopeScaling& scaling = config_.rope_scaling;
    if (name == kRopeFrequencies) return &scaling.frequency_divisors;
    if (scaling.kind != RopeScaling::Kind::kLongRope) return nullptr;
    if (name == kRopeLongFactors) return &scaling.long_factors;
    return name == kRopeShortFactors ? &scaling.short_factors : nullptr;
  }

  absl::Status ReadRopeDivisors(const GgufTensorInfo& tensor, std::vector<float>& divisors) {
    ASSIGN_OR_RETURN(const Weight weight, Decode(tensor));
    const Tensor* values = std::get_if<Tensor>(&weight);
    const int64_t pairs = config_.rotary_dims() / 2;
    if (values == nullptr || values->view().elements() != pairs) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, ": expected ", pairs,
                       " plain values (half of a head's rotated dimensions)"));
    }
    divisors.resize(static_cast<size_t>(pairs));
    LoadFloats(*values, 0, pairs, divisors.data());
    for (const float divisor : divisors) {
      if (std::isfinite(divisor) && divisor > 0) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, ": found ", divisor,
                       ", expected positive finite numbers (they divide frequencies)"));
    }
    return absl::OkStatus();
  }

  // The name that general.file_type stands for, else the type of the largest tensor.
  std::string FileTypeName() const {
    const auto number = gguf_metadata()->Integer("general.file_type");
    if (number.ok() && *number) {
      for (const std::string& name : GgufTypePolicy::KnownFileTypes()) {
        const auto policy = GgufTypePolicy::ForFileType(name, /*pure=*/false);
        if (policy.ok() && policy->file_type() == **number) return std::string(policy->name());
      }
    }
    return largest_type_.second;
  }

  void Add(SourceParameter parameter, const GgufTensorInfo& tensor) {
    stored_bytes_ += tensor.bytes;
    tensors_.emplace(parameter.name, &tensor);
    parameters_.push_back(std::move(parameter));
  }

  std::unique_ptr<GgufReader> reader_;
  ModelConfig config_;
  std::vector<SourceParameter> parameters_;
  std::map<std::string, const GgufTensorInfo*> tensors_;
  std::pair<uint64_t, std::string> largest_type_;
  uint64_t stored_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufModel(
    std::vector<std::shared_ptr<const File>> parts) {
  absl::StatusOr<std::unique_ptr<GgufReader>> opened =
      parts.size() == 1 ? GgufReader::Open(std::move(parts[0]))
                        : GgufReader::OpenSplit(std::move(parts));
  RETURN_IF_ERROR(opened.status());
  std::unique_ptr<GgufReader> reader = *std::move(opened);
  ASSIGN_OR_RETURN(ModelConfig config, ConfigFromGguf(reader->header()));
  auto source = std::make_unique<GgufSource>(std::move(reader), std::move(config));
  RETURN_IF_ERROR(source->Index());
  return source;
}

}  // namespace quantd
