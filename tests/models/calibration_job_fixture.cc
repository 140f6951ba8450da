#include "tests/models/calibration_job_fixture.h"

#include <cmath>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "models/calibration/block_model.h"
#include "tests/quantizers/same_report.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

// compressed-tensors' rounding after every column has moved by how its inputs go with their
// neighbour's: bytes show what the statistics were.
class FittedScheme final : public Scheme {
 public:
  explicit FittedScheme(const Scheme& inner) : inner_(inner) {}
  std::string Describe() const override { return absl::StrCat("fitted ", inner_.Describe()); }
  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    return inner_.CheckShape(rows, cols);
  }
  InputNeeds Needs() const override { return {.gram = true}; }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    if (stats->stopped()) return absl::CancelledError("stopped");
    const int64_t rows = weight.shape[0], cols = weight.shape[1];
    if (stats->gram.size() != static_cast<size_t>(cols * cols)) {
      return absl::InternalError("no gram matrix");
    }
    std::vector<float> values(static_cast<size_t>(rows * cols));
    LoadFloats(weight, 0, rows * cols, values.data());
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t c = i % cols, next = (c + 1) % cols;
      const float* gram = stats->gram.data();
      values[i] += 0.01f * gram[c * cols + next] /
                   std::sqrt(gram[c * cols + c] * gram[next * cols + next] + 1e-20f);
    }
    stats->Warn(absl::StrCat("seen ", stats->tokens, " tokens"));
    return inner_.Quantize(
        ConvertTensor(TensorOf<float>(DType::kF32, weight.shape, std::span<const float>(values)),
                      weight.dtype),
        nullptr);
  }

 private:
  const Scheme& inner_;
};

}  // namespace

FittedRecipe::FittedRecipe(CalibrationSpec spec, const BlockSolver* solver)
    : spec_(spec),
      solver_(solver),
      inner_(*MakeRecipe("compressed-tensors", {{"scheme", "W8A16"}})) {}

const Scheme* FittedRecipe::SchemeFor(const ModuleInfo& module, const ModelConfig& config) const {
  const Scheme* scheme = inner_->SchemeFor(module, config);
  if (scheme == nullptr || solver_ != nullptr) return scheme;
  auto& made = made_[scheme];
  if (made == nullptr) made = std::make_unique<FittedScheme>(*scheme);
  return made.get();
}

namespace fs = std::filesystem;

void CalibrationJobTest::SetUp() {
  path_ =
      fs::path(testing::TempDir()) /
      (std::string("calibration-") + testing::UnitTest::GetInstance()->current_test_info()->name());
  fs::remove_all(path_);
  fs::create_directories(path_ / "tiny");
  const fs::path golden = TestData("golden/tiny-llama");
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::copy_file(golden / name, path_ / "tiny" / name);
  }
  root_ = *ModelRoot::Open(path_.string());
  // A team whose threads wait for each other crawls where tests share few CPUs.
  SetComputeThreads(1);
}

void CalibrationJobTest::TearDown() {
  SetComputeThreads(0);
  fs::remove_all(path_);
}

CalibrationData CalibrationJobTest::Data(const std::string& identity) {
  CalibrationData data;
  data.model = *OpenBlockModel(
      *OpenModelSource(root_, "tiny"),
      {.positions = 40, .stopped = [this] { return control_.cancel || control_.drain; }});
  data.identity = identity;
  data.warnings = {"a note"};
  data.sequences = [this]() -> absl::StatusOr<TokenSequences> {
    ++asked_;
    TokenSequences sequences;
    for (int s = 0; s < 5; ++s) {
      sequences.emplace_back();
      for (int i = 0; i < 40 - s; ++i) sequences.back().push_back((s * 77 + i * i * 13) % 512);
    }
    return sequences;
  };
  return data;
}

absl::StatusOr<QuantizeReport> CalibrationJobTest::Quantize(const std::string& name, bool resume,
                                                            const CalibrationSpec& spec,
                                                            const BlockSolver* solver) {
  return Quantize(name, FittedRecipe(spec, solver), resume);
}

absl::StatusOr<QuantizeReport> CalibrationJobTest::Quantize(const std::string& name,
                                                            const Recipe& recipe, bool resume) {
  const CalibrationData data = Data();
  return QuantizeCheckpoint(root_, "tiny", recipe, {.name = name, .resume = resume}, control_,
                            &data);
}

void CalibrationJobTest::ExpectInterruptionsLeaveNoTrace(const Recipe& recipe, int first,
                                                         int step) {
  const auto uninterrupted = Quantize("whole", recipe);
  ASSERT_TRUE(uninterrupted.ok()) << uninterrupted.status();
  const Files whole = Read("whole");
  bool finished = false;
  for (int after = first; !finished; after += step) {
    SCOPED_TRACE(after);
    const std::string name = absl::StrCat("parts-", after);
    int calls = 0;
    control_.on_progress = [&](const QuantizeProgress&) {
      if (++calls == after) control_.drain = true;
    };
    auto report = Quantize(name, recipe);
    control_.drain = false;
    control_.on_progress = nullptr;
    finished = report.ok();
    if (!finished) {
      ASSERT_TRUE(absl::IsAborted(report.status())) << report.status();
      report = Quantize(name, recipe, /*resume=*/true);
      ASSERT_TRUE(report.ok()) << report.status();
    }
    EXPECT_EQ(Read(name), whole);
    ExpectSameReport(*report, *uninterrupted);
  }
}

Files CalibrationJobTest::Read(const std::string& name) const {
  Files files;
  for (const auto& entry : fs::recursive_directory_iterator(path_ / name)) {
    std::ifstream stream(entry.path(), std::ios::binary);
    files[entry.path().filename()] = std::string(std::istreambuf_iterator<char>(stream), {});
  }
  return files;
}

size_t CalibrationJobTest::Entries() const {
  return static_cast<size_t>(std::distance(fs::directory_iterator(path_), {}));
}

}  // namespace quantd
