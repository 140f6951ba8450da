#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "formats/byte_cursor.h"
#include "formats/escaped_name.h"
#include "formats/gguf/gguf.h"

namespace quantd {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kSmallestEntry = 13;  // of metadata: empty key, type, one byte
constexpr uint64_t kSmallestInfo = 24;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxNameBytes = 64;
constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxElements = uint64_t{4} << 20;  // of all arrays together
constexpr int64_t kMaxAlignment = 65536;

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("GGUF: ", what));
}

int SizeOfElement(GgufValueType type) {
  constexpr int kSizes[] = {1, 1, 2,  2, 4, 4, 4,
                            1, 8, 12, 8, 8, 8};  // strings and arrays: at least
  return kSizes[static_cast<size_t>(type)];
}

// Reads within the bytes at hand and tells what the file cannot hold from what is not read yet.
class HeaderCursor {
 public:
  HeaderCursor(std::span<const std::byte> bytes, uint64_t file_size)
      : cursor_(bytes), file_size_(file_size) {}

  uint64_t position() const { return cursor_.position(); }
  uint64_t left_in_file() const { return file_size_ - std::min<uint64_t>(file_size_, position()); }

  absl::Status Need(uint64_t count, absl::string_view what) const {
    if (count > left_in_file()) {
      return Invalid(absl::StrCat(what, " needs ", count, " bytes at byte ", position(),
                                  ", the file has ", left_in_file(), " more"));
    }
    if (count > cursor_.remaining())
      return absl::OutOfRangeError("GGUF: more of the file is needed");
    return absl::OkStatus();
  }
  template <class T>
  absl::StatusOr<T> Read(absl::string_view what) {
    RETURN_IF_ERROR(Need(sizeof(T), what));
    return cursor_.Read<T>();
  }
  absl::StatusOr<absl::string_view> String(uint64_t limit, absl::string_view what) {
    ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    RETURN_IF_ERROR(Need(length, what));
    if (length > limit) {
      return Invalid(
          absl::StrCat(what, " is a string of ", length, " bytes, expected at most ", limit));
    }
    return cursor_.Text(length);
  }

 private:
  ByteCursor cursor_;
  uint64_t file_size_;
};

class HeaderParser {
 public:
  HeaderParser(std::span<const std::byte> bytes, uint64_t file_size)
      : cursor_(bytes, file_size), file_size_(file_size) {}

  absl::StatusOr<GgufHeader> Parse() {
    RETURN_IF_ERROR(CheckVersion());
    ASSIGN_OR_RETURN(const uint64_t tensors, cursor_.Read<uint64_t>("the tensor count"));
    ASSIGN_OR_RETURN(const uint64_t entries, cursor_.Read<uint64_t>("the metadata count"));
    RETURN_IF_ERROR(CheckCount(tensors, kSmallestInfo, "tensors"));
    RETURN_IF_ERROR(CheckCount(entries, kSmallestEntry, "metadata entries"));
    for (uint64_t i = 0; i < entries; ++i) RETURN_IF_ERROR(ReadEntry());
    RETURN_IF_ERROR(FindAlignment());
    for (uint64_t i = 0; i < tensors; ++i) RETURN_IF_ERROR(ReadInfo());
    RETURN_IF_ERROR(PlaceData());
    return std::move(header_);
  }

 private:
  absl::Status CheckVersion();
  absl::Status CheckCount(uint64_t count, uint64_t smallest, absl::string_view what) const {
    if (count <= cursor_.left_in_file() / smallest) return absl::OkStatus();
    return Invalid(absl::StrCat("the header announces ", count, " ", what, ", the ",
                                cursor_.left_in_file(), " bytes behind it cannot hold them"));
  }
  absl::StatusOr<GgufValueType> ReadType(absl::string_view key) {
    ASSIGN_OR_RETURN(const uint32_t type, cursor_.Read<uint32_t>(key));
    if (type <= static_cast<uint32_t>(GgufValueType::kF64)) return static_cast<GgufValueType>(type);
    return Invalid(absl::StrCat(key, " has value type ", type, ", expected 0 to 12"));
  }
  template <class T>
  absl::StatusOr<int64_t> ReadAs(absl::string_view key) {
    ASSIGN_OR_RETURN(const T value, cursor_.Read<T>(key));
    return static_cast<int64_t>(value);
  }
  absl::StatusOr<int64_t> ReadInteger(GgufValueType type, absl::string_view key);
  absl::StatusOr<double> ReadFloat(GgufValueType type, absl::string_view key) {
    if (type == GgufValueType::kF64) return cursor_.Read<double>(key);
    ASSIGN_OR_RETURN(const float value, cursor_.Read<float>(key));
    return double{value};
  }
  absl::StatusOr<GgufArray> ReadArray(absl::string_view key);
  absl::Status ReadEntry();
  absl::Status FindAlignment();
  absl::Status ReadInfo();
  absl::Status PlaceData();

