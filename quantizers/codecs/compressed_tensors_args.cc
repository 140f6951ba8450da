#include "quantizers/codecs/compressed_tensors_args.h"

#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"

namespace quantd {
namespace {

constexpr int64_t kMaxGroup = int64_t{1} << 24;

constexpr std::array<std::pair<CtStrategy, absl::string_view>, 7> kStrategies = {{
    {CtStrategy::kTensor, "tensor"},
    {CtStrategy::kChannel, "channel"},
    {CtStrategy::kGroup, "group"},
    {CtStrategy::kTensorGroup, "tensor_group"},
    {CtStrategy::kBlock, "block"},
    {CtStrategy::kToken, "token"},
    {CtStrategy::kAttentionHead, "attn_head"},
}};

bool IsGrouped(CtStrategy strategy) {
  return strategy == CtStrategy::kGroup || strategy == CtStrategy::kTensorGroup;
}

absl::Status ReadStrategy(ConfigFields& fields, CtArgs* args) {
  const bool has_size = fields.Has("group_size");
  ASSIGN_OR_RETURN(const int64_t size, fields.Int("group_size", 0, -1, kMaxGroup));
  if (has_size && size == 0) return fields.Wrong("group_size", "-1 or a positive integer");
  ASSIGN_OR_RETURN(const std::string name, fields.String("strategy", ""));
  if (name.empty()) {
    args->strategy = !has_size    ? CtStrategy::kTensor
                     : size == -1 ? CtStrategy::kChannel
                                  : CtStrategy::kGroup;
  } else {
    const std::string lower = absl::AsciiStrToLower(name);
    const auto* found = kStrategies.begin();
    while (found != kStrategies.end() && found->second != lower) ++found;
    if (found == kStrategies.end()) {
      return fields.Wrong("strategy",
                          "tensor, channel, group, tensor_group, block, token or attn_head");
    }
    args->strategy = found->first;
  }
  if (IsGrouped(args->strategy) && size <= 0) {
    return fields.Wrong("group_size", "a positive integer, as the group strategy needs it");
  }
  if (!IsGrouped(args->strategy) && size > 0) {
    return fields.Wrong("group_size", "null or -1 with a strategy other than group");
  }
  args->group_size = size;
  return absl::OkStatus();
}

absl::Status ReadBlock(ConfigFields& fields, CtArgs* args) {
  constexpr absl::string_view kExpected = "[rows, columns], both positive";
  const bool is_block = args->strategy == CtStrategy::kBlock;
  if (fields.Has("block_structure") != is_block) {
    return fields.Wrong("block_structure",
                        is_block ? kExpected : "nothing, as the strategy is not block");
  }
  if (!is_block) return absl::OkStatus();
  std::vector<int64_t> sizes;
  const nlohmann::json& value = fields.Raw("block_structure");
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    for (absl::string_view part : absl::StrSplit(text, 'x')) {
      sizes.push_back(0);
      if (!absl::SimpleAtoi(part, &sizes.back())) sizes.back() = 0;
    }
  } else if (value.is_array()) {
    for (const nlohmann::json& item : value) {
      const bool fits = item.is_number_unsigned() && item.get<uint64_t>() <= kMaxGroup;
      sizes.push_back(fits ? static_cast<int64_t>(item.get<uint64_t>()) : 0);
    }
  }
  for (const int64_t size : sizes) {
    if (size <= 0 || size > kMaxGroup) return fields.Wrong("block_structure", kExpected);
  }
  if (sizes.size() != 2) return fields.Wrong("block_structure", kExpected);
  args->block_rows = sizes[0];
  args->block_cols = sizes[1];
  return absl::OkStatus();
}

// `dynamic` and `actorder` are a bool or a word.
absl::Status ReadWords(ConfigFields& fields, CtArgs* args) {
  const nlohmann::json& dynamic = fields.Raw("dynamic");
  if (!dynamic.is_null() && !dynamic.is_boolean() && dynamic != "local") {
    return fields.Wrong("dynamic", "true, false or \"local\"");
  }
  args->is_static = dynamic != true;
  args->is_local = dynamic == "local";
  const nlohmann::json& order = fields.Raw("actorder");
  if (order == true || order == "group" || order == "dynamic") {
    args->is_grouped_by_activation = true;
  } else if (!order.is_null() && order != false && order != "weight" && order != "static") {
    return fields.Wrong("actorder", "\"weight\", \"static\", \"group\" or null");
  }
  return absl::OkStatus();
}

absl::Status ReadObserver(ConfigFields& fields, CtArgs* args) {
  ASSIGN_OR_RETURN(const std::string observer, fields.String("observer", ""));
  args->observer = absl::AsciiStrToLower(observer);
  if (!fields.Has("observer_kwargs")) return absl::OkStatus();
  ASSIGN_OR_RETURN(ConfigFields options,
                   ConfigFields::Of(fields.Raw("observer_kwargs"), fields.Path("observer_kwargs")));
  ASSIGN_OR_RETURN(args->averaging_constant, options.Float("averaging_constant", 0.01));
  if (args->averaging_constant > 0 && args->averaging_constant <= 1) return absl::OkStatus();
  return options.Wrong("averaging_constant", "a number above 0 and up to 1");
}

// As model_dump() writes it: what is unset of the lower half is left out.
std::string Serialized(ConfigFields& fields, const CtArgs& args) {
  nlohmann::json json = {
      {"dynamic", fields.Has("dynamic") ? fields.Raw("dynamic") : nlohmann::json(false)},
      {"group_size", fields.Raw("group_size")},
      {"num_bits", args.num_bits},
      {"strategy", std::string(NameOf(args.strategy))},
      {"symmetric", args.symmetric},
      {"type", args.is_float ? "float" : "int"},
  };
  if (args.strategy == CtStrategy::kBlock) {
    json["block_structure"] = {args.block_rows, args.block_cols};
  }
  if (!args.scale_dtype.empty()) json["scale_dtype"] = "torch." + args.scale_dtype;
  if (fields.Has("zp_dtype") && !args.symmetric) json["zp_dtype"] = fields.Raw("zp_dtype");
  for (const char* key : {"actorder", "observer", "observer_kwargs"}) {
    if (fields.Has(key) && !fields.Raw(key).empty()) json[key] = fields.Raw(key);
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

bool IsMicroscaling(const CtArgs& args) {
  return args.is_float && args.group_size == kMxGroup &&
         (args.num_bits < 8 || args.scale_dtype == "uint8");
}

}  // namespace

absl::string_view NameOf(CtStrategy strategy) {
  return kStrategies[static_cast<size_t>(strategy)].second;
}

BlockShape CtArgs::block() const {
  switch (strategy) {
    case CtStrategy::kTensor:
      return {.rows = 0, .cols = 0};
    case CtStrategy::kGroup:
    case CtStrategy::kTensorGroup:
      return {.rows = 1, .cols = group_size};
    case CtStrategy::kBlock:
      return {.rows = block_rows, .cols = block_cols};
    default:
      return {.rows = 1, .cols = 0};
  }
}

absl::StatusOr<CtArgs> ParseCtArgs(const nlohmann::json& value, const std::string& where) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(value, where));
  CtArgs args;
  ASSIGN_OR_RETURN(args.num_bits, fields.Int("num_bits", 8, 1, 16));
  ASSIGN_OR_RETURN(const std::string type, fields.String("type", "int"));
  const std::string lower = absl::AsciiStrToLower(type);
  if (lower != "int" && lower != "float") return fields.Wrong("type", "\"int\" or \"float\"");
  args.is_float = lower == "float";
  ASSIGN_OR_RETURN(args.symmetric, fields.Bool("symmetric", true));
  RETURN_IF_ERROR(ReadStrategy(fields, &args));
  RETURN_IF_ERROR(ReadBlock(fields, &args));
  RETURN_IF_ERROR(ReadWords(fields, &args));
  RETURN_IF_ERROR(ReadObserver(fields, &args));
  ASSIGN_OR_RETURN(const std::string scale, fields.String("scale_dtype", ""));
  args.scale_dtype = std::string(absl::StripPrefix(scale, "torch."));
  args.json = Serialized(fields, args);
  RETURN_IF_ERROR(fields.RefuseUnknown());
  return args;
}

