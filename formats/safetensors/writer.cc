#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/escaped_name.h"
#include "formats/huggingface/strict_json.h"
#include "formats/safetensors/safetensors.h"

namespace quantd {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr uint64_t kAlignment = 64;  // of the data section, so that aligned shapes stay aligned

// Header bytes rounded so that the data behind them are aligned.
uint64_t PaddedHeader(uint64_t bytes) {
  return (8 + bytes + kAlignment - 1) / kAlignment * kAlignment - 8;
}

void AppendEntry(const TensorInfo& tensor, absl::string_view quoted_name, std::string* json) {
  absl::StrAppend(json, json->size() > 1 ? "," : "", quoted_name, ":{\"dtype\":\"",
                  InfoOf(tensor.dtype).safetensors_name, "\",\"shape\":[",
                  absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", tensor.begin, ",",
                  tensor.end, "]}");
}

absl::StatusOr<std::string> HeaderJson(const std::vector<TensorInfo>& tensors,
                                       const std::map<std::string, std::string>& metadata) {
  std::string json = "{";
  if (!metadata.empty()) {
    json += "\"__metadata__\":{";
    const char* comma = "";
    for (const auto& [key, value] : metadata) {
      ASSIGN_OR_RETURN(const std::string quoted_key, JsonQuote(key));
      ASSIGN_OR_RETURN(const std::string quoted_value, JsonQuote(value));
      absl::StrAppend(&json, std::exchange(comma, ","), quoted_key, ":", quoted_value);
    }
    json += "}";
  }
  for (const TensorInfo& tensor : tensors) {
    ASSIGN_OR_RETURN(const std::string quoted_name, JsonQuote(tensor.name));
    AppendEntry(tensor, quoted_name, &json);
  }
  json += "}";
  return json;
}

class StreamWriter : public SafetensorsWriter {
 public:
  StreamWriter(std::unique_ptr<OutputFile> file, uint64_t reserve)
      : file_(std::move(file)), reserve_(PaddedHeader(reserve)) {}

  // Blanks for the header, so that a full disk shows at once.
  absl::Status Start() {
    RETURN_IF_ERROR(file_->Truncate(0));
    const std::vector<std::byte> blanks(8 + reserve_, std::byte{' '});
    return file_->Append(blanks);
  }

  absl::Status Continue(std::vector<TensorInfo> written) {
    for (const TensorInfo& tensor : written) {
      if (tensor.begin != data_bytes_ || !names_.insert(tensor.name).second) {
        return absl::DataLossError(absl::StrCat("'", file_->name(), "': tensor ",
                                                Quoted(tensor.name),
                                                " of the journal is out of order"));
      }
      data_bytes_ = tensor.end;
    }
    tensors_ = std::move(written);
    return file_->Truncate(8 + reserve_ + data_bytes_);
  }

  absl::Status Add(absl::string_view name, const TensorView& tensor) override;
  absl::Status Finish(const std::map<std::string, std::string>& metadata) override;
  uint64_t data_bytes() const override { return data_bytes_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  absl::Status Sync() override { return file_->Sync(); }

 private:
  absl::Status MoveData(uint64_t new_reserve);

  std::unique_ptr<OutputFile> file_;
  uint64_t reserve_;
  uint64_t data_bytes_ = 0;
  std::vector<TensorInfo> tensors_;
  absl::flat_hash_set<std::string> names_;
};

absl::Status StreamWriter::Add(absl::string_view name, const TensorView& tensor) {
  if (tensor.bytes.size() !=
      static_cast<uint64_t>(tensor.elements()) * static_cast<uint64_t>(SizeOf(tensor.dtype))) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Quoted(name), ": ", tensor.bytes.size(), " bytes do not fit ",
                     InfoOf(tensor.dtype).safetensors_name, " ", ToString(tensor.shape)));
  }
  RETURN_IF_ERROR(JsonQuote(name).status());
  if (name == "__metadata__" || !names_.emplace(name).second) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", Quoted(name), " was written before or has a reserved name"));
  }
  RETURN_IF_ERROR(file_->Append(tensor.bytes));
  tensors_.push_back({std::string(name), tensor.dtype, tensor.shape, data_bytes_,
                      data_bytes_ + tensor.bytes.size()});
  data_bytes_ = tensors_.back().end;
  return absl::OkStatus();
}