  HeaderCursor cursor_;
  uint64_t file_size_;
  uint64_t elements_ = 0;
  GgufHeader header_;
  absl::flat_hash_set<std::string> keys_;
  absl::flat_hash_set<std::string> names_;
};

absl::Status HeaderParser::CheckVersion() {
  ASSIGN_OR_RETURN(const uint32_t magic, cursor_.Read<uint32_t>("the magic"));
  if (magic != kMagic) {
    const absl::string_view found(reinterpret_cast<const char*>(&magic), 4);
    return Invalid(absl::StrCat("the file starts with ", Quoted(found), ", expected 'GGUF'"));
  }
  ASSIGN_OR_RETURN(const uint32_t version, cursor_.Read<uint32_t>("the version"));
  if (version == 2 || version == 3) return absl::OkStatus();
  if (version == 0) return Invalid("version is 0, expected 2 or 3");
  const uint32_t swapped = __builtin_bswap32(version);
  if (swapped >= 1 && swapped <= 3) {
    return absl::UnimplementedError("GGUF: big-endian files are not supported, only little-endian");
  }
  return absl::UnimplementedError(
      absl::StrCat("GGUF: version ", version, " is not supported, only 2 and 3"));
}

absl::StatusOr<int64_t> HeaderParser::ReadInteger(GgufValueType type, absl::string_view key) {
  switch (type) {
    case GgufValueType::kU8:
      return ReadAs<uint8_t>(key);
    case GgufValueType::kI8:
      return ReadAs<int8_t>(key);
    case GgufValueType::kU16:
      return ReadAs<uint16_t>(key);
    case GgufValueType::kI16:
      return ReadAs<int16_t>(key);
    case GgufValueType::kU32:
      return ReadAs<uint32_t>(key);
    case GgufValueType::kI32:
      return ReadAs<int32_t>(key);
    case GgufValueType::kU64:
      return ReadAs<uint64_t>(key);
    case GgufValueType::kI64:
      return ReadAs<int64_t>(key);
    default:
      break;
  }
  ASSIGN_OR_RETURN(const uint8_t value, cursor_.Read<uint8_t>(key));
  if (value > 1)
    return Invalid(absl::StrCat(key, " is a bool of value ", value, ", expected 0 or 1"));
  return int64_t{value};
}

absl::StatusOr<GgufArray> HeaderParser::ReadArray(absl::string_view key) {
  GgufArray array;
  ASSIGN_OR_RETURN(array.element_type, ReadType(key));
  if (array.element_type == GgufValueType::kArray) {
    return Invalid(absl::StrCat(key, " is an array of arrays, which is not supported"));
  }
  ASSIGN_OR_RETURN(const uint64_t count, cursor_.Read<uint64_t>(key));
  const auto smallest = static_cast<uint64_t>(SizeOfElement(array.element_type));
  if (count > cursor_.left_in_file() / smallest) {
    return Invalid(absl::StrCat(key, " announces an array of ", count, " elements, the ",
                                cursor_.left_in_file(), " bytes behind it cannot hold them"));
  }
  elements_ += count;
  if (elements_ > kMaxElements) {
    return absl::ResourceExhaustedError(absl::StrCat("GGUF: metadata arrays hold ", elements_,
                                                     " elements, at most ", kMaxElements,
                                                     " are read"));
  }
  RETURN_IF_ERROR(cursor_.Need(count * smallest, key));
  switch (array.element_type) {
    case GgufValueType::kString:
      array.strings.reserve(count);
      for (uint64_t i = 0; i < count; ++i) {
        ASSIGN_OR_RETURN(const absl::string_view text,
                         cursor_.String(std::numeric_limits<uint64_t>::max(), key));
        array.strings.emplace_back(text);
      }
      break;
    case GgufValueType::kF32:
    case GgufValueType::kF64:
      array.floats.reserve(count);
      for (uint64_t i = 0; i < count; ++i) {
        ASSIGN_OR_RETURN(const double value, ReadFloat(array.element_type, key));
        array.floats.push_back(value);
      }
      break;
    default:
      array.integers.reserve(count);
      for (uint64_t i = 0; i < count; ++i) {
        ASSIGN_OR_RETURN(const int64_t value, ReadInteger(array.element_type, key));
        array.integers.push_back(value);
      }
  }
  return array;
}

