#include "models/chat/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

std::string ReadData(const std::string& name) {
  std::ifstream file(TestData("chat/" + name), std::ios::binary);
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

// What is cheap to write down and expensive to do: searching, comparing, copying, nesting.
TEST(ChatTemplateTest, WorkOnLargeValuesIsCounted) {
  const std::string large = "{% set s = 'a' * 3000000 %}{% set t = 'a' * 2999999 + 'b' %}";
  const auto looped = [](absl::string_view body) {
    return absl::StrCat("{% for i in range(90000) %}{% if ", body, " %}{% endif %}{% endfor %}");
  };
  std::string map = "{% set m = {";
  for (int i = 0; i < 2000; ++i) absl::StrAppend(&map, i, ":0,");
  std::string maps = "{{ 'a' | map('map'";
  for (int i = 0; i < 50; ++i) maps += ",'map'";
  for (const std::string& bomb :
       {large + looped("s[:1500000] in s[1:]"), large + looped("s == t"), large + looped("s < t"),
        large + looped("[s, t] | sort"), large + looped("messages[0][s]"),
        large + looped("s | length"), large + looped("s is lower"), large + looped("s.strip(t)"),
        large + looped("s | trim(t)"), large + looped("s.replace(t, '')"),
        large + looped("s.find(t)"), "{% set l = range(90000) | list %}" + looped("l.count(-1)"),
        "{% set l = range(90000) | map('string') | list %}" + looped("'y'.endswith(l)"),
        map + "} %}", maps + ") | list }}",
        std::string("{{ ('\na' * 9000) | indent('b' * 100000) }}"),
        std::string("{{ ('&' * 20000000) | escape }}"),
        std::string("{% set ns = namespace(l=range(90000) | list) %}{% for i in range(60) %}"
                    "{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson(indent=16) }}"),
        // A method holds what it is bound to.
        std::string("{% set ns = namespace(l=[]) %}{% for i in range(90000) %}"
                    "{% set ns.l = [ns.l.index] %}{% endfor %}")}) {
    EXPECT_EQ(Render(bomb).status().code(), absl::StatusCode::kResourceExhausted)
        << bomb.substr(0, 200) << " " << Render(bomb).status();
  }
}

TEST(ChatTemplateTest, NamespacesStayOutOfLists) {
  for (const char* text : {"{% set ns = namespace(x=1) %}{% set ns.x = [ns] %}",
                           "{% set ns = namespace(x=1) %}{% set ns.x = {'a': ns} %}",
                           "{% set ns = namespace(x=1) %}"
                           "{% set ns.x = [missing] | map('default', ns) | list %}"}) {
    EXPECT_EQ(Render(text).status().code(), absl::StatusCode::kUnimplemented) << text;
  }
}

TEST(ChatTemplateTest, TextIsTakenApartByCharacters) {
  for (const auto& [expression, expected] : std::vector<std::pair<const char*, const char*>>{
           {"'a\u00e9\u4e2dz'[1]", "\u00e9"},
           {"'a\u00e9\u4e2dz'[-2]", "\u4e2d"},
           {"'a\u00e9\u4e2dz'[9]", ""},
           {"'a\u00e9\u4e2dz'[1:3]", "\u00e9\u4e2d"},
           {"'a\u00e9\u4e2dz'[:-1]", "a\u00e9\u4e2d"},
           {"'a\u00e9\u4e2dz'[3:1]", ""},
           {"'a\u00e9\u4e2dz'[::-1]", "z\u4e2d\u00e9a"},
           {"'a\u00e9\u4e2dz'[::2]", "a\u4e2d"},
           {"''[0:1]", ""},
           {"'  a  b c '.split() | join('|')", "a|b|c"},
           {"'  a  b c '.split(none, 1) | join('|')", "a|b c "},
           {"' '.split() | length", "0"}}) {
    const auto text = Render(absl::StrCat("{{ ", expression, " }}"));
    ASSERT_TRUE(text.ok()) << expression << ": " << text.status();
    EXPECT_EQ(*text, expected) << expression;
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
