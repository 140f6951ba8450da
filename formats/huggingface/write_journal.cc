#include "formats/huggingface/write_journal.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_split.h"
#include "formats/atomic_output.h"
#include "formats/huggingface/strict_json.h"

namespace quantd {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxInteger = std::numeric_limits<int64_t>::max();

absl::StatusOr<std::string> Line(const Json& json) {
  try {
    return json.dump() + "\n";
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError("a tensor name is not valid UTF-8");
  }
}

absl::StatusOr<JournalTensor> ParseTensor(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("no object");
  const JsonFields fields(json, kJournalFile);
  JournalTensor tensor;
  ASSIGN_OR_RETURN(tensor.info.name, fields.String("name"));
  ASSIGN_OR_RETURN(const std::string dtype, fields.String("dtype"));
  const auto known = DTypeFromSafetensors(dtype);
  ASSIGN_OR_RETURN(const Json* shape, fields.OptionalArray("shape"));
  if (!known || shape == nullptr) return absl::InvalidArgumentError("no dtype or shape");
  tensor.info.dtype = *known;
  for (const Json& dim : *shape) {
    if (!dim.is_number_unsigned()) return absl::InvalidArgumentError("no dimension");
    tensor.info.shape.push_back(dim.get<int64_t>());
  }
  ASSIGN_OR_RETURN(const int64_t shard, fields.Integer("shard", 0, 1 << 20));
  ASSIGN_OR_RETURN(const int64_t begin, fields.Integer("begin", 0, kMaxInteger));
  ASSIGN_OR_RETURN(const int64_t end, fields.Integer("end", begin, kMaxInteger));
  tensor.shard = static_cast<int>(shard);
  tensor.info.begin = static_cast<uint64_t>(begin);
  tensor.info.end = static_cast<uint64_t>(end);
  const Json* checksum = fields.Find("xxh3");
  if (checksum == nullptr || !checksum->is_number_unsigned()) {
    return absl::InvalidArgumentError("no checksum");
  }
  tensor.checksum = checksum->get<uint64_t>();
  return tensor;
}

absl::StatusOr<JournalGroup> ParseGroup(absl::string_view line) {
  ASSIGN_OR_RETURN(const Json json, ParseStrictJsonObject(line, kJournalFile));
  const JsonFields fields(json, kJournalFile);
  JournalGroup group;
  ASSIGN_OR_RETURN(group.name, fields.String("group"));
  ASSIGN_OR_RETURN(const Json* tensors, fields.OptionalArray("tensors"));
  if (tensors == nullptr) return absl::InvalidArgumentError("no tensors");
  for (const Json& tensor : *tensors) {
    ASSIGN_OR_RETURN(JournalTensor parsed, ParseTensor(tensor));
    group.tensors.push_back(std::move(parsed));
  }
  ASSIGN_OR_RETURN(const std::optional<std::string> note, fields.OptionalString("note"));
  group.note = note.value_or("");
  return group;
}

}  // namespace

uint64_t ChecksumOf(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

absl::StatusOr<std::string> JournalHead(const Journal& journal) {
  return Line(Json{{"fingerprint", journal.fingerprint},
                   {"max_shard_bytes", journal.max_shard_bytes},
                   {"header_reserve", journal.header_reserve}});
}

absl::StatusOr<std::string> JournalLine(const JournalGroup& group) {
  Json tensors = Json::array();
  for (const JournalTensor& tensor : group.tensors) {
    tensors.push_back({{"name", tensor.info.name},
                       {"dtype", std::string(InfoOf(tensor.info.dtype).safetensors_name)},
                       {"shape", tensor.info.shape},
                       {"shard", tensor.shard},
                       {"begin", tensor.info.begin},
                       {"end", tensor.info.end},
                       {"xxh3", tensor.checksum}});
  }
  Json line{{"group", group.name}, {"tensors", std::move(tensors)}};
  if (!group.note.empty()) line["note"] = group.note;
  return Line(line);
}

absl::StatusOr<Journal> ParseJournal(absl::string_view text) {
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  Journal journal;
  const auto head = ParseStrictJsonObject(lines.front(), kJournalFile);
  if (!head.ok() || lines.size() < 2) {
    return absl::DataLossError("the journal of the interrupted output cannot be read; start again");
  }
  const JsonFields fields(*head, kJournalFile);
  ASSIGN_OR_RETURN(journal.fingerprint, fields.String("fingerprint"));
  const Json* shard_bytes = fields.Find("max_shard_bytes");
  const Json* reserve = fields.Find("header_reserve");
  if (shard_bytes == nullptr || reserve == nullptr || !shard_bytes->is_number_unsigned() ||
      !reserve->is_number_unsigned()) {
    return absl::DataLossError("the journal of the interrupted output cannot be read; start again");
  }
  journal.max_shard_bytes = shard_bytes->get<uint64_t>();
  journal.header_reserve = reserve->get<uint64_t>();
  // The last piece has no newline: empty, or a line that was cut.
  for (size_t i = 1; i + 1 < lines.size(); ++i) {
    auto group = ParseGroup(lines[i]);
    if (!group.ok()) break;
    journal.groups.push_back(*std::move(group));
  }
  return journal;
}

}  // namespace quantd
