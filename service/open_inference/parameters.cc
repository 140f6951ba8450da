#include "service/open_inference/parameters.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "service/status.h"

namespace quantd {
namespace {

using inference::InferParameter;
using Value = std::variant<bool, int64_t, uint64_t, double, std::string>;

absl::Status KindError(absl::string_view key, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("parameter \"", Shown(key), "\" must be ", expected));
}

std::optional<Value> ValueOf(const InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return Value(parameter.bool_param());
    case InferParameter::kInt64Param:
      return Value(parameter.int64_param());
    case InferParameter::kUint64Param:
      return Value(parameter.uint64_param());
    case InferParameter::kDoubleParam:
      return Value(parameter.double_param());
    case InferParameter::kStringParam:
      return Value(parameter.string_param());
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      return std::nullopt;
  }
  return std::nullopt;
}

absl::StatusOr<double> Number(absl::string_view key, const Value& value) {
  if (const auto* number = std::get_if<double>(&value)) return *number;
  if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* integer = std::get_if<uint64_t>(&value)) return static_cast<double>(*integer);
  double parsed;
  if (const auto* text = std::get_if<std::string>(&value);
      text != nullptr && absl::SimpleAtod(*text, &parsed)) {
    return parsed;
  }
  return KindError(key, "a number");
}

absl::StatusOr<int64_t> Integer(absl::string_view key, const Value& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) return *integer;
  int64_t parsed;
  if (const auto* text = std::get_if<std::string>(&value);
      text != nullptr && absl::SimpleAtoi(*text, &parsed)) {
    return parsed;
  }
  if (const auto* integer = std::get_if<uint64_t>(&value);
      integer != nullptr && *integer <= static_cast<uint64_t>(INT64_MAX)) {
    return static_cast<int64_t>(*integer);
  }
  // JSON knows only doubles.
  if (const auto* number = std::get_if<double>(&value);
      number != nullptr && *number == std::floor(*number) && std::fabs(*number) < 9e15) {
    return static_cast<int64_t>(*number);
  }
  return KindError(key, "an integer");
}

absl::StatusOr<int32_t> SmallInteger(absl::string_view key, const Value& value) {
  ASSIGN_OR_RETURN(const int64_t integer, Integer(key, value));
  if (integer < INT32_MIN || integer > INT32_MAX) {
    return KindError(key, "a 32-bit integer");
  }
  return static_cast<int32_t>(integer);
}

absl::StatusOr<uint64_t> Seed(absl::string_view key, const Value& value) {
  if (const auto* seed = std::get_if<uint64_t>(&value)) return *seed;
  ASSIGN_OR_RETURN(const int64_t integer, Integer(key, value));
  return static_cast<uint64_t>(integer);
}

absl::Status SetFloat(absl::string_view key, const Value& value, float& out) {
  ASSIGN_OR_RETURN(const double number, Number(key, value));
  out = static_cast<float>(number);
  return absl::OkStatus();
}

// False when the key is not one of ours.
absl::StatusOr<bool> Apply(absl::string_view key, const Value& value, GenerationOptions& options) {
  SamplingOptions& sampling = options.sampling;
  if (key == "max_tokens") {
    ASSIGN_OR_RETURN(options.max_tokens, SmallInteger(key, value));
  } else if (key == "top_k") {
    ASSIGN_OR_RETURN(sampling.top_k, SmallInteger(key, value));
  } else if (key == "seed") {
    ASSIGN_OR_RETURN(sampling.seed, Seed(key, value));
  } else if (key == "temperature") {
    RETURN_IF_ERROR(SetFloat(key, value, sampling.temperature));
  } else if (key == "top_p") {
    RETURN_IF_ERROR(SetFloat(key, value, sampling.top_p));
  } else if (key == "min_p") {
    RETURN_IF_ERROR(SetFloat(key, value, sampling.min_p));
  } else if (key == "repetition_penalty") {
    RETURN_IF_ERROR(SetFloat(key, value, sampling.repetition_penalty));
  } else if (key == "stop") {
    if (!std::holds_alternative<std::string>(value)) return KindError(key, "a string");
    options.stop.push_back(std::get<std::string>(value));
  } else if (key == "ignore_eos") {
    if (!std::holds_alternative<bool>(value)) return KindError(key, "a boolean");
    options.ignore_eos = std::get<bool>(value);
  } else {
    return false;
  }
  return true;
}

// Keys that the protocol's clients set for the server, not for the model.
bool IsReserved(absl::string_view key) {
  for (const absl::string_view reserved :
       {"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers",
        "binary_data_output", "stream"}) {
    if (key == reserved) return true;
  }
  return absl::StartsWith(key, "triton_");
}

absl::Status UnknownKey(absl::string_view key) {
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown parameter \"", Shown(key),
      "\"; known are max_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed, stop, "
      "ignore_eos"));
}

}  // namespace

absl::Status ApplyParameters(const InferParameters& parameters, GenerationOptions& options) {
  for (const auto& [key, parameter] : parameters) {
    if (IsReserved(key)) {
      continue;
    }
    const std::optional<Value> value = ValueOf(parameter);
    if (!value.has_value()) {
      return KindError(key, "set");
    }
    ASSIGN_OR_RETURN(const bool known, Apply(key, *value, options));
    if (!known) {
      return UnknownKey(key);
    }
  }
  return absl::OkStatus();
}

absl::Status ApplyJsonParameters(const std::string& json, GenerationOptions& options) {
  google::protobuf::Struct parsed;
  if (json.size() > (64 << 10) ||
      !google::protobuf::util::JsonStringToMessage(json, &parsed).ok()) {
    return absl::InvalidArgumentError(
        "input \"sampling_parameters\": expected a JSON object of at most 64 KiB");
  }
  for (const auto& [key, field] : parsed.fields()) {
    std::vector<Value> values;
    const auto add = [&values](const google::protobuf::Value& value) {
      if (value.kind_case() == google::protobuf::Value::kNumberValue) {
        values.emplace_back(value.number_value());
      } else if (value.kind_case() == google::protobuf::Value::kStringValue) {
        values.emplace_back(value.string_value());
      } else if (value.kind_case() == google::protobuf::Value::kBoolValue) {
        values.emplace_back(value.bool_value());
      } else {
        return false;
      }
      return true;
    };
    bool scalar = true;
    if (field.has_list_value() && key == "stop") {
      for (const google::protobuf::Value& value : field.list_value().values()) {
        scalar = add(value) && scalar;
      }
    } else if (field.kind_case() == google::protobuf::Value::kNullValue) {
      continue;
    } else {
      scalar = add(field);
    }
    if (!scalar) {
      return KindError(key, "a number, string or boolean");
    }
    for (const Value& value : values) {
      ASSIGN_OR_RETURN(const bool known, Apply(key, value, options));
      if (!known && !IsReserved(key)) {
        return UnknownKey(key);
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> BoolParameter(const InferParameters& parameters, const std::string& key) {
  const auto it = parameters.find(key);
  if (it == parameters.end()) {
    return false;
  }
  if (it->second.parameter_choice_case() != InferParameter::kBoolParam) {
    return KindError(key, "a boolean");
  }
  return it->second.bool_param();
}

}  // namespace quantd
