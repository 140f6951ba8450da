#include "formats/huggingface/checkpoint_folder.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/beneath.h"
#include "formats/escaped_name.h"
#include "formats/huggingface/sentence_transformers.h"
#include "formats/huggingface/strict_json.h"

namespace quantd {
namespace {

constexpr char kConfig[] = "config.json";
constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr size_t kConfigLimit = size_t{4} << 20;
constexpr size_t kIndexLimit = size_t{16} << 20;
constexpr size_t kSideFileLimit = size_t{128} << 20;
constexpr size_t kMaxShards = 4096;

constexpr absl::string_view kSideFiles[] = {"tokenizer.json",
                                            "tokenizer_config.json",
                                            "special_tokens_map.json",
                                            "vocab.txt",
                                            "vocab.json",
                                            "merges.txt",
                                            "added_tokens.json",
                                            "chat_template.jinja",
                                            "generation_config.json",
                                            "modules.json",
                                            "sentence_bert_config.json",
                                            "config_sentence_transformers.json"};
constexpr absl::string_view kPoolingFolder = "1_Pooling";

// Shard file to the tensors that the index says it holds.
using WeightMap = std::map<std::string, std::vector<std::string>>;

absl::StatusOr<WeightMap> ParseIndex(const std::string& text) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseStrictJsonObject(text, kIndex));
  const JsonFields fields(json, kIndex);
  ASSIGN_OR_RETURN(const nlohmann::json* map, fields.OptionalObject("weight_map"));
  if (map == nullptr)
    return fields.Wrong("weight_map", "an object of tensor names and shard files");
  WeightMap shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(kIndex, ": weight_map ", Quoted(tensor),
                                                     " is ", DescribeJson(shard),
                                                     ", expected a file name"));
    }
    const auto& name = shard.get_ref<const std::string&>();
    if (!CheckFileName(name).ok() || !absl::EndsWith(name, ".safetensors")) {
      return absl::InvalidArgumentError(
          absl::StrCat(kIndex, ": weight_map ", Quoted(tensor), " names ", Quoted(name),
                       ", expected a .safetensors file directly in the folder"));
    }
    shards[name].push_back(tensor);
    if (shards.size() > kMaxShards) {
      return absl::InvalidArgumentError(
          absl::StrCat(kIndex, ": more than ", kMaxShards, " shards"));
    }
  }
  return shards;
}

class ShardedFolder : public CheckpointFolder {
 public:
  explicit ShardedFolder(std::shared_ptr<const Directory> folder) : folder_(std::move(folder)) {}

  absl::Status Load() {
    ASSIGN_OR_RETURN(config_json_, ReadText(*folder_, kConfig, kConfigLimit));
    if (folder_->Contains(kSingle)) return LoadShard(kSingle, nullptr);
    std::string index = kIndex;
    if (!folder_->Contains(kIndex)) {
      if (const std::string single = AutoGptqFile(".safetensors"); !single.empty()) {
        return LoadShard(single, nullptr);
      }
      index = AutoGptqFile(".safetensors.index.json");
      if (index.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", folder_->name(), "' holds neither ", kSingle, " nor ", kIndex));
      }
    }
    ASSIGN_OR_RETURN(const std::string text, ReadText(*folder_, index, kIndexLimit));
    ASSIGN_OR_RETURN(const WeightMap shards, ParseIndex(text));
    for (const auto& [shard, tensors] : shards) RETURN_IF_ERROR(LoadShard(shard, &tensors));
    return absl::OkStatus();
  }

  const std::string& config_json() const override { return config_json_; }
  const std::vector<std::string>& names() const override { return names_; }
  uint64_t stored_bytes() const override { return stored_bytes_; }

  const TensorInfo* Find(absl::string_view name) const override {
    const auto entry = shard_of_.find(name);
    return entry == shard_of_.end() ? nullptr : shards_[entry->second]->Find(name);
  }

  std::string Metadata(absl::string_view key) const override {
    for (auto shard = shards_.rbegin(); shard != shards_.rend(); ++shard) {
      const std::map<std::string, std::string>& metadata = (*shard)->header().metadata;
      if (const auto found = metadata.find(std::string(key)); found != metadata.end()) {
        return found->second;
      }
    }
    return "";
  }

