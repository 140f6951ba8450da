#include "quantizers/codecs/gguf/importance_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/gguf/gguf.h"

namespace quantd {
namespace {

constexpr size_t kLegacyLimit = size_t{1} << 30;
constexpr absl::string_view kSums = ".in_sum2";
constexpr absl::string_view kCounts = ".counts";

std::string Shown(absl::string_view name) {
  return absl::StrCat("\"", absl::Utf8SafeCEscape(name.substr(0, 200)), "\"");
}

absl::Status CheckSums(absl::string_view name, std::span<const float> sums) {
  const auto bad =
      std::find_if(sums.begin(), sums.end(), [](float v) { return !std::isfinite(v) || v < 0; });
  if (bad == sums.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("importance of ", Shown(name), ": column ", bad - sums.begin(), " is ", *bad,
                   "; expected a finite sum of squares; compute the matrix again"));
}

// Integers, texts and floats of a .dat file, one after the other.
class LegacyReader {
 public:
  explicit LegacyReader(absl::string_view bytes) : bytes_(bytes) {}
  bool done() const { return bytes_.empty(); }

  absl::StatusOr<int32_t> Int(absl::string_view what) {
    int32_t value;
    RETURN_IF_ERROR(Take(what, sizeof(value), &value));
    return value;
  }
  absl::StatusOr<std::string> Text(absl::string_view what) {
    ASSIGN_OR_RETURN(const int32_t length, Int(what));
    RETURN_IF_ERROR(CheckCount(what, length, 1));
    std::string text(static_cast<size_t>(length), '\0');
    RETURN_IF_ERROR(Take(what, text.size(), text.data()));
    return text;
  }
  absl::StatusOr<std::vector<float>> Floats(absl::string_view what, int32_t count) {
    RETURN_IF_ERROR(CheckCount(what, count, sizeof(float)));
    std::vector<float> values(static_cast<size_t>(count));
    RETURN_IF_ERROR(Take(what, values.size() * sizeof(float), values.data()));
    return values;
  }

 private:
  // Before anything is allocated by a number of the file.
  absl::Status CheckCount(absl::string_view what, int32_t count, size_t size) const {
    if (count >= 0 && static_cast<size_t>(count) <= bytes_.size() / size) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("no importance matrix: ", what, " announces ",
                                                   count, " of ", size, " bytes, ", bytes_.size(),
                                                   " bytes are left"));
  }
  absl::Status Take(absl::string_view what, size_t size, void* out) {
    if (size > bytes_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("no importance matrix: it ends within ", what));
    }
    if (size > 0) std::memcpy(out, bytes_.data(), size);
    bytes_.remove_prefix(size);
    return absl::OkStatus();
  }

  absl::string_view bytes_;
};

absl::StatusOr<std::vector<float>> ReadFloats(const GgufReader& reader,
                                              const GgufTensorInfo& tensor) {
  if (tensor.type != GgmlType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("importance matrix: tensor ", Shown(tensor.name), " must be F32"));
  }
  ASSIGN_OR_RETURN(const std::vector<std::byte> bytes, reader.Read(tensor.name));
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// Sums of several matrices in one tensor (experts) come with a count for each; those without any
// position count as equally important.
absl::Status AddFromGguf(const GgufReader& reader, const GgufTensorInfo& tensor,
                         ImportanceMatrix& matrix) {
  const std::string name(absl::StripSuffix(tensor.name, kSums));
  const GgufTensorInfo* counted = reader.Find(absl::StrCat(name, kCounts));
  if (counted == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("importance matrix: ", Shown(name), " has sums and no counts"));
  }
  ASSIGN_OR_RETURN(std::vector<float> sums, ReadFloats(reader, tensor));
  ASSIGN_OR_RETURN(const std::vector<float> counts, ReadFloats(reader, *counted));
  RETURN_IF_ERROR(CheckSums(name, sums));
  RETURN_IF_ERROR(CheckSums(absl::StrCat(name, kCounts), counts));
  if (counts.empty() || sums.empty() || sums.size() % counts.size() != 0) {
    return absl::InvalidArgumentError(absl::StrCat("importance matrix: ", Shown(name), " has ",
                                                   sums.size(), " sums and ", counts.size(),
                                                   " counts"));
  }
  if (*std::max_element(counts.begin(), counts.end()) > 0x1p62f) {
    return absl::InvalidArgumentError(
        absl::StrCat("importance matrix: the counts of ", Shown(name), " are too large"));
  }
  if (counts.size() == 1 && counts[0] >= 0.5f) {
    matrix.Add(name, std::move(sums), std::llround(counts[0]));
    return absl::OkStatus();
  }
  const size_t width = sums.size() / counts.size();
  for (size_t i = 0; i < sums.size(); ++i) {
    const float count = static_cast<float>(std::llround(counts[i / width]));
    sums[i] = count > 0 ? sums[i] / count : 1.0f;
  }
  matrix.Add(name, std::move(sums), 1);
  return absl::OkStatus();
}

