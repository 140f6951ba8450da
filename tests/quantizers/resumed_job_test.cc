// Jobs that stop in the middle and go on: bytes and reports as of uninterrupted ones.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/parameter_record.h"
#include "tests/quantizers/pipeline_fixture.h"
#include "tests/quantizers/same_report.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

using Files = std::map<std::string, std::string>;

class ResumedJobTest : public PipelineTest {
 protected:
  using Options = std::map<std::string, std::string>;

  // Starts a job that stops after `tensors` parameters of this run.
  void Drain(const std::string& method, const Options& options, const OutputOptions& output,
             int64_t tensors) {
    control_.on_progress = [this, tensors](const QuantizeProgress& progress) {
      if (progress.tensors_done == tensors) control_.drain = true;
    };
    const auto stopped = Quantize(method, options, output);
    ASSERT_EQ(stopped.status().code(), absl::StatusCode::kAborted) << stopped.status();
    control_.drain = false;
    control_.on_progress = nullptr;
  }
  std::string Journal(const std::string& output) const {
    std::ifstream stream(JournalPath(output), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  // The journal's lines, each through `edit`.
  void EditJournal(const std::string& output, const std::function<void(std::string&)>& edit) {
    std::istringstream lines(Journal(output));
    std::ofstream out(JournalPath(output), std::ios::binary);
    for (std::string line; std::getline(lines, line);) {
      edit(line);
      out << line << "\n";
    }
  }

 private:
  fs::path JournalPath(const std::string& output) const {
    return path_ / absl::StrCat(".", output, ".partial") / "journal";
  }
};

TEST_F(ResumedJobTest, FoldersAreTheSame) {
  Poison(std::numeric_limits<float>::infinity());
  const auto whole = Quantize("bitsandbytes", kNf4, {.name = "whole", .zero_nonfinite = true});
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_EQ(whole->warnings.size(), 1u);
  for (const int64_t tensors : {7, 11}) {  // the warning comes after the resume, and before
    const std::string name = absl::StrCat("parts-", tensors);
    Drain("bitsandbytes", kNf4, {.name = name, .zero_nonfinite = true}, tensors);
    // Stopped again: what the second run knows of the first goes on to the third.
    Drain("bitsandbytes", kNf4, {.name = name, .resume = true, .zero_nonfinite = true},
          tensors + 2);
    const auto resumed =
        Quantize("bitsandbytes", kNf4, {.name = name, .resume = true, .zero_nonfinite = true});
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(Read(name), Read("whole"));
    ExpectSameReport(*resumed, *whole);
  }
}

TEST_F(ResumedJobTest, AnotherRecipeDoesNotGoOn) {
  Drain("bitsandbytes", kNf4, {.name = "parts"}, 7);
  EXPECT_EQ(Quantize("bitsandbytes", {{"load_in_4bit", "true"}, {"bnb_4bit_quant_type", "fp4"}},
                     {.name = "parts", .resume = true})
                .status()
                .code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Quantize("bitsandbytes", kNf4, {.name = "parts", .resume = true}).ok());
}

TEST_F(ResumedJobTest, GgufFilesAreTheSame) {
  const Options q4 = {{"type", "Q4_0"}};
  const auto whole = Quantize("gguf", q4, {.name = "whole.gguf"});
  ASSERT_TRUE(whole.ok()) << whole.status();
  Drain("gguf", q4, {.name = "parts.gguf"}, 4);
  Drain("gguf", q4, {.name = "parts.gguf", .resume = true}, 9);
  const auto resumed = Quantize("gguf", q4, {.name = "parts.gguf", .resume = true});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(Read("parts.gguf")["parts.gguf"], Read("whole.gguf")["whole.gguf"]);
  ExpectSameReport(*resumed, *whole);
}

// Blocks that are copied count as kept, before a resume and after.
TEST_F(ResumedJobTest, CopiedBlocksAreReportedAsKept) {
  ASSERT_TRUE(Quantize("gguf", {{"type", "Q4_0"}}, {.name = "source.gguf"}).ok());
  const auto recipe = *MakeRecipe("gguf", {{"type", "Q4_0"}});
  const auto quantize = [&](const std::string& name, bool resume) {
    return QuantizeCheckpoint(root_, "source.gguf", *recipe, {.name = name, .resume = resume},
                              control_);
  };
  const auto whole = quantize("whole.gguf", false);
  ASSERT_TRUE(whole.ok()) << whole.status();
  control_.on_progress = [this](const QuantizeProgress& progress) {
    if (progress.tensors_done == 8) control_.drain = true;
  };
  ASSERT_FALSE(quantize("parts.gguf", false).ok());
  control_.drain = false;
  control_.on_progress = nullptr;
  const auto resumed = quantize("parts.gguf", true);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  ExpectSameReport(*resumed, *whole);
}

// As versions wrote them that kept bytes only.
TEST_F(ResumedJobTest, JournalsWithoutReportsGoOn) {
  const auto cut_folder = [](std::string& line) {
    const size_t note = line.find(",\"note\":\"");
    ASSERT_TRUE(note != std::string::npos || line.find("fingerprint") != std::string::npos) << line;
    if (note == std::string::npos) return;
    line.erase(note, line.find(",\"tensors\"") - note);
  };
  const auto cut_gguf = [](std::string& line) {
    line.resize(std::min(line.size(), line.find('\t')));
  };
  struct Case {
    std::string method;
    Options options;
    std::string suffix;
    std::function<void(std::string&)> cut;
  };
  for (const Case& c : {Case{"bitsandbytes", kNf4, "", cut_folder},
                        Case{"gguf", {{"type", "Q4_0"}}, ".gguf", cut_gguf}}) {
    const std::string whole_name = "whole" + c.suffix, name = "old" + c.suffix;
    const auto whole = Quantize(c.method, c.options, {.name = whole_name});
    ASSERT_TRUE(whole.ok()) << whole.status();
    Drain(c.method, c.options, {.name = name}, 6);
    EditJournal(name, c.cut);
    const auto resumed = Quantize(c.method, c.options, {.name = name, .resume = true});
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    EXPECT_EQ(resumed->layers.size(), whole->layers.size() - 6);
    EXPECT_GT(resumed->mean_relative_error, 0);
    ASSERT_EQ(resumed->warnings.size(), whole->warnings.size() + 1);
    EXPECT_TRUE(absl::StartsWith(resumed->warnings.back(), "6 tensors were written before"))
        << resumed->warnings.back();
    Files found = Read(name), expected = Read(whole_name);
    if (!c.suffix.empty()) std::swap(found[whole_name], found[name]), found.erase(name);
    EXPECT_EQ(found, expected);
  }
}

// A report that the disk has damaged is not believed; the matrix itself is.
TEST_F(ResumedJobTest, DamagedReportsAreLeftOut) {
  const auto whole = Quantize("gguf", {{"type", "Q4_0"}}, {.name = "whole.gguf"});
  ASSERT_TRUE(whole.ok()) << whole.status();
  Drain("gguf", {{"type", "Q4_0"}}, {.name = "parts.gguf"}, 6);
  int lines = 0;
  EditJournal("parts.gguf", [&lines](std::string& line) {
    if (++lines == 4) line.back() ^= 1;
  });
  const auto resumed = Quantize("gguf", {{"type", "Q4_0"}}, {.name = "parts.gguf", .resume = true});
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->layers.size(), whole->layers.size() - 1);
  EXPECT_TRUE(absl::StartsWith(resumed->warnings.back(), "1 tensors were"));
}

TEST(ParameterRecord, HoldsAnyTextAndEveryBit) {
  const ParameterRecord record = {{.name = "w",
                                   .scheme = "a|b\n\"c\"\\ \xc3\xa9|4",
                                   .rows = int64_t{1} << 40,
                                   .cols = 3,
                                   .bits_per_weight = 4.1,
                                   .relative_error = 0.1 + 0.2,
                                   .output_error = -1,
                                   .rounding_error = 5e-324},
                                  {"first|f0", "", "\t\x01"}};
  const std::string text = RecordText(record);
  for (const char c : text) EXPECT_TRUE(c >= ' ' && c <= '~') << text;
  const auto read = ParseRecord("w", text);
  ASSERT_TRUE(read.has_value()) << text;
  EXPECT_EQ(read->warnings, record.warnings);
  QuantizeReport left, right;
  left.layers = {record.layer};
  right.layers = {read->layer};
  ExpectSameReport(right, left);
  EXPECT_FALSE(ParseRecord("v", text).has_value());
  EXPECT_FALSE(ParseRecord("w", "").has_value());
  for (size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] ^= 1;
    EXPECT_FALSE(ParseRecord("w", damaged).has_value()) << damaged;
    EXPECT_FALSE(ParseRecord("w", text.substr(0, i)).has_value()) << i;
  }
}

}  // namespace
}  // namespace quantd