absl::Status CheckCtWeights(const CtArgs& args, const std::string& where) {
  const auto refuse = [&](absl::string_view key, absl::string_view problem) {
    return absl::InvalidArgumentError(absl::StrCat(where, ".", key, ": ", problem));
  };
  if (args.strategy == CtStrategy::kToken || args.strategy == CtStrategy::kAttentionHead) {
    return refuse("strategy", absl::StrCat("found ", NameOf(args.strategy),
                                           ", expected tensor, channel, group, tensor_group or "
                                           "block for weights"));
  }
  if (!args.is_static) return refuse("dynamic", "found true, expected false for weights");
  if (!args.is_float) {
    if (args.num_bits <= 8) return absl::OkStatus();
    return refuse("num_bits", absl::StrCat("found ", args.num_bits, ", expected 1 to 8"));
  }
  if (args.num_bits != 4 && args.num_bits != 6 && args.num_bits != 8) {
    return refuse("num_bits",
                  absl::StrCat("found ", args.num_bits, ", expected 4, 6 or 8 for float weights"));
  }
  if (!args.symmetric) return refuse("symmetric", "found false, expected true for float weights");
  const bool nvfp4 = args.num_bits == 4 && args.group_size == kNvfp4Group;
  if (args.num_bits == 8 || nvfp4 || IsMicroscaling(args)) return absl::OkStatus();
  return refuse("group_size", absl::StrCat("found ", args.group_size, ", expected ",
                                           args.num_bits == 4 ? "16 or 32" : "32", " for ",
                                           args.num_bits, "-bit float weights"));
}

CtFormat InferCtFormat(const CtArgs& weights, bool has_input_activations) {
  if (IsMicroscaling(weights)) {
    return weights.num_bits == 4   ? CtFormat::kMxfp4Pack
           : weights.num_bits == 6 ? CtFormat::kMxfp6Pack
                                   : CtFormat::kMxfp8;
  }
  if (weights.is_float && weights.num_bits == 4) return CtFormat::kNvfp4Pack;
  if (!weights.is_float) {
    return has_input_activations ? CtFormat::kIntQuantized : CtFormat::kPackQuantized;
  }
  return has_input_activations ? CtFormat::kFloatQuantized : CtFormat::kNaiveQuantized;
}

absl::Status CheckCtFormat(CtFormat format, const CtArgs& args, const std::string& where) {
  const CtFormat natural = InferCtFormat(args, false);
  bool fits = format == natural;
  switch (format) {
    case CtFormat::kPackQuantized:
      fits = !args.is_float && args.strategy != CtStrategy::kBlock;
      break;
    case CtFormat::kIntQuantized:
      fits = !args.is_float;
      break;
    case CtFormat::kFloatQuantized:
    case CtFormat::kNaiveQuantized:
      fits = natural == CtFormat::kNaiveQuantized ||
             (format == CtFormat::kNaiveQuantized && !args.is_float);
      break;
    default:
      break;
  }
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, ".format: ", NameOf(format), " cannot hold ", args.num_bits, "-bit ",
                   args.is_float ? "float" : "int", " weights of strategy ", NameOf(args.strategy),
                   "; leave `format` out to let it be inferred"));
}

}  // namespace quantd
