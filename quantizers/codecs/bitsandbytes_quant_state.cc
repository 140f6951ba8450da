#include "quantizers/codecs/bitsandbytes_quant_state.h"

#include <charconv>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"

namespace quantd {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 31;

absl::Status ReadShape(ConfigFields& fields, Shape* shape) {
  if (!fields.Has("shape")) return fields.Wrong("shape", "[out, in]");
  for (const nlohmann::json& item : fields.Raw("shape")) {
    const bool fits = item.is_number_unsigned() && item.get<uint64_t>() > 0 &&
                      item.get<uint64_t>() < static_cast<uint64_t>(kMaxDimension);
    if (!fits || shape->size() == 2) return fields.Wrong("shape", "[out, in], both positive");
    shape->push_back(static_cast<int64_t>(item.get<uint64_t>()));
  }
  return shape->size() == 2 ? absl::OkStatus() : fields.Wrong("shape", "[out, in]");
}

absl::Status ReadNested(ConfigFields& fields, BnbQuantState* state) {
  state->is_nested = fields.Has("nested_blocksize") || fields.Has("nested_offset");
  ASSIGN_OR_RETURN(state->nested_blocksize,
                   fields.Int("nested_blocksize", 256, 1, int64_t{1} << 20));
  ASSIGN_OR_RETURN(const std::string dtype, fields.String("nested_dtype", "float32"));
  if (dtype != "float32") return fields.Wrong("nested_dtype", "\"float32\"");
  if (state->is_nested && !fields.Has("nested_offset")) {
    return fields.Wrong("nested_offset", "a number");
  }
  ASSIGN_OR_RETURN(const double offset, fields.Float("nested_offset", 0));
  state->nested_offset = static_cast<float>(offset);
  if (!std::isfinite(state->nested_offset)) {
    return fields.Wrong("nested_offset", "a finite float32");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BnbQuantState> ParseBnbQuantState(const std::string& json, const std::string& path) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseStrictJsonObject(json, path));
  ConfigFields fields(document, path);
  BnbQuantState state;
  ASSIGN_OR_RETURN(state.quant_type, fields.String("quant_type", ""));
  if (state.quant_type != "nf4" && state.quant_type != "fp4") {
    return fields.Wrong("quant_type", "\"nf4\" or \"fp4\"");
  }
  ASSIGN_OR_RETURN(state.blocksize, fields.Int("blocksize", 0, 32, 4096));
  if (state.blocksize == 0 || (state.blocksize & (state.blocksize - 1)) != 0) {
    return fields.Wrong("blocksize", "a power of two from 32 to 4096");
  }
  ASSIGN_OR_RETURN(const std::string dtype, fields.String("dtype", ""));
  const auto found = DTypeFromTorch(dtype);
  if (found != DType::kF32 && found != DType::kF16 && found != DType::kBF16) {
    return fields.Wrong("dtype", "\"float32\", \"float16\" or \"bfloat16\"");
  }
  state.dtype = *found;
  RETURN_IF_ERROR(ReadShape(fields, &state.shape));
  RETURN_IF_ERROR(ReadNested(fields, &state));
  RETURN_IF_ERROR(fields.RefuseUnknown());
  return state;
}

std::string WriteBnbQuantState(const BnbQuantState& state) {
  std::string json =
      absl::StrCat("{\"quant_type\": \"", state.quant_type, "\", \"blocksize\": ", state.blocksize,
                   ", \"dtype\": \"", InfoOf(state.dtype).torch_name, "\", \"shape\": [",
                   absl::StrJoin(state.shape, ", "), "]");
  if (state.is_nested) {
    absl::StrAppend(
        &json, ", \"nested_blocksize\": ", state.nested_blocksize,
        ", \"nested_dtype\": \"float32\", \"nested_offset\": ", PythonRepr(state.nested_offset));
  }
  return json + "}";
}

std::string PythonRepr(double value) {
  // The shortest digits that round-trip, as d[.ddd]e[+-]xx; Python writes them plainly when the
  // decimal point lies within (-4, 16] digits.
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const absl::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  const size_t e = text.find('e');
  int exponent = 0;
  absl::string_view exponent_text = text.substr(e + 1);
  if (e == absl::string_view::npos || !absl::SimpleAtoi(exponent_text, &exponent)) {
    return std::string(text);  // inf, nan
  }
  const bool negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  const int point = exponent + 1;  // digits before the decimal point
  std::string body;
  if (point > 16 || point < -3) {
    body = digits.substr(0, 1);
    if (digits.size() > 1) absl::StrAppend(&body, ".", digits.substr(1));
    absl::StrAppend(&body, "e", exponent < 0 ? "-" : "+", std::abs(exponent) < 10 ? "0" : "",
                    std::abs(exponent));
  } else if (point <= 0) {
    body = absl::StrCat("0.", std::string(static_cast<size_t>(-point), '0'), digits);
  } else if (static_cast<size_t>(point) >= digits.size()) {
    body = absl::StrCat(digits, std::string(point - digits.size(), '0'), ".0");
  } else {
    body = absl::StrCat(digits.substr(0, point), ".", digits.substr(point));
  }
  return negative ? "-" + body : body;
}

}  // namespace quantd
