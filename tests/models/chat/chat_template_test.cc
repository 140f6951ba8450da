#include "models/chat/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

std::string ReadData(const std::string& name) {
  std::ifstream file(absl::StrCat(QUANTD_TEST_DATA, "/chat/", name), std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

struct Case {
  const char* name;
  std::vector<ChatMessage> messages;
  bool add_generation_prompt;
};

// As in make_expected.py.
const Case kCases[] = {
    {"one", {{"user", "Hi there"}}, true},
    {"system",
     {{"system", " Be brief. "},
      {"user", "What is 2+2?\n"},
      {"assistant", " 4 "},
      {"user", "\u4f60\u597d \U0001f44d"}},
     true},
    {"closed", {{"user", "a"}, {"assistant", "<think>\nhm\n</think>\n\nb"}}, false},
};

class FamilyTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyTest, EqualsJinja2) {
  for (const Case& one : kCases) {
    const auto text = RenderChat(ReadData(GetParam() + ".jinja"), one.messages,
                                 one.add_generation_prompt, {"<s>", "</s>"});
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, ReadData(absl::StrCat(GetParam(), ".", one.name, ".txt"))) << one.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Templates, FamilyTest,
                         ::testing::Values("chatml", "header", "inst", "thinking", "features"));

absl::StatusOr<std::string> Render(absl::string_view text) {
  return RenderChat(text, {{"user", "hello"}}, true, {"<s>", "</s>"});
}

TEST(ChatTemplateTest, ChatMl) {
  EXPECT_EQ(*RenderChat(kChatMlTemplate, {{"user", "hello"}}, true, {}),
            "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, RaisedExceptionsNameTheReason) {
  const auto text = RenderChat(ReadData("inst.jinja"), {{"assistant", "first"}}, true, {});
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("Roles must alternate"));
}

TEST(ChatTemplateTest, BombsAreBounded) {
  for (const char* bomb : {
           "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
           "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}"
           "{% set ns.s = ns.s + ns.s %}{% endfor %}",
           "{{ 'x' * 9999999999 }}",
           "{% for i in range(1000000000) %}x{% endfor %}",
           "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
           "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ "
           "f(30) }}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% "
           "endfor %}",
           "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
           "{% endfor %}{{ ns.l | string }}",
           "{% set ns = namespace(s='ab') %}{% for i in range(40) %}"
           "{% set ns.s = ns.s.replace('a', ns.s) %}{% endfor %}",
       }) {
    EXPECT_EQ(Render(bomb).status().code(), absl::StatusCode::kResourceExhausted) << bomb;
  }
}

TEST(ChatTemplateTest, MistakesAreInvalidArguments) {
  std::string deep;
  for (int i = 0; i < 30000; ++i) deep += "(";
  std::string blocks;
  for (int i = 0; i < 30000; ++i) blocks += "{% if 1 %}";
  std::string sum = "{{ 1";
  for (int i = 0; i < 30000; ++i) sum += "+1";
  for (const std::string& text :
       {std::string("{{"), std::string("{% if %}"), std::string("{% for x %}"), "{{ " + deep,
        blocks, sum + " }}", std::string("{{ 'open }}"), std::string("{% endif %}"),
        std::string("{{ missing.field }}"), std::string("{{ 1 / 0 }}"),
        std::string("{{ 1 + 'a' }}"), std::string("{{ messages.append(1) }}"),
        std::string("{{ undefined_function() }}"), std::string("{# open"),
        std::string("{{ 9223372036854775807 + 1 }}"), std::string("{{ -(}}"),
        std::string("{{ 'a' < 1 }}"), std::string("{% break %}"), std::string("\xFF")}) {
    EXPECT_EQ(Render(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text.substr(0, 60) << " " << Render(text).status();
  }
  EXPECT_EQ(Render("{% include 'x' %}").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Render("{{ 1 | nofilter }}").status().code(), absl::StatusCode::kUnimplemented);
}

TEST(ChatTemplateTest, AttributeTricksFindNothing) {
  EXPECT_EQ(*Render("{{ messages.__class__ is defined }}"), "False");
  EXPECT_FALSE(Render("{{ messages.__class__() }}").ok());
  EXPECT_FALSE(Render("{{ ''.__class__.__mro__ | list }}").ok());
}

}  // namespace
}  // namespace quantd