absl::Status HeaderParser::ReadEntry() {
  ASSIGN_OR_RETURN(const absl::string_view key, cursor_.String(kMaxKeyBytes, "a metadata key"));
  if (key.empty() || key.find('\0') != absl::string_view::npos) {
    return Invalid(absl::StrCat("metadata key ", Quoted(key), " is empty or holds a NUL"));
  }
  if (!keys_.emplace(key).second) {
    return Invalid(absl::StrCat("metadata key ", Quoted(key), " appears twice"));
  }
  const std::string where = absl::StrCat("metadata key ", Quoted(key));
  GgufValue value;
  ASSIGN_OR_RETURN(value.type, ReadType(where));
  switch (value.type) {
    case GgufValueType::kString: {
      ASSIGN_OR_RETURN(const absl::string_view text,
                       cursor_.String(std::numeric_limits<uint64_t>::max(), where));
      value.value = std::string(text);
      break;
    }
    case GgufValueType::kArray: {
      ASSIGN_OR_RETURN(value.value, ReadArray(where));
      break;
    }
    case GgufValueType::kF32:
    case GgufValueType::kF64: {
      ASSIGN_OR_RETURN(value.value, ReadFloat(value.type, where));
      break;
    }
    default: {
      ASSIGN_OR_RETURN(value.value, ReadInteger(value.type, where));
    }
  }
  header_.metadata.Append(std::string(key), std::move(value));
  return absl::OkStatus();
}

absl::Status HeaderParser::FindAlignment() {
  const GgufValue* value = header_.metadata.Find("general.alignment");
  if (value == nullptr) return absl::OkStatus();
  const int64_t* alignment = std::get_if<int64_t>(&value->value);
  if (value->type != GgufValueType::kU32 || *alignment < 1 || *alignment > kMaxAlignment ||
      (*alignment & (*alignment - 1)) != 0) {
    return Invalid(absl::StrCat("general.alignment is ", alignment != nullptr ? *alignment : -1,
                                " or not of type u32, expected a power of two up to ",
                                kMaxAlignment));
  }
  header_.alignment = static_cast<uint64_t>(*alignment);
  return absl::OkStatus();
}

absl::Status HeaderParser::ReadInfo() {
  GgufTensorInfo info;
  ASSIGN_OR_RETURN(const absl::string_view name, cursor_.String(kMaxNameBytes, "a tensor name"));
  if (name.empty() || name.find('\0') != absl::string_view::npos) {
    return Invalid(absl::StrCat("tensor name ", Quoted(name), " is empty or holds a NUL"));
  }
  info.name = std::string(name);
  const std::string where = absl::StrCat("tensor ", Quoted(name));
  if (!names_.insert(info.name).second) return Invalid(absl::StrCat(where, " appears twice"));
  ASSIGN_OR_RETURN(const uint32_t dims, cursor_.Read<uint32_t>(where));
  if (dims > kMaxDims) {
    return Invalid(absl::StrCat(where, " has ", dims, " dimensions, expected at most ", kMaxDims));
  }
  for (uint32_t i = 0; i < dims; ++i) {
    ASSIGN_OR_RETURN(const uint64_t dim, cursor_.Read<uint64_t>(where));
    if (dim == 0 || dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Invalid(
          absl::StrCat(where, ": dimension ", i, " is ", dim, ", expected 1 to 2^63 - 1"));
    }
    info.shape.push_back(static_cast<int64_t>(dim));
  }
  std::reverse(info.shape.begin(), info.shape.end());
  ASSIGN_OR_RETURN(const uint32_t type, cursor_.Read<uint32_t>(where));
  info.type = static_cast<GgmlType>(type);
  const auto bytes = GgufTensorBytes(info.type, info.shape);
  if (!bytes.ok()) return Invalid(absl::StrCat(where, ": ", bytes.status().message()));
  info.bytes = *bytes;
  ASSIGN_OR_RETURN(info.offset, cursor_.Read<uint64_t>(where));
  if (info.offset % header_.alignment != 0) {
    return Invalid(
        absl::StrCat(where, ": offset ", info.offset, " is not a multiple of ", header_.alignment));
  }
  header_.tensors.push_back(std::move(info));
  return absl::OkStatus();
}

// Where the data section starts; every tensor lies inside the file and none over another.
absl::Status HeaderParser::PlaceData() {
  const uint64_t end = cursor_.position();
  header_.data_offset = (end + header_.alignment - 1) / header_.alignment * header_.alignment;
  const uint64_t available =
      file_size_ > header_.data_offset ? file_size_ - header_.data_offset : 0;
  std::vector<const GgufTensorInfo*> order;
  order.reserve(header_.tensors.size());
  for (const GgufTensorInfo& info : header_.tensors) {
    if (info.bytes > available || info.offset > available - info.bytes) {
      return Invalid(absl::StrCat("tensor ", Quoted(info.name), " takes ", info.bytes,
                                  " bytes at offset ", info.offset, ", the file holds ", available,
                                  " bytes of data"));
    }
    order.push_back(&info);
  }
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->offset < order[i - 1]->offset + order[i - 1]->bytes) {
      return Invalid(absl::StrCat("tensors ", Quoted(order[i - 1]->name), " and ",
                                  Quoted(order[i]->name), " overlap"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufHeader> ParseGgufHeader(std::span<const std::byte> bytes, uint64_t file_size) {
  bytes = bytes.first(std::min<uint64_t>(bytes.size(), file_size));
  return HeaderParser(bytes, file_size).Parse();
}

}  // namespace quantd
