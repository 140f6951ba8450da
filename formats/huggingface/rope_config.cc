#include "formats/huggingface/rope_config.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/escaped_name.h"
#include "formats/huggingface/strict_json.h"

namespace quantd {
namespace {

using Json = nlohmann::json;
using Kind = RopeScaling::Kind;

constexpr char kFile[] = "config.json";
constexpr int64_t kMaxOriginalPositions = int64_t{1} << 40;
constexpr int64_t kPhi3OriginalPositions = 4096;  // when the key is missing

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(kFile, ": ", what));
}

absl::Status Positive(absl::string_view key, double value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return Invalid(absl::StrCat(key, " is ", value, ", expected a positive finite number"));
}

bool IsPhi3(const ModelConfig& config) { return config.model_type == "phi3"; }

absl::Status ParsePartialRotary(const JsonFields& fields, ModelConfig* config) {
  constexpr char kKey[] = "partial_rotary_factor";
  ASSIGN_OR_RETURN(const auto factor, fields.OptionalNumber(kKey));
  if (!factor || *factor == 1) return absl::OkStatus();
  if (!IsPhi3(*config)) {
    return absl::UnimplementedError(absl::StrCat(kFile, ": ", kKey, " ", *factor, " of ",
                                                 config->architecture,
                                                 " is not supported, only 1"));
  }
  if (!(*factor > 0 && *factor < 1)) {
    return Invalid(absl::StrCat(kKey, " is ", *factor, ", expected above 0 and at most 1"));
  }
  config->rotary_dim = static_cast<int64_t>(static_cast<double>(config->head_dim) * *factor);
  if (config->rotary_dim < 2 || config->rotary_dim % 2 != 0) {
    return Invalid(absl::StrCat(kKey, " ", *factor, " of head_dim ", config->head_dim, " rotates ",
                                config->rotary_dim,
                                " dimensions, expected an even number (rotary positions pair "
                                "dimensions)"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> Factors(const JsonFields& fields, absl::string_view key,
                                           int64_t count) {
  ASSIGN_OR_RETURN(const Json* array, fields.OptionalArray(key));
  const std::string expected =
      absl::StrCat(count, " positive numbers, one for every pair of rotated dimensions");
  if (array == nullptr) return fields.Wrong(key, expected);
  if (static_cast<int64_t>(array->size()) != count) {
    return Invalid(absl::StrCat(key, " has ", array->size(), " entries, expected ", expected));
  }
  std::vector<float> factors;
  for (const Json& element : *array) {
    const double value = element.is_number() ? element.get<double>() : 0;
    if (!(value > 0 && value < std::numeric_limits<float>::max())) {
      return fields.Wrong(key, expected);
    }
    factors.push_back(static_cast<float>(value));
  }
  return factors;
}

absl::Status ParseLongRope(const JsonFields& rope, const JsonFields& fields, ModelConfig* config) {
  constexpr char kOriginal[] = "original_max_position_embeddings";
  RopeScaling& scaling = config->rope_scaling;
  scaling.kind = Kind::kLongRope;
  const int64_t pairs = config->rotary_dims() / 2;
  ASSIGN_OR_RETURN(scaling.short_factors, Factors(rope, "short_factor", pairs));
  ASSIGN_OR_RETURN(scaling.long_factors, Factors(rope, "long_factor", pairs));
  ASSIGN_OR_RETURN(auto original, fields.OptionalInteger(kOriginal, 2, kMaxOriginalPositions));
  if (!original) {
    ASSIGN_OR_RETURN(original, rope.OptionalInteger(kOriginal, 2, kMaxOriginalPositions));
  }
  scaling.original_max_positions = original.value_or(kPhi3OriginalPositions);
  const auto trained = static_cast<double>(scaling.original_max_positions);
  ASSIGN_OR_RETURN(auto factor, rope.OptionalNumber("factor"));
  if (!factor) {
    // Not config->max_position_embeddings, which is capped.
    ASSIGN_OR_RETURN(const double positions, fields.Number("max_position_embeddings"));
    factor = positions / trained;
  }
  ASSIGN_OR_RETURN(const auto attention_factor, rope.OptionalNumber("attention_factor"));
  scaling.attention_factor =
      attention_factor.value_or(LongRopeAttentionFactor(*factor, scaling.original_max_positions));
  return absl::OkStatus();
}

// `rope`: rope_scaling, or rope_parameters of Transformers 5, which holds rope_theta as well.
absl::Status ParseScaling(const JsonFields& rope, const JsonFields& fields, ModelConfig* config) {
  ASSIGN_OR_RETURN(auto type, rope.OptionalString("rope_type"));
  if (!type) {
    ASSIGN_OR_RETURN(type, rope.OptionalString("type"));
  }
  RopeScaling& scaling = config->rope_scaling;
  if (!type || *type == "default") return absl::OkStatus();
  const bool is_long = *type == "longrope" || *type == "su";  // "su": its name before it had one
  if (IsPhi3(*config) && is_long) return ParseLongRope(rope, fields, config);
  if (IsPhi3(*config) || (*type != "linear" && *type != "llama3")) {
    return absl::UnimplementedError(
        absl::StrCat(kFile, ": rope_type ", Quoted(*type), " of ", config->architecture,
                     " is not supported; supported are ",
                     IsPhi3(*config) ? "default and longrope" : "default, linear and llama3"));
  }
  ASSIGN_OR_RETURN(scaling.factor, rope.Number("factor"));
  scaling.kind = Kind::kLinear;
  if (*type == "linear") return absl::OkStatus();
  scaling.kind = Kind::kLlama3;
  ASSIGN_OR_RETURN(scaling.low_freq_factor, rope.Number("low_freq_factor"));
  ASSIGN_OR_RETURN(scaling.high_freq_factor, rope.Number("high_freq_factor"));
  ASSIGN_OR_RETURN(scaling.original_max_positions,
                   rope.Integer("original_max_position_embeddings", 1, kMaxOriginalPositions));
  return absl::OkStatus();
}

absl::Status CheckLlama3(const RopeScaling& rope) {
  RETURN_IF_ERROR(Positive("low_freq_factor", rope.low_freq_factor));
  RETURN_IF_ERROR(Positive("high_freq_factor", rope.high_freq_factor));
  if (rope.high_freq_factor > rope.low_freq_factor && rope.original_max_positions >= 1) {
    return absl::OkStatus();
  }
  return Invalid(absl::StrCat("high_freq_factor ", rope.high_freq_factor,
                              " is not above low_freq_factor ", rope.low_freq_factor));
}

absl::Status CheckLongRope(const ModelConfig& config) {
  const RopeScaling& rope = config.rope_scaling;
  RETURN_IF_ERROR(Positive("attention_factor", rope.attention_factor));
  const auto pairs = static_cast<size_t>(config.rotary_dims() / 2);
  for (const auto& [key, factors] : {std::pair("short_factor", &rope.short_factors),
                                     std::pair("long_factor", &rope.long_factors)}) {
    if (factors->size() == pairs) continue;
    return Invalid(absl::StrCat(key, " has ", factors->size(), " entries, expected ", pairs,
                                " positive numbers, one for every pair of rotated dimensions"));
  }
  return absl::OkStatus();
}

}  // namespace

double LongRopeAttentionFactor(double factor, int64_t original_max_positions) {
  const double trained = std::log(static_cast<double>(original_max_positions));
  return factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / trained);
}

absl::Status ParseRope(const Json& json, ModelConfig* config) {
  const JsonFields fields(json, kFile);
  ASSIGN_OR_RETURN(const auto theta, fields.OptionalNumber("rope_theta"));
  config->rope_theta = theta.value_or(10000);
  ASSIGN_OR_RETURN(const Json* parameters, fields.OptionalObject("rope_parameters"));
  ASSIGN_OR_RETURN(const Json* scaling, fields.OptionalObject("rope_scaling"));
  if (IsPhi3(*config)) RETURN_IF_ERROR(ParsePartialRotary(fields, config));
  const Json* said = parameters != nullptr ? parameters : scaling;
  if (said == nullptr) return absl::OkStatus();
  const JsonFields rope(
      *said, absl::StrCat(kFile, parameters != nullptr ? ": rope_parameters" : ": rope_scaling"));
  if (parameters != nullptr) {
    ASSIGN_OR_RETURN(const auto inner_theta, rope.OptionalNumber("rope_theta"));
    if (inner_theta) config->rope_theta = *inner_theta;
  }
  RETURN_IF_ERROR(ParsePartialRotary(rope, config));
  return ParseScaling(rope, fields, config);
}

absl::Status CheckRope(const ModelConfig& config) {
  RETURN_IF_ERROR(Positive("rope_theta", config.rope_theta));
  for (const auto& [key, dims] :
       {std::pair("head_dim", config.head_dim), std::pair("rotary_dim", config.rotary_dims())}) {
    if (dims % 2 == 0 && dims <= config.head_dim) continue;
    return Invalid(absl::StrCat(key, " is ", dims,
                                ", expected an even number (rotary positions pair dimensions)"));
  }
  const RopeScaling& rope = config.rope_scaling;
  switch (rope.kind) {
    case Kind::kNone:
      return absl::OkStatus();
    case Kind::kLinear:
      return Positive("rope factor", rope.factor);
    case Kind::kLlama3:
      RETURN_IF_ERROR(Positive("rope factor", rope.factor));
      return CheckLlama3(rope);
    case Kind::kLongRope:
      return CheckLongRope(config);
  }
  return absl::OkStatus();
}

}  // namespace quantd
