#include "models/parameters.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <span>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"

namespace quantd {
namespace {

std::string Quoted(absl::string_view name) {
  return absl::StrCat("tensor \"", absl::Utf8SafeCEscape(name.substr(0, 200)), "\"");
}

absl::Status CheckOne(const ParameterSpec& expected, const SourceParameter& found) {
  if (found.shape != expected.shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(expected.name), " has shape ", ToString(found.shape), ", expected ",
                     ToString(expected.shape), " from the model's configuration"));
  }
  if (found.is_quantized) return absl::OkStatus();
  const std::optional<DType> dtype = DTypeFromSafetensors(found.stored_as);
  if (dtype && !InfoOf(*dtype).is_float) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(expected.name), " has dtype ",
                                                   found.stored_as,
                                                   ", expected a floating point dtype"));
  }
  return absl::OkStatus();
}

// Index of the first NaN or infinity among `count` elements, or -1.
int64_t FirstNonFinite(const TensorView& view, int64_t first, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  LoadFloats(view, first, count, values.data());
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  return bad == values.end() ? -1 : first + (bad - values.begin());
}

absl::Status NonFiniteError(absl::string_view name, absl::string_view what, int64_t index) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(name), " has a NaN or infinite ", what,
                                                 " at index ", index,
                                                 ": expected finite numbers; the file is damaged"));
}

absl::Status CheckFinite(absl::string_view name, const Tensor& tensor) {
  constexpr int64_t kSlice = 1 << 16;
  const TensorView view = tensor.view();
  const int64_t elements = view.elements();
  std::atomic<int64_t> bad{std::numeric_limits<int64_t>::max()};
  ParallelFor((elements + kSlice - 1) / kSlice, [&](int64_t slice) {
    const int64_t first = slice * kSlice;
    const int64_t index = FirstNonFinite(view, first, std::min(kSlice, elements - first));
    if (index < 0) return;
    int64_t seen = bad.load();
    while (index < seen && !bad.compare_exchange_weak(seen, index)) {
    }
  });
  if (bad == std::numeric_limits<int64_t>::max()) return absl::OkStatus();
  return NonFiniteError(name, "value", bad);
}

absl::Status CheckFinite(absl::string_view name, absl::string_view what,
                         std::span<const float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return NonFiniteError(name, what, static_cast<int64_t>(i));
  }
  return absl::OkStatus();
}

absl::Status CheckFinite(absl::string_view name, const QuantizedTensor& tensor) {
  RETURN_IF_ERROR(CheckFinite(name, "block scale", tensor.scale));
  RETURN_IF_ERROR(CheckFinite(name, "zero point", tensor.zero_point));
  RETURN_IF_ERROR(CheckFinite(name, "block offset", tensor.offset));
  RETURN_IF_ERROR(CheckFinite(name, "channel scale", tensor.input.channel_scale));
  RETURN_IF_ERROR(CheckFinite(name, "outlier", tensor.outliers.value));
  const float post_scale[] = {tensor.post_scale};
  RETURN_IF_ERROR(CheckFinite(name, "scale", post_scale));
  // The float8 grid spells NaN as a code of its own.
  if (!tensor.grid.is_e4m3) return CheckFinite(name, "grid value", tensor.grid.table);
  const auto is_nan = [](uint8_t code) { return (code & 0x7f) == 0x7f; };
  const auto bad = std::find_if(tensor.codes.begin(), tensor.codes.end(), is_nan);
  if (bad == tensor.codes.end()) return absl::OkStatus();
  return NonFiniteError(name, "value", bad - tensor.codes.begin());
}

}  // namespace

absl::Status CheckParameters(const ModelSource& source, const ParameterList& expected) {
  std::map<std::string, const SourceParameter*, std::less<>> found;
  for (const SourceParameter& parameter : source.parameters()) {
    found.emplace(parameter.name, &parameter);
  }
  for (const ParameterSpec& spec : expected.used) {
    const auto it = found.find(spec.name);
    if (it == found.end()) {
      if (spec.optional) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(spec.name), " is missing: expected shape ", ToString(spec.shape)));
    }
    RETURN_IF_ERROR(CheckOne(spec, *it->second));
    found.erase(it);
  }
  for (const auto& [name, parameter] : found) {
    const auto ignores = [&name = name](const std::string& part) {
      return absl::StrContains(name, part);
    };
    if (std::any_of(expected.ignored.begin(), expected.ignored.end(), ignores)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(name), " of shape ", ToString(parameter->shape),
                     " is not part of this architecture as configured; expected no such tensor"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Weight> ReadMatrix(const ModelSource& source, absl::string_view name, int64_t rows,
                                  int64_t cols) {
  ASSIGN_OR_RETURN(Weight weight, source.Read(name));
  if (RowsOf(weight) != rows || ColsOf(weight) != cols) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(name), " has shape ",
                                                   ToString({RowsOf(weight), ColsOf(weight)}),
                                                   ", expected ", ToString({rows, cols})));
  }
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) {
    if (absl::Status status = Validate(*quantized); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(name), ": ", status.message()));
    }
    RETURN_IF_ERROR(CheckFinite(name, *quantized));
    return weight;
  }
  const Tensor& tensor = std::get<Tensor>(weight);
  if (!InfoOf(tensor.dtype).is_float) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(name), " has dtype ",
                                                   InfoOf(tensor.dtype).safetensors_name,
                                                   ", expected a floating point dtype"));
  }
  RETURN_IF_ERROR(CheckFinite(name, tensor));
  return weight;
}

absl::StatusOr<std::vector<float>> ReadVector(const ModelSource& source, absl::string_view name,
                                              int64_t size) {
  ASSIGN_OR_RETURN(const Weight weight, source.Read(name));
  const Tensor* tensor = std::get_if<Tensor>(&weight);
  if (tensor == nullptr || !InfoOf(tensor->dtype).is_float || NumElements(tensor->shape) != size) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(name), " is not a floating point vector of ", size, " elements"));
  }
  RETURN_IF_ERROR(CheckFinite(name, *tensor));
  std::vector<float> values(static_cast<size_t>(size));
  LoadFloats(tensor->view(), 0, size, values.data());
  return values;
}

}  // namespace quantd