  absl::StatusOr<Tensor> Read(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const SafetensorsReader* shard, ShardOf(name));
    return shard->Read(name);
  }
  absl::StatusOr<SharedTensor> Lend(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const SafetensorsReader* shard, ShardOf(name));
    return shard->Lend(name);
  }

  absl::StatusOr<std::map<std::string, std::string>> ReadSideFiles() const override {
    std::map<std::string, std::string> files;
    for (const absl::string_view name : kSideFiles) {
      if (!folder_->Contains(name)) continue;
      ASSIGN_OR_RETURN(files[std::string(name)], ReadText(*folder_, name, kSideFileLimit));
    }
    const auto pooling = folder_->OpenFolder(kPoolingFolder);
    if (pooling.ok() && (*pooling)->Contains(kConfig)) {
      ASSIGN_OR_RETURN(files[absl::StrCat(kPoolingFolder, "/", kConfig)],
                       ReadText(**pooling, kConfig, kConfigLimit));
    }
    return files;
  }

 private:
  absl::StatusOr<const SafetensorsReader*> ShardOf(absl::string_view name) const {
    const auto entry = shard_of_.find(name);
    if (entry == shard_of_.end()) {
      return absl::NotFoundError(absl::StrCat("tensor ", Quoted(name),
                                              " is not in the checkpoint '", folder_->name(), "'"));
    }
    return shards_[entry->second].get();
  }

  static absl::StatusOr<std::string> ReadText(const Directory& folder, absl::string_view name,
                                              size_t limit) {
    const auto file = folder.OpenFile(name);
    if (absl::IsNotFound(file.status())) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", folder.name(), "' holds no readable ", name));
    }
    RETURN_IF_ERROR(file.status());
    return (*file)->ReadAll(limit);
  }

  // The file that AutoGPTQ calls gptq_model-4bit-128g<suffix>; "" when there is none, or several.
  std::string AutoGptqFile(absl::string_view suffix) const {
    std::string found;
    for (const std::string& name : folder_->List()) {
      if (!absl::StartsWith(name, "gptq_model-") || !absl::EndsWith(name, suffix)) continue;
      if (absl::StrContains(name, "-of-")) continue;  // a shard
      if (!found.empty()) return "";
      found = name;
    }
    return found;
  }

  // `expected`: tensors that the index places here; tensors that it does not name are left out.
  absl::Status LoadShard(const std::string& name, const std::vector<std::string>* expected) {
    const auto file = folder_->OpenFile(name);
    if (absl::IsNotFound(file.status())) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", folder_->name(), "': shard ", Quoted(name), " is missing"));
    }
    RETURN_IF_ERROR(file.status());
    ASSIGN_OR_RETURN(auto reader, SafetensorsReader::Open(*file));
    if (expected == nullptr) {
      for (const TensorInfo& info : reader->header().tensors) Enter(info);
    } else {
      RETURN_IF_ERROR(EnterExpected(name, *reader, *expected));
    }
    shards_.push_back(std::move(reader));
    return absl::OkStatus();
  }

  absl::Status EnterExpected(const std::string& shard, const SafetensorsReader& reader,
                             const std::vector<std::string>& expected) {
    std::vector<const TensorInfo*> infos;
    for (const std::string& tensor : expected) {
      const TensorInfo* info = reader.Find(tensor);
      if (info == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat(kIndex, ": tensor ", Quoted(tensor), " is not in shard ", Quoted(shard)));
      }
      infos.push_back(info);
    }
    std::sort(infos.begin(), infos.end(), [](const TensorInfo* a, const TensorInfo* b) {
      return std::tie(a->begin, a->name) < std::tie(b->begin, b->name);
    });
    for (const TensorInfo* info : infos) Enter(*info);
    return absl::OkStatus();
  }

  void Enter(const TensorInfo& info) {
    names_.push_back(info.name);
    shard_of_[info.name] = shards_.size();
    stored_bytes_ += info.end - info.begin;
  }

  std::shared_ptr<const Directory> folder_;
  std::string config_json_;
  std::vector<std::unique_ptr<SafetensorsReader>> shards_;
  std::vector<std::string> names_;
  absl::flat_hash_map<std::string, size_t> shard_of_;
  uint64_t stored_bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointFolder>> CheckpointFolder::Open(
    std::shared_ptr<const Directory> folder) {
  auto checkpoint = std::make_unique<ShardedFolder>(std::move(folder));
  RETURN_IF_ERROR(checkpoint->Load());
  return checkpoint;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const CheckpointFolder& folder) {
  ASSIGN_OR_RETURN(ModelConfig config, ParseHfConfig(folder.config_json()));
  ASSIGN_OR_RETURN(const auto side_files, folder.ReadSideFiles());
  if (const auto generation = side_files.find("generation_config.json");
      generation != side_files.end()) {
    RETURN_IF_ERROR(MergeGenerationConfig(generation->second, &config));
  }
  RETURN_IF_ERROR(ApplySentenceTransformers(side_files, &config));
  return config;
}

}  // namespace quantd