absl::StatusOr<ImportanceMatrix> FromGguf(std::shared_ptr<const File> file) {
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufReader> reader, GgufReader::Open(std::move(file)));
  const GgufMetadata& metadata = reader->header().metadata;
  ImportanceMatrix matrix;
  ASSIGN_OR_RETURN(const GgufArray* datasets,
                   metadata.Array("imatrix.datasets", GgufValueType::kString));
  ASSIGN_OR_RETURN(const auto chunks, metadata.Integer("imatrix.chunk_count"));
  ASSIGN_OR_RETURN(const auto chunk_size, metadata.Integer("imatrix.chunk_size"));
  if (datasets == nullptr || !chunks || !chunk_size) {
    return absl::InvalidArgumentError(
        "no importance matrix: imatrix.datasets, imatrix.chunk_count or imatrix.chunk_size is "
        "missing");
  }
  matrix.datasets = datasets->strings;
  matrix.chunks = *chunks;
  matrix.chunk_size = *chunk_size;
  for (const GgufTensorInfo& tensor : reader->header().tensors) {
    if (!absl::EndsWith(tensor.name, kSums)) continue;
    RETURN_IF_ERROR(AddFromGguf(*reader, tensor, matrix));
  }
  RETURN_IF_ERROR(reader->CheckIntact());
  return matrix;
}

void AppendInt(int64_t value, std::string& out) {
  const int32_t narrow =
      static_cast<int32_t>(std::min<int64_t>(value, std::numeric_limits<int32_t>::max()));
  out.append(reinterpret_cast<const char*>(&narrow), sizeof(narrow));
}
void AppendText(absl::string_view text, std::string& out) {
  AppendInt(static_cast<int64_t>(text.size()), out);
  out.append(text.data(), text.size());
}

// The old format counts pieces of the text and has means times that count.
std::string LegacyBytes(const ImportanceMatrix& matrix) {
  std::string out;
  AppendInt(static_cast<int64_t>(matrix.entries().size()), out);
  const int64_t chunk = std::max<int64_t>(1, matrix.chunk_size);
  for (const auto& [name, entry] : matrix.entries()) {
    AppendText(name, out);
    const int64_t calls = (entry.count + chunk - 1) / chunk;
    AppendInt(calls, out);
    AppendInt(static_cast<int64_t>(entry.means.size()), out);
    for (size_t c = 0; c < entry.means.size(); ++c) {
      // Numbers that came from such a file go back unrounded.
      const float value =
          calls == entry.count ? entry.sums[c] : entry.means[c] * static_cast<float>(calls);
      out.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
  }
  AppendInt(matrix.chunks, out);
  AppendText(matrix.datasets.empty() ? "" : matrix.datasets.back(), out);
  return out;
}

absl::Status WriteGguf(const ImportanceMatrix& matrix, std::unique_ptr<OutputFile> file) {
  GgufMetadata metadata;
  metadata.SetString("general.type", "imatrix");
  metadata.SetStrings("imatrix.datasets", matrix.datasets);
  metadata.SetU32("imatrix.chunk_count", static_cast<uint32_t>(matrix.chunks));
  metadata.SetU32("imatrix.chunk_size", static_cast<uint32_t>(matrix.chunk_size));
  std::vector<GgufTensorInfo> tensors;
  for (const auto& [name, entry] : matrix.entries()) {
    tensors.push_back(
        {.name = absl::StrCat(name, kSums), .shape = {static_cast<int64_t>(entry.sums.size())}});
    tensors.push_back({.name = absl::StrCat(name, kCounts), .shape = {1}});
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<GgufWriter> writer,
                   GgufWriter::Create(std::move(file), metadata, std::move(tensors)));
  for (const auto& [name, entry] : matrix.entries()) {
    const float count = static_cast<float>(entry.count);
    RETURN_IF_ERROR(writer->Add(absl::StrCat(name, kSums), std::as_bytes(std::span(entry.sums))));
    RETURN_IF_ERROR(writer->Add(absl::StrCat(name, kCounts), std::as_bytes(std::span(&count, 1))));
  }
  return writer->Finish();
}

}  // namespace

