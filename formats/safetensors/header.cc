// The JSON header of safetensors, read event by event so that a hostile one costs nothing.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/byte_cursor.h"
#include "formats/escaped_name.h"
#include "formats/huggingface/strict_json.h"
#include "formats/safetensors/safetensors.h"

namespace quantd {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxNameBytes = size_t{1} << 20;

// Types of the format that no tensor of ours has: sizes are checked, then UNIMPLEMENTED.
struct ForeignDType {
  absl::string_view name;
  int bits;
};
constexpr ForeignDType kForeignDTypes[] = {
    {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E5M2FNUZ", 8}, {"C64", 64},
};

struct Entry {
  std::string name;
  std::optional<DType> dtype;
  const ForeignDType* foreign = nullptr;
  std::optional<std::vector<uint64_t>> shape;
  std::optional<std::vector<uint64_t>> offsets;
};

absl::Status Invalid(absl::string_view tensor, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("safetensors header: tensor ", Quoted(tensor), ": ", what));
}

// Bytes of `shape` elements of `bits` each; every step is checked.
absl::StatusOr<uint64_t> BytesOf(const Entry& entry, int bits) {
  uint64_t elements = 1;
  for (const uint64_t dim : *entry.shape) {
    if (!CheckedMultiply(elements, dim, &elements) ||
        elements > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Invalid(entry.name, absl::StrCat("shape [", absl::StrJoin(*entry.shape, ", "),
                                              "] has more than 2^63 elements"));
    }
  }
  uint64_t total_bits = 0;
  if (!CheckedMultiply(elements, static_cast<uint64_t>(bits), &total_bits)) {
    return Invalid(entry.name, absl::StrCat("shape [", absl::StrJoin(*entry.shape, ", "),
                                            "] takes more than 2^61 bytes"));
  }
  if (total_bits % 8 != 0) return Invalid(entry.name, "its elements do not fill whole bytes");
  return total_bits / 8;
}

class HeaderEvents : public JsonEvents {
 public:
  explicit HeaderEvents(SafetensorsHeader* header) : header_(header) {}

  absl::Status BeginObject() override {
    if (skipping_ > 0 || at_ == At::kUnknown) return Skip();
    if (at_ == At::kStart) return Go(At::kRoot);
    if (at_ == At::kRootValue) return Go(is_metadata_ ? At::kMetadata : At::kEntry);
    return Unexpected("an object");
  }
  absl::Status EndObject() override {
    if (skipping_ > 0) return Unskip();
    if (at_ == At::kEntry) RETURN_IF_ERROR(FinishEntry());
    return Go(At::kRoot);
  }
  absl::Status BeginArray() override {
    if (skipping_ > 0 || at_ == At::kUnknown) return Skip();
    if (in_array_ || (at_ != At::kShape && at_ != At::kOffsets)) return Unexpected("an array");
    numbers_.clear();
    in_array_ = true;
    return absl::OkStatus();
  }
  absl::Status EndArray() override {
    if (skipping_ > 0) return Unskip();
    in_array_ = false;
    (at_ == At::kShape ? entry_.shape : entry_.offsets) = numbers_;
    return Go(At::kEntry);
  }
  absl::Status Key(std::string& key) override;
  absl::Status String(std::string& value) override;
  absl::Status Integer(uint64_t value, bool negative) override {
    if (skipping_ > 0) return absl::OkStatus();
    if (at_ == At::kUnknown) return Go(At::kEntry);
    if (!in_array_) return Unexpected("a number");
    if (negative) return Unexpected("a negative number");
    if (numbers_.size() == kMaxRank) {
      return Invalid(entry_.name, absl::StrCat("more than ", kMaxRank, " dimensions or offsets"));
    }
    numbers_.push_back(value);
    return absl::OkStatus();
  }
  absl::Status Float(double) override { return Scalar("a number that is no 64-bit integer"); }
  absl::Status Bool(bool) override { return Scalar("true or false"); }
  absl::Status Null() override { return Scalar("null"); }

  // After the parse: the ranges tile the data section exactly.
  absl::Status CheckTiling(uint64_t data_bytes);

 private:
  enum class At {
    kStart,
    kRoot,
    kRootValue,
    kMetadata,
    kMetadataValue,
    kEntry,
    kDType,
    kShape,
    kOffsets,
    kUnknown,
  };

