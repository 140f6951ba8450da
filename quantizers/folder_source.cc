// ModelSource over a Hugging Face checkpoint folder: plain tensors as they are, quantized modules
// through the codec that config.json names.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "quantizers/codecs/awq_config.h"
#include "quantizers/codecs/gptq_config.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/codecs/quanto_config.h"
#include "quantizers/model_source.h"
#include "quantizers/parameter_names.h"

namespace quantd {
namespace {

class FolderModule final : public ModuleTensors {
 public:
  FolderModule(const CheckpointFolder& folder, std::string module, std::vector<std::string> names)
      : folder_(folder), module_(std::move(module)), names_(std::move(names)) {}

  const std::string& module() const override { return module_; }
  std::vector<std::string> names() const override { return names_; }
  bool Has(absl::string_view local) const override {
    return folder_.Find(FullName(local)) != nullptr;
  }
  absl::StatusOr<TensorView> Describe(absl::string_view local) const override {
    const TensorInfo* info = folder_.Find(FullName(local));
    if (info == nullptr) {
      return absl::NotFoundError(absl::StrCat("tensor ", FullName(local), " is missing"));
    }
    return TensorView{info->dtype, info->shape, {}};
  }
  absl::StatusOr<Tensor> Read(absl::string_view local) const override {
    return folder_.Read(FullName(local));
  }
  std::string HeaderText(absl::string_view local) const override {
    return folder_.Metadata(FullName(local));
  }

 private:
  std::string FullName(absl::string_view local) const {
    return module_.empty() ? std::string(local) : absl::StrCat(module_, ".", local);
  }

  const CheckpointFolder& folder_;
  std::string module_;
  std::vector<std::string> names_;
};

class FolderSource final : public ModelSource {
 public:
  FolderSource(std::unique_ptr<CheckpointFolder> folder, ModelConfig config,
               std::unique_ptr<Codec> codec)
      : folder_(std::move(folder)), config_(std::move(config)), codec_(std::move(codec)) {}

  // Sorts the stored tensors into parameters.
  absl::Status Index() {
    std::map<std::string, std::vector<std::string>> modules;
    for (const std::string& name : folder_->names()) {
      const ParameterName split = SplitParameterName(name);
      modules[split.module].push_back(split.local);
    }
    for (auto& [module, locals] : modules) {
      modules_.emplace(module, FolderModule(*folder_, module, std::move(locals)));
    }
    for (const std::string& name : folder_->names()) {
      RETURN_IF_ERROR(AddParameterOf(name));
    }
    return absl::OkStatus();
  }

  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceParameter>& parameters() const override { return parameters_; }
  bool Has(absl::string_view name) const override { return index_.contains(std::string(name)); }

  absl::StatusOr<Weight> Read(absl::string_view name) const override {
    const auto found = index_.find(std::string(name));
    if (found == index_.end()) {
      return absl::NotFoundError(absl::StrCat("the checkpoint has no parameter ", name));
    }
    if (parameters_[found->second].is_quantized) {
      ASSIGN_OR_RETURN(QuantizedTensor weight,
                       codec_->Decode(modules_.at(SplitParameterName(name).module)));
      if (absl::Status status = Validate(weight); !status.ok()) {
        return absl::InvalidArgumentError(absl::StrCat(name, ": ", status.message()));
      }
      return weight;
    }
    ASSIGN_OR_RETURN(Tensor tensor, folder_->Read(name));
    return tensor;
  }

  std::optional<SharedTensor> Lend(absl::string_view name) const override {
    const auto found = index_.find(std::string(name));
    if (found == index_.end() || parameters_[found->second].is_quantized) return std::nullopt;
    absl::StatusOr<SharedTensor> lent = folder_->Lend(name);
    if (!lent.ok()) return std::nullopt;  // Read says why
    return *std::move(lent);
  }

  std::string quantization() const override {
    return codec_ ? std::string(codec_->quant_method()) : "none";
  }
  absl::StatusOr<SideFiles> side_files() const override { return folder_->ReadSideFiles(); }
  uint64_t stored_bytes() const override { return folder_->stored_bytes(); }

 private:
  static uint64_t BytesOf(const TensorInfo& info) { return info.end - info.begin; }

  absl::Status AddParameterOf(const std::string& tensor_name) {
    const ParameterName split = SplitParameterName(tensor_name);
    const FolderModule& module = modules_.at(split.module);
    const TensorInfo& info = *folder_->Find(tensor_name);
    if (codec_ && codec_->IsQuantized(module)) {
      const std::vector<std::string> owned = codec_->WeightTensors(module);
      if (std::find(owned.begin(), owned.end(), split.local) != owned.end()) {
        return AddQuantized(split.module, module, owned);
      }
    }
    Add({tensor_name, info.shape, false, std::string(InfoOf(info.dtype).safetensors_name),
         BytesOf(info)});
    return codec_ ? CheckGroupSize(parameters_.back()) : absl::OkStatus();
  }