absl::Status StreamWriter::Finish(const std::map<std::string, std::string>& metadata) {
  ASSIGN_OR_RETURN(std::string json, HeaderJson(tensors_, metadata));
  if (json.size() > kMaxHeaderBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("'", file_->name(), "': a header of ", json.size(),
                     " bytes is over the format's limit of ", kMaxHeaderBytes));
  }
  if (json.size() > reserve_) RETURN_IF_ERROR(MoveData(PaddedHeader(json.size())));
  json.resize(reserve_, ' ');
  const uint64_t length = reserve_;
  RETURN_IF_ERROR(file_->WriteAt(0, std::as_bytes(std::span(&length, 1))));
  RETURN_IF_ERROR(file_->WriteAt(8, std::as_bytes(std::span(json.data(), json.size()))));
  return file_->Sync();
}

// Shifts the data towards the end of the file, last piece first.
absl::Status StreamWriter::MoveData(uint64_t new_reserve) {
  constexpr uint64_t kPiece = uint64_t{4} << 20;
  std::vector<std::byte> piece(std::min(kPiece, data_bytes_));
  for (uint64_t left = data_bytes_; left > 0;) {
    const uint64_t count = std::min(kPiece, left);
    left -= count;
    const std::span<std::byte> bytes(piece.data(), count);
    RETURN_IF_ERROR(file_->ReadAt(8 + reserve_ + left, bytes));
    RETURN_IF_ERROR(file_->WriteAt(8 + new_reserve + left, bytes));
  }
  reserve_ = new_reserve;
  return absl::OkStatus();
}

// The order in which the Rust crate lays tensors out: wide types first, so that all stay aligned.
int SerializationRank(DType dtype) {
  constexpr DType kOrder[] = {
      DType::kBool,       DType::kU8,  DType::kI8,  DType::kF8E5M2, DType::kF8E4M3, DType::kF8E8M0,
      DType::kF8E4M3FNUZ, DType::kI16, DType::kU16, DType::kF16,    DType::kBF16,   DType::kI32,
      DType::kU32,        DType::kF32, DType::kF64, DType::kI64,    DType::kU64};
  return static_cast<int>(std::find(std::begin(kOrder), std::end(kOrder), dtype) -
                          std::begin(kOrder));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    std::unique_ptr<OutputFile> file, uint64_t header_reserve) {
  auto writer = std::make_unique<StreamWriter>(std::move(file),
                                               std::min(header_reserve, kMaxHeaderBytes - 64));
  RETURN_IF_ERROR(writer->Start());
  return writer;
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Continue(
    std::unique_ptr<OutputFile> file, uint64_t header_reserve, std::vector<TensorInfo> written) {
  auto writer = std::make_unique<StreamWriter>(std::move(file),
                                               std::min(header_reserve, kMaxHeaderBytes - 64));
  RETURN_IF_ERROR(writer->Continue(std::move(written)));
  return writer;
}

uint64_t SafetensorsDataOffset(uint64_t header_reserve) {
  return 8 + PaddedHeader(std::min(header_reserve, kMaxHeaderBytes - 64));
}

absl::StatusOr<std::vector<std::byte>> SerializeSafetensors(
    const std::vector<std::pair<std::string, Tensor>>& tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<const std::pair<std::string, Tensor>*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    const int rank_a = SerializationRank(a->second.dtype);
    const int rank_b = SerializationRank(b->second.dtype);
    return rank_a != rank_b ? rank_a > rank_b : a->first < b->first;
  });
  std::vector<TensorInfo> infos;
  uint64_t data_bytes = 0;
  for (const auto* entry : order) {
    const Tensor& tensor = entry->second;
    if (!infos.empty() && infos.back().name == entry->first) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(entry->first), " appears twice"));
    }
    const uint64_t end = data_bytes + tensor.bytes.size();
    infos.push_back({entry->first, tensor.dtype, tensor.shape, data_bytes, end});
    data_bytes = end;
  }
  ASSIGN_OR_RETURN(std::string json, HeaderJson(infos, metadata));
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const uint64_t length = json.size();
  std::vector<std::byte> bytes(8 + length + data_bytes);
  std::memcpy(bytes.data(), &length, 8);
  std::memcpy(bytes.data() + 8, json.data(), length);
  std::byte* at = bytes.data() + 8 + length;
  for (const auto* entry : order) {
    at = std::copy(entry->second.bytes.begin(), entry->second.bytes.end(), at);
  }
  return bytes;
}

}  // namespace quantd