void ImportanceMatrix::Add(std::string gguf_name, std::vector<float> sums, int64_t count) {
  Entry entry{.sums = std::move(sums), .count = count};
  entry.means.reserve(entry.sums.size());
  for (const float sum : entry.sums) entry.means.push_back(sum / static_cast<float>(count));
  entries_.insert_or_assign(std::move(gguf_name), std::move(entry));
}

std::span<const float> ImportanceMatrix::Find(absl::string_view gguf_name) const {
  const auto found = entries_.find(gguf_name);
  return found == entries_.end() ? std::span<const float>() : found->second.means;
}

absl::StatusOr<ImportanceMatrix> ParseLegacyImportanceMatrix(absl::string_view bytes) {
  LegacyReader reader(bytes);
  ImportanceMatrix matrix;
  ASSIGN_OR_RETURN(const int32_t entries, reader.Int("the number of entries"));
  if (entries < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("no importance matrix: it announces ", entries, " entries"));
  }
  for (int32_t i = 0; i < entries; ++i) {
    const std::string what = absl::StrCat("entry ", i);
    ASSIGN_OR_RETURN(std::string name, reader.Text(what));
    ASSIGN_OR_RETURN(const int32_t calls, reader.Int(what));
    ASSIGN_OR_RETURN(const int32_t count, reader.Int(what));
    ASSIGN_OR_RETURN(std::vector<float> sums, reader.Floats(what, count));
    if (sums.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("importance of ", Shown(name), ": the entry has no values"));
    }
    RETURN_IF_ERROR(CheckSums(name, sums));
    matrix.Add(std::move(name), std::move(sums), std::max(1, calls));
  }
  // The rest is optional.
  if (reader.done()) return matrix;
  ASSIGN_OR_RETURN(matrix.chunks, reader.Int("the number of chunks"));
  if (reader.done()) return matrix;
  ASSIGN_OR_RETURN(std::string dataset, reader.Text("the name of the data set"));
  if (!dataset.empty()) matrix.datasets.push_back(std::move(dataset));
  return matrix;
}

absl::StatusOr<ImportanceMatrix> ReadImportanceMatrix(std::shared_ptr<const File> file) {
  char magic[4] = {};
  if (file->size() >= sizeof(magic)) {
    RETURN_IF_ERROR(file->ReadAt(0, sizeof(magic), reinterpret_cast<std::byte*>(magic)));
  }
  const std::string name = file->name();
  absl::StatusOr<ImportanceMatrix> matrix;
  if (absl::string_view(magic, sizeof(magic)) == "GGUF") {
    matrix = FromGguf(std::move(file));
  } else {
    ASSIGN_OR_RETURN(const std::string bytes, file->ReadAll(kLegacyLimit));
    matrix = ParseLegacyImportanceMatrix(bytes);
  }
  if (matrix.ok() && matrix->entries().empty()) {
    matrix = absl::InvalidArgumentError("no importance matrix: it has no entries");
  }
  if (!matrix.ok()) {
    return absl::Status(matrix.status().code(),
                        absl::StrCat("'", name, "': ", matrix.status().message()));
  }
  return matrix;
}

absl::Status WriteImportanceMatrix(const ImportanceMatrix& matrix,
                                   std::unique_ptr<OutputFile> file) {
  if (absl::EndsWith(file->name(), ".gguf")) return WriteGguf(matrix, std::move(file));
  const std::string bytes = LegacyBytes(matrix);
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(bytes))));
  return file->Sync();
}

}  // namespace quantd
