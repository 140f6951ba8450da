// Chat templates from anybody: parse and render within the limits.
#include <cstdlib>

#include "models/chat/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto rendered = quantd::RenderChat(
      text, {{"system", "Be brief."}, {"user", "Hi \u4e2d"}, {"assistant", " ok "}}, true,
      {"<s>", "</s>"});
  if (rendered.status().code() == absl::StatusCode::kInternal) std::abort();
  return 0;
}