  absl::Status Go(At at) {
    at_ = at;
    return absl::OkStatus();
  }
  absl::Status Skip() {
    ++skipping_;
    return absl::OkStatus();
  }
  absl::Status Unskip() {
    if (--skipping_ == 0) at_ = At::kEntry;
    return absl::OkStatus();
  }
  absl::Status Scalar(absl::string_view found) {
    if (skipping_ > 0) return absl::OkStatus();
    if (at_ == At::kUnknown) return Go(At::kEntry);
    return Unexpected(found);
  }
  absl::Status Unexpected(absl::string_view found);
  absl::Status FinishEntry();

  SafetensorsHeader* header_;
  At at_ = At::kStart;
  int skipping_ = 0;  // depth inside the value of an unknown field, which the format allows
  bool in_array_ = false;
  bool is_metadata_ = false;
  bool seen_metadata_ = false;
  std::string metadata_key_;
  Entry entry_;
  std::vector<uint64_t> numbers_;
  absl::flat_hash_set<std::string> names_;
  std::vector<std::string> fields_;  // of the current entry
  absl::Status foreign_;             // the first tensor of a dtype we lack
};

absl::Status HeaderEvents::Unexpected(absl::string_view found) {
  switch (at_) {
    case At::kStart:
      return absl::InvalidArgumentError(
          absl::StrCat("safetensors header: found ", found, ", expected an object"));
    case At::kMetadataValue:
      return absl::InvalidArgumentError(absl::StrCat("safetensors header: __metadata__ ",
                                                     Quoted(metadata_key_), " is ", found,
                                                     ", expected a string"));
    case At::kDType:
      return Invalid(entry_.name, absl::StrCat("dtype is ", found, ", expected a string"));
    case At::kShape:
      return Invalid(entry_.name,
                     absl::StrCat("shape holds ", found, ", expected an array of sizes"));
    case At::kOffsets:
      return Invalid(entry_.name,
                     absl::StrCat("data_offsets holds ", found, ", expected two byte offsets"));
    default:
      return is_metadata_
                 ? absl::InvalidArgumentError(absl::StrCat("safetensors header: __metadata__ is ",
                                                           found, ", expected an object"))
                 : Invalid(entry_.name, absl::StrCat("entry is ", found, ", expected an object"));
  }
}

absl::Status HeaderEvents::Key(std::string& key) {
  if (skipping_ > 0) return absl::OkStatus();
  if (at_ == At::kRoot) {
    is_metadata_ = key == "__metadata__";
    if (is_metadata_) {
      if (std::exchange(seen_metadata_, true)) {
        return absl::InvalidArgumentError("safetensors header: __metadata__ appears twice");
      }
    } else {
      if (!names_.insert(key).second) return Invalid(key, "appears twice");
      entry_ = Entry{};
      entry_.name = std::move(key);
      fields_.clear();
    }
    return Go(At::kRootValue);
  }
  if (at_ == At::kMetadata) {
    if (header_->metadata.contains(key)) {
      return absl::InvalidArgumentError(
          absl::StrCat("safetensors header: __metadata__ key ", Quoted(key), " appears twice"));
    }
    metadata_key_ = std::move(key);
    return Go(At::kMetadataValue);
  }
  if (std::find(fields_.begin(), fields_.end(), key) != fields_.end()) {
    return Invalid(entry_.name, absl::StrCat("field ", Quoted(key), " appears twice"));
  }
  constexpr size_t kMaxFields = 64;
  if (fields_.size() == kMaxFields) return Invalid(entry_.name, "has too many fields");
  fields_.push_back(key);
  if (key == "dtype") return Go(At::kDType);
  if (key == "shape") return Go(At::kShape);
  if (key == "data_offsets") return Go(At::kOffsets);
  return Go(At::kUnknown);
}

absl::Status HeaderEvents::String(std::string& value) {
  if (skipping_ > 0) return absl::OkStatus();
  switch (at_) {
    case At::kUnknown:
      return Go(At::kEntry);
    case At::kMetadataValue:
      header_->metadata.emplace(std::move(metadata_key_), std::move(value));
      return Go(At::kMetadata);
    case At::kDType: {
      entry_.dtype = DTypeFromSafetensors(value);
      for (const ForeignDType& foreign : kForeignDTypes) {
        if (foreign.name == value) entry_.foreign = &foreign;
      }
      if (!entry_.dtype && entry_.foreign == nullptr) {
        return Invalid(entry_.name, absl::StrCat("dtype ", Quoted(value), " is unknown"));
      }
      return Go(At::kEntry);
    }
    default:
      return Unexpected("a string");
  }
}

absl::Status HeaderEvents::FinishEntry() {
  const char* missing = !entry_.dtype && entry_.foreign == nullptr ? "dtype"
                        : !entry_.shape                            ? "shape"
                        : !entry_.offsets                          ? "data_offsets"
                                                                   : nullptr;
  if (missing != nullptr) return Invalid(entry_.name, absl::StrCat(missing, " is missing"));
  if (entry_.offsets->size() != 2) {
    return Invalid(entry_.name, absl::StrCat("data_offsets has ", entry_.offsets->size(),
                                             " numbers, expected 2"));
  }
  const uint64_t begin = (*entry_.offsets)[0];
  const uint64_t end = (*entry_.offsets)[1];
  if (begin > end) {
    return Invalid(entry_.name, absl::StrCat("data_offsets [", begin, ", ", end, "] are reversed"));
  }
  const int bits = entry_.foreign != nullptr ? entry_.foreign->bits : SizeOf(*entry_.dtype) * 8;
  ASSIGN_OR_RETURN(const uint64_t bytes, BytesOf(entry_, bits));
  if (end - begin != bytes) {
    return Invalid(entry_.name,
                   absl::StrCat("data_offsets span ", end - begin, " bytes, but shape [",
                                absl::StrJoin(*entry_.shape, ", "), "] needs ", bytes));
  }
  if (entry_.foreign != nullptr && foreign_.ok()) {
    foreign_ = absl::UnimplementedError(absl::StrCat("safetensors header: tensor ",
                                                     Quoted(entry_.name), ": dtype ",
                                                     entry_.foreign->name, " is not supported"));
  }
  header_->tensors.push_back({std::move(entry_.name), entry_.dtype.value_or(DType::kU8),
                              Shape(entry_.shape->begin(), entry_.shape->end()), begin, end});
  return absl::OkStatus();
}

absl::Status HeaderEvents::CheckTiling(uint64_t data_bytes) {
  auto& tensors = header_->tensors;
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t expected = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin != expected) {
      return Invalid(
          tensor.name,
          absl::StrCat("data starts at ", tensor.begin, ", expected ", expected,
                       tensor.begin < expected ? " (ranges overlap)" : " (ranges leave a hole)"));
    }
    if (tensor.end > data_bytes) {
      return Invalid(tensor.name,
                     absl::StrCat("data end at ", tensor.end, ", past the end of the file's ",
                                  data_bytes, " data bytes"));
    }
    expected = tensor.end;
  }
  if (expected != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: ", data_bytes - expected,
                     " bytes follow the last tensor's data, expected none"));
  }
  return foreign_;
}