  // Of a parameter that is stored plain.
  absl::Status CheckGroupSize(const SourceParameter& parameter) const {
    if (!IsWeightMatrix(parameter)) return absl::OkStatus();
    const ModuleInfo module = MakeModuleInfo(parameter, config_);
    const int64_t size = module.is_linear ? codec_->GroupSizeOf(module) : 0;
    if (size <= 0 || module.cols % size == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("quantization_config: group_size: found ", size, " for ", module.name,
                     ", expected a divisor of its ", module.cols,
                     " columns, or a configuration that leaves the module out"));
  }

  absl::Status AddQuantized(const std::string& name, const FolderModule& module,
                            const std::vector<std::string>& owned) {
    const std::string weight = absl::StrCat(name, ".weight");
    if (index_.contains(weight)) return absl::OkStatus();  // seen with another of its tensors
    ASSIGN_OR_RETURN(Shape shape, codec_->MatrixShape(module));
    uint64_t bytes = 0;
    for (const std::string& local : owned) {
      if (const TensorInfo* info = folder_->Find(absl::StrCat(name, ".", local))) {
        bytes += BytesOf(*info);
      }
    }
    Add({weight, std::move(shape), true, std::string(codec_->quant_method()), bytes});
    return absl::OkStatus();
  }

  void Add(SourceParameter parameter) {
    index_.emplace(parameter.name, parameters_.size());
    parameters_.push_back(std::move(parameter));
  }

  std::unique_ptr<CheckpointFolder> folder_;
  ModelConfig config_;
  std::unique_ptr<Codec> codec_;  // null: nothing is quantized
  std::map<std::string, FolderModule> modules_;
  std::vector<SourceParameter> parameters_;
  std::map<std::string, size_t> index_;
};

// JSON text of what is quantized: config.json's quantization_config, or what optimum-quanto and
// AutoGPTQ keep in files of their own.
absl::StatusOr<std::string> QuantizationConfigOf(const Directory& directory,
                                                 const ModelConfig& config) {
  constexpr size_t kMapLimit = size_t{16} << 20;
  for (const char* name : {"quanto_qmap.json", "quantization_map.json"}) {
    if (!directory.Contains(name)) continue;
    if (!config.quantization_config.empty()) {
      ASSIGN_OR_RETURN(const std::string method, QuantMethodOf(config.quantization_config));
      if (method == "quanto") continue;
      return absl::InvalidArgumentError(
          absl::StrCat("config.json says quant_method \"", method, "\", but ", name,
                       " is quanto's; remove the one that does not belong to the checkpoint"));
    }
    ASSIGN_OR_RETURN(const std::shared_ptr<const File> file, directory.OpenFile(name));
    ASSIGN_OR_RETURN(const std::string map, file->ReadAll(kMapLimit));
    return QuantoConfigOfMap(map);
  }
  constexpr char kGptqFile[] = "quantize_config.json";
  if (config.quantization_config.empty() && directory.Contains(kGptqFile)) {
    ASSIGN_OR_RETURN(const std::shared_ptr<const File> file, directory.OpenFile(kGptqFile));
    ASSIGN_OR_RETURN(const std::string text, file->ReadAll(kMapLimit));
    return GptqConfigOfFile(text);
  }
  constexpr char kAwqFile[] = "quant_config.json";
  if (config.quantization_config.empty() && directory.Contains(kAwqFile)) {
    ASSIGN_OR_RETURN(const std::shared_ptr<const File> file, directory.OpenFile(kAwqFile));
    ASSIGN_OR_RETURN(const std::string text, file->ReadAll(kMapLimit));
    return AwqConfigOfFile(text);
  }
  return config.quantization_config;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelSource>> OpenCheckpointFolder(
    std::shared_ptr<const Directory> directory) {
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointFolder> folder, CheckpointFolder::Open(directory));
  ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(*folder));
  ASSIGN_OR_RETURN(config.quantization_config, QuantizationConfigOf(*directory, config));
  std::unique_ptr<Codec> codec;
  if (!config.quantization_config.empty()) {
    ASSIGN_OR_RETURN(codec, CodecFor(config));
  }
  auto source =
      std::make_unique<FolderSource>(std::move(folder), std::move(config), std::move(codec));
  RETURN_IF_ERROR(source->Index());
  return source;
}

}  // namespace quantd
