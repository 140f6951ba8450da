// Texts of config.json for tests of what is read from it.
#ifndef QUANTD_TESTS_FORMATS_CONFIG_TEXT_H_
#define QUANTD_TESTS_FORMATS_CONFIG_TEXT_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "formats/model_config.h"

namespace quantd {

inline const std::map<std::string, std::string>& LlamaKeys() {
  static const std::map<std::string, std::string> keys = {
      {"architectures", R"(["LlamaForCausalLM"])"},
      {"model_type", R"("llama")"},
      {"vocab_size", "512"},
      {"hidden_size", "256"},
      {"intermediate_size", "512"},
      {"num_hidden_layers", "2"},
      {"num_attention_heads", "4"},
      {"num_key_value_heads", "2"},
      {"max_position_embeddings", "512"},
      {"rms_norm_eps", "1e-05"},
      {"rope_theta", "10000.0"},
      {"hidden_act", R"("silu")"},
      {"bos_token_id", "1"},
      {"eos_token_id", "2"},
  };
  return keys;
}

// The Llama config with keys replaced; an empty value removes the key.
inline std::string Llama(const std::map<std::string, std::string>& changes) {
  auto keys = LlamaKeys();
  for (const auto& [key, value] : changes) keys[key] = value;
  std::string json = "{";
  for (const auto& [key, value] : keys) {
    if (!value.empty()) absl::StrAppend(&json, json.size() > 1 ? "," : "", "\"", key, "\":", value);
  }
  return json + "}";
}

inline void ExpectRefused(const std::string& json, absl::StatusCode code,
                          const std::string& message) {
  const absl::Status status = ParseHfConfig(json).status();
  EXPECT_EQ(status.code(), code) << status << " for " << json.substr(0, 300);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(message));
  EXPECT_LT(status.message().size(), 800u);
}

}  // namespace quantd

#endif  // QUANTD_TESTS_FORMATS_CONFIG_TEXT_H_