// What a file that is no safetensors looks like, or nothing.
absl::string_view GuessKind(std::span<const std::byte> bytes) {
  const absl::string_view text(reinterpret_cast<const char*>(bytes.data()),
                               std::min<size_t>(bytes.size(), 8));
  if (text.substr(0, 4) == "GGUF") return "; it looks like a GGUF file";
  if (text.substr(0, 4) == absl::string_view("PK\x03\x04", 4)) {
    return "; it looks like a zip archive (a PyTorch checkpoint?), which is never unpickled";
  }
  if (text.size() >= 2 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5) {
    return "; it looks like a pickle, which is never unpickled";
  }
  return "";
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> bytes,
                                                         uint64_t file_size) {
  if (file_size < 8 || bytes.size() < 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: the file has ", file_size, " bytes, expected at least 8"));
  }
  ByteCursor cursor(bytes);
  ASSIGN_OR_RETURN(const uint64_t length, cursor.Read<uint64_t>());
  if (length == 0 || length > kMaxHeaderBytes || length > file_size - 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: the header length is ", length, ", expected 1 to ",
                     std::min(kMaxHeaderBytes, file_size - 8), GuessKind(bytes)));
  }
  const auto text = cursor.Text(length);
  if (!text.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: the header is cut: ", text.status().message()));
  }
  if (text->front() != '{') {
    return absl::InvalidArgumentError(absl::StrCat("safetensors: the header starts with ",
                                                   Quoted(text->substr(0, 4)), ", expected '{'",
                                                   GuessKind(bytes)));
  }
  SafetensorsHeader header;
  header.data_offset = 8 + length;
  HeaderEvents events(&header);
  RETURN_IF_ERROR(ParseJsonEvents(*text, "safetensors header", kMaxNameBytes, events));
  RETURN_IF_ERROR(events.CheckTiling(file_size - header.data_offset));
  return header;
}

}  // namespace quantd
