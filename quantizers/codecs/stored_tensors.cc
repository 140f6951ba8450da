#include "quantizers/codecs/stored_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/float_types.h"
#include "core/parallel.h"

namespace quantd {
namespace {

constexpr absl::string_view kKept = "tensor:";
constexpr int64_t kMaxElements = int64_t{1} << 40;

std::string Described(DType dtype, const Shape& shape) {
  return absl::StrCat(InfoOf(dtype).safetensors_name, " ", ToString(shape));
}

std::string NamesOf(std::initializer_list<DType> dtypes) {
  return absl::StrJoin(dtypes, " or ", [](std::string* out, DType dtype) {
    absl::StrAppend(out, InfoOf(dtype).safetensors_name);
  });
}

}  // namespace

std::string TensorPath(const ModuleTensors& tensors, absl::string_view local_name) {
  const std::string path = absl::StrCat(tensors.module(), ".", local_name);
  return absl::Utf8SafeCEscape(absl::string_view(path).substr(0, 200));
}

absl::Status TensorError(const ModuleTensors& tensors, absl::string_view local_name,
                         absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat(TensorPath(tensors, local_name), ": ", problem));
}

absl::StatusOr<Tensor> ReadTensor(const ModuleTensors& tensors, absl::string_view local_name,
                                  std::initializer_list<DType> dtypes,
                                  const std::optional<Shape>& shape) {
  if (!tensors.Has(local_name)) {
    return TensorError(tensors, local_name,
                       "the tensor is missing; the quantized weight cannot be read without it");
  }
  ASSIGN_OR_RETURN(const TensorView view, tensors.Describe(local_name));
  const bool dtype_fits = std::find(dtypes.begin(), dtypes.end(), view.dtype) != dtypes.end();
  if (!dtype_fits || (shape && view.shape != *shape)) {
    return TensorError(
        tensors, local_name,
        absl::StrCat("found ", Described(view.dtype, view.shape), ", expected ", NamesOf(dtypes),
                     " ", shape ? ToString(*shape) : "of any shape"));
  }
  return tensors.Read(local_name);
}

absl::StatusOr<std::vector<float>> ReadFiniteFloats(const ModuleTensors& tensors,
                                                    absl::string_view local_name,
                                                    std::initializer_list<DType> dtypes,
                                                    const std::optional<Shape>& shape) {
  ASSIGN_OR_RETURN(const Tensor tensor, ReadTensor(tensors, local_name, dtypes, shape));
  std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
  LoadFloats(tensor, 0, static_cast<int64_t>(values.size()), values.data());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return TensorError(tensors, local_name,
                         absl::StrCat("element ", i, " is not a finite number"));
    }
  }
  return values;
}

absl::Status CheckMatrixShape(const ModuleTensors& tensors, absl::string_view local_name,
                              const Shape& shape) {
  if (shape.size() == 2 && shape[0] > 0 && shape[1] > 0 && shape[0] <= kMaxElements / shape[1]) {
    return absl::OkStatus();
  }
  return TensorError(tensors, local_name,
                     absl::StrCat("found the shape ", ToString(shape),
                                  ", expected a matrix [out, in] of 1 to 2^40 elements"));
}

absl::StatusOr<Shape> ReadMatrixShape(const ModuleTensors& tensors, absl::string_view local_name) {
  if (!tensors.Has(local_name)) return TensorError(tensors, local_name, "the tensor is missing");
  ASSIGN_OR_RETURN(const TensorView view, tensors.Describe(local_name));
  RETURN_IF_ERROR(CheckMatrixShape(tensors, local_name, view.shape));
  return view.shape;
}

Tensor CodeTensor(DType dtype, Shape shape, std::span<const uint8_t> codes, int first) {
  constexpr int64_t kTask = 1 << 16;
  constexpr double kSecondsPerTask = 10e-6;  // about
  Tensor tensor{dtype, std::move(shape), std::vector<std::byte>(codes.size())};
  const auto count = static_cast<int64_t>(codes.size());
  const auto copy = [&](int64_t task) {
    const int64_t end = std::min(count, (task + 1) * kTask);
    for (int64_t i = task * kTask; i < end; ++i) {
      tensor.bytes[i] = static_cast<std::byte>(codes[i] + first);
    }
  };
  ParallelFor((count + kTask - 1) / kTask, copy, kSecondsPerTask);
  return tensor;
}

Tensor FloatTensor(DType dtype, Shape shape, const std::vector<float>& values) {
  Tensor tensor = MakeTensor(dtype, std::move(shape));
  StoreFloats(dtype, values.data(), static_cast<int64_t>(values.size()), tensor.bytes.data());
  return tensor;
}

void KeepTensor(absl::string_view local_name, const Tensor& tensor,
                std::map<std::string, std::string>* attributes) {
  const absl::string_view bytes(reinterpret_cast<const char*>(tensor.bytes.data()),
                                tensor.bytes.size());
  (*attributes)[absl::StrCat(kKept, local_name)] =
      absl::StrCat(InfoOf(tensor.dtype).safetensors_name, ";", absl::StrJoin(tensor.shape, ","),
                   ";", absl::BytesToHexString(bytes));
}

std::vector<NamedTensor> KeptTensors(const std::map<std::string, std::string>& attributes) {
  std::vector<NamedTensor> kept;
  for (const auto& [key, text] : attributes) {
    if (!absl::StartsWith(key, kKept)) continue;
    const std::vector<std::string> parts = absl::StrSplit(text, ';');
    if (parts.size() != 3) continue;
    Tensor tensor;
    tensor.dtype = DTypeFromSafetensors(parts[0]).value_or(DType::kU8);
    for (absl::string_view size : absl::StrSplit(parts[1], ',', absl::SkipEmpty())) {
      int64_t dimension = 0;
      if (absl::SimpleAtoi(size, &dimension)) tensor.shape.push_back(dimension);
    }
    const std::string bytes = absl::HexStringToBytes(parts[2]);
    tensor.bytes.resize(bytes.size());
    if (!bytes.empty()) std::memcpy(tensor.bytes.data(), bytes.data(), bytes.size());
    kept.push_back({key.substr(kKept.size()), std::move(tensor)});
  }
  return kept;
}

std::string Attribute(const QuantizedTensor& tensor, absl::string_view key) {
  const auto it = tensor.attributes.find(std::string(key));
  return it == tensor.attributes.end() ? "" : it->second;
}

absl::StatusOr<std::string> RequireAttribute(const QuantizedTensor& tensor, absl::string_view key,
                                             absl::string_view codec) {
  std::string value = Attribute(tensor, key);
  if (!value.empty()) return value;
  return absl::InvalidArgumentError(
      absl::StrCat("a matrix that was not quantized for ", codec,
                   " cannot be written in its format (no attribute \"", key, "\")"));
}

}  // namespace quantd
